import { availableParallelism } from 'node:os';
import type { CallResult } from './connection.ts';
import { RunnerLost } from './connection.ts';
import type { DeviceChain, Fallback } from './devices.ts';
import type { SeenOn } from './hardware.ts';
import type { Contents } from './onnx/onnx.ts';
import { type InputRange, randomInputs } from './random-inputs.ts';
import type { Signature, Tensor } from './tensor.ts';

/** One size of a run: the median of its run times, without queue and transport. */
export type Latency = { rows: number; p50Ms: number; rowsPerSecond: number };

/** A device on which a version answered its samples, by the runtime of then. */
export type Answered = SeenOn & { runtime: string };

/**
 * What the gate measured of a version, on this machine and alone. `partlyOnCpu`: its device has no kernel for some of its operators. `devices`: the chain that there
 * was, of which `fallbacks` did not run it, or not as its samples say. `verifiedOn`: which answered them; empty without samples. `loadMs`: until its first run could begin. `peakMemoryBytes`: the
 * most that its process held for itself, with all that was run, `peakOnDevice` of a device, null where nobody tells. `fixedRows`: on that device every run that
 * calls may share has so many rows, since another number costs it more; null: as many as calls bring. `latencies`: by rows, rising; empty where no random input suits the model. `threads`: what runs it best. `runLimitMs`:
 * what a run on a device of this kind may take.
 */
export type Profile = {
  device: string;
  partlyOnCpu: boolean;
  devices: DeviceChain;
  fallbacks: Fallback[];
  verifiedOn: Answered[];
  runtime: string;
  loadMs: number;
  peakMemoryBytes: number;
  peakOnDevice: { device: string; bytes: number } | null;
  fixedRows: { device: string; rows: number } | null;
  threads: number;
  latencies: Latency[];
  runLimitMs: number;
};

type Measured = { latencies: Latency[]; failedRows: number | null; untriedRows: number | null };

/** A loaded runner of the version, as it is measured. */
export type Bench = {
  run(inputs: readonly Tensor[], rows: number): Promise<CallResult>;
  /** The most that its process was seen to hold for itself; 0: it never told. What is asked after its end answers what it told before. */
  peakBytes(): Promise<number>;
  deviceBytes(): Promise<number | null>;
};

/** The whole of a profile takes about this long; a size that would not fit in what is left is not tried. */
const BOX_MS = 4_000;
const RUNS = { min: 3, max: 15, enoughMs: 60 };
/** `share`: of the most rows per second that is near enough. */
const FIX = { turns: 3, noiseMs: 1, share: 0.8 };
const RUN_LIMIT = { leastMs: 2_000, factor: 100, longest: 10 };
/** Their time is in the values of inputs. */
const REPEATING: ReadonlySet<string> = new Set([
  'Loop',
  'Scan',
  'If',
  'SequenceMap',
  'Range',
  'Expand',
  'Tile',
  'ConstantOfShape',
  'Pad',
  'OneHot',
  'Resize',
  'Upsample',
]);
/** More threads are worth their cores where runs are long and get this much faster. */
const THREADS = { max: 4, runMs: 5, gain: 1.5 };

/**
 * Runs a version on zeros and on random rows in rising numbers, up to `maxRows`. A size that the model refuses, or falls over, ends the walk and is
 * `failedRows`; one for which there is no time or memory is `untriedRows`.
 */
export async function measure(signature: Signature, range: InputRange | null, maxRows: number, bench: Bench): Promise<Measured> {
  if (range === null) return { latencies: [], failedRows: null, untriedRows: null };
  const endMs = performance.now() + BOX_MS;
  const latencies: Latency[] = [];
  let failedRows: number | null = null;
  let untriedRows: number | null = null;
  try {
    const zeros = randomInputs(signature, 1, range)?.map((input) => ({ ...input, data: zeroed(input) }));
    if (zeros) await bench.run(zeros, 1).catch(ignoreRefusal);
    for (const rows of sizesOf(signature, maxRows)) {
      const before = latencies.at(-1);
      untriedRows = rows;
      if (before && performance.now() + RUNS.min * 2 * before.p50Ms > endMs) break;
      const inputs = randomInputs(signature, rows, range);
      if (inputs === null) break;
      untriedRows = null;
      failedRows = rows;
      latencies.push(await latencyOf(bench, inputs, rows, endMs));
      failedRows = null;
      // The next size may end its process.
      await bench.peakBytes();
    }
  } catch (error) {
    ignoreRefusal(error);
  }
  return { latencies, failedRows, untriedRows };
}

/**
 * The rows that every run of a version should have; null where runs of any number are as cheap as of the one before. cuDNN plans each convolution anew for another shape: 50 ms for those of
 * ResNet-50, 570 for some numbers of rows, beside 3 to 9 for a run (H200, November 2026). The smallest number that is nearly the fastest by row, where filling a run up to it costs less than
 * a change. Some runs each of two sizes in turns, all of which have to be slow; where one fails, nothing is fixed.
 */
