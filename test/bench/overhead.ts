import { openBare } from './baselines.ts';
import { digitCall } from './calls.ts';
import { differences, type Figure, ratios } from './figure.ts';
import type { Market } from './market.ts';
import { costLine, type Effort, inTurns, median, type Round } from './sides.ts';

/** P1: one row of the shipped net by GraphQL, API key, quota and durable bill, 64 connections, beside a constant. */
export async function manyCallers(market: Market, effort: Effort): Promise<Figure> {
  const [ours, theirs] = await besideBare(market, 64, effort);
  const rate = (rounds: readonly Round[]) => rounds.map(({ perSecond }) => perSecond);
  const said = (rounds: readonly Round[]) =>
    `${median(rate(rounds)).toFixed(0)}/s, p50 ${median(rounds.map(({ p50Ms }) => p50Ms)).toFixed(1)} ms`;
  return {
    id: 'P1',
    what: 'one-row predict, 64 connections : bare Apollo',
    unit: '×',
    ...ratios(rate(ours), rate(theirs)),
    ours: said(ours),
    theirs: said(theirs),
    mark: { least: 0.8 },
    goal: { least: 1.3 },
    notes: [costLine('P1 Mercato', ours), costLine('P1 bare Apollo', theirs)],
  };
}

/** P6: what one caller waits longer than for a constant. */
export async function oneCaller(market: Market, effort: Effort): Promise<Figure> {
  const [ours, theirs] = await besideBare(market, 1, effort);
  const p50 = (rounds: readonly Round[]) => rounds.map(({ p50Ms }) => p50Ms);
  const said = (rounds: readonly Round[]) => `p50 ${median(p50(rounds)).toFixed(2)} ms`;
  return {
    id: 'P6',
    what: 'one caller, p50 added to bare Apollo',
    unit: 'ms',
    ...differences(p50(ours), p50(theirs)),
    ours: said(ours),
    theirs: said(theirs),
    mark: { most: 2.5 },
    goal: { most: 1.2 },
    notes: [costLine('P6 Mercato', ours), costLine('P6 bare Apollo', theirs)],
  };
}

async function besideBare(market: Market, connections: number, effort: Effort): Promise<[Round[], Round[]]> {
  await using bare = await openBare();
  const call = await digitCall('mercato/digits', 1);
  const [ours = [], theirs = []] = await inTurns([market.side(call), bare.side(call)], connections, effort);
  return [ours, theirs];
}
