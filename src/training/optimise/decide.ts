import type { Report } from './compare.ts';

/** What an optimised version must keep to be promotable: accuracy, or R², lost at most; times as fast at least. */
export type Rule = { maxAccuracyDrop: number; minSpeedup: number };

export type Decision = { promotable: boolean; reasons: string[] };

/** Accuracy, or R², on the same rows; null: not known. */
export type Metrics = { sourceMetric: number | null; optimisedMetric: number | null };

/** Both metrics and the source's time hold a little noise of rounding, which decides nothing. */
const ROUNDING = 1e-9;

/**
 * Holds the report to the rule, with a reason for each part of it. Speed is the geometric mean over the batch sizes. What is not known is
 * not allowed: no promotion without metrics, unless any drop is, or without times.
 */
export function decide({ latency }: Report, { sourceMetric, optimisedMetric }: Metrics, { maxAccuracyDrop, minSpeedup }: Rule): Decision {
  const speedups = latency.map(({ sourceMs, optimisedMs }) => sourceMs / optimisedMs);
  const speedup = Math.exp(speedups.reduce((sum, one) => sum + Math.log(one), 0) / speedups.length);
  const parts = [accuracy(sourceMetric, optimisedMetric, maxAccuracyDrop), speed(speedup, speedups.length, minSpeedup)];
  return { promotable: parts.every(({ kept }) => kept), reasons: parts.map(({ reason }) => reason) };
}

function accuracy(source: number | null, optimised: number | null, most: number): { kept: boolean; reason: string } {
  if (source === null || optimised === null)
    return { kept: most >= 1, reason: 'The accuracy was not measured: no rows with known answers belong to the source.' };
  const drop = source - optimised;
  const kept = drop <= most + ROUNDING;
  const change = drop > 0 ? `fell by ${percent(drop)}` : `did not fall (${percent(-drop)} more)`;
  return {
    kept,
    reason: `The accuracy ${change}, from ${percent(source)} to ${percent(optimised)}; the rule allows a drop of ${percent(most)}.`,
  };
}

function speed(speedup: number, measured: number, least: number): { kept: boolean; reason: string } {
  if (measured === 0) return { kept: least <= 0, reason: 'The speed was not measured: there were too few rows.' };
  const kept = speedup >= least - ROUNDING;
  return { kept, reason: `It is ${speedup.toFixed(2)} times as fast as its source over the batch sizes; the rule asks for ${least}.` };
}

function percent(share: number): string {
  return `${(100 * share).toFixed(2)} %`;
}