export async function rowsToFix(
  signature: Signature,
  range: InputRange | null,
  latencies: readonly Latency[],
  bench: Bench,
): Promise<number | null> {
  const least = latencies[0];
  const fastest = Math.max(...latencies.map(({ rowsPerSecond }) => rowsPerSecond));
  const fixed = latencies.find(({ rowsPerSecond }) => rowsPerSecond >= FIX.share * fastest);
  if (range === null || !hasEqualRows(signature) || !least || !fixed || least === fixed) return null;
  const turns = Array.from({ length: 2 * FIX.turns }, (_, turn) => (turn % 2 === 0 ? least : fixed));
  try {
    for (const { rows, p50Ms } of turns) {
      const inputs = randomInputs(signature, rows, range);
      if (inputs === null) return null;
      const { computeMs } = await bench.run(inputs, rows);
      if (computeMs - p50Ms <= Math.max(FIX.noiseMs, fixed.p50Ms)) return null;
    }
    return fixed.rows;
  } catch (error) {
    ignoreRefusal(error);
    return null;
  }
}

/** Inputs of one size: of others each size would be planned anew all the same, and a copy of a row could be of any size. */
function hasEqualRows({ inputs }: Signature): boolean {
  return inputs.every(({ datatype, shape }) => datatype !== 'BYTES' && shape.slice(1).every((size) => size >= 0));
}

/** What callers meet where every run has `fixedRows`: that run, whatever they bring. */
export function asFixed(latencies: readonly Latency[], fixedRows: number): Latency[] {
  const p50Ms = latencies.find(({ rows }) => rows === fixedRows)?.p50Ms ?? 0;
  const upTo = latencies.filter(({ rows }) => rows <= fixedRows);
  return upTo.map(({ rows }) => ({ rows, p50Ms, rowsPerSecond: p50Ms > 0 ? (rows / p50Ms) * 1_000 : 0 }));
}

/**
 * The run limit that was asked for, or less where every size of a run was measured, and nothing in the graph repeats as its inputs say: a run takes no 100 times what it took, nor ten times what the
 * first of a size took, which may plan or compile, and 2 s are not reached by a process that others keep from the processor.
 */
export function runLimitOf(
  {
    signature,
    maxBatchRows,
    latencies,
    longestMs,
  }: { signature: Signature; maxBatchRows: number; latencies: readonly Latency[]; longestMs: number },
  { operators }: Pick<Contents, 'operators'>,
  askedMs: number,
): number {
  const largest = latencies.at(-1);
  const isWhole = signature.batchDimension === null ? hasFixedSizes(signature) : hasEqualRows(signature) && largest?.rows === maxBatchRows;
  const repeats = operators.some(({ name }) => REPEATING.has(name));
  if (largest === undefined || !isWhole || repeats) return askedMs;
  return Math.min(
    askedMs,
    Math.max(RUN_LIMIT.leastMs, Math.ceil(RUN_LIMIT.factor * largest.p50Ms), Math.ceil(RUN_LIMIT.longest * longestMs)),
  );
}

const hasFixedSizes = ({ inputs }: Signature) =>
  inputs.every(({ datatype, shape }) => datatype !== 'BYTES' && shape.every((size) => size >= 0));

/** Whether another number of threads is worth trying: the runs are long, and the machine has cores. */
export function threadsToTry(latencies: readonly Latency[]): number | null {
  const threads = Math.min(THREADS.max, availableParallelism());
  return threads > 1 && (latencies.at(-1)?.p50Ms ?? 0) >= THREADS.runMs ? threads : null;
}

/** Whether the largest size of `more` threads is so much faster than of one. */
export function isWorth(one: readonly Latency[], more: readonly Latency[]): boolean {
  const largest = more.at(-1);
  const same = one.find(({ rows }) => rows === largest?.rows);
  return largest !== undefined && same !== undefined && same.p50Ms / largest.p50Ms >= THREADS.gain;
}

async function latencyOf(bench: Bench, inputs: readonly Tensor[], rows: number, endMs: number): Promise<Latency> {
  const times: number[] = [];
  let sumMs = 0;
  const isEnough = () => times.length >= RUNS.min && (times.length === RUNS.max || sumMs >= RUNS.enoughMs);
  while (times.length === 0 || (!isEnough() && performance.now() < endMs)) {
    const { computeMs } = await bench.run(inputs, rows);
    times.push(computeMs);
    sumMs += computeMs;
  }
  const p50Ms = times.toSorted((a, b) => a - b)[Math.floor(times.length / 2)] ?? 0;
  return { rows, p50Ms, rowsPerSecond: p50Ms > 0 ? (rows / p50Ms) * 1_000 : 0 };
}

/** 1, 2, 4 … and `maxRows`; one size where the rows are not a dimension of their own. */
function sizesOf({ batchDimension }: Signature, maxRows: number): number[] {
  if (batchDimension === null) return [1];
  const sizes: number[] = [];
  for (let rows = 1; rows < maxRows; rows *= 2) sizes.push(rows);
  return [...sizes, maxRows];
}

/** Of BYTES, whose zeros are empty strings, 4 bytes of length each. */
function zeroed({ datatype, shape, data }: Tensor): Uint8Array {
  return new Uint8Array(datatype === 'BYTES' ? 4 * shape.reduce((count, size) => count * size, 1) : data.length);
}

/** That a model refuses an input, or falls over it, is no fault of the measurement: it ends. */
function ignoreRefusal(error: unknown): void {
  const isModels = error instanceof RunnerLost || (error instanceof Error && 'code' in error && error.code === 'MODEL_FAILED');
  if (!isModels) throw error;
}
