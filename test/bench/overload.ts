/** R10 of the engine by itself: ten times the load that a version can take, and tenants beside one that makes it. */
import { Dice } from '../fuzz/random.ts';
import { at, type Engine, LOOP, openEngine, pause } from './engine.ts';
import type { Figure } from './figure.ts';
import { type Effort, median } from './sides.ts';

/** A run of one to two milliseconds. */
const TURNS = new Uint8Array(BigInt64Array.of(4_000n).buffer);
const DEADLINE_MS = 200;
const SEED = 10;

type Sent = { answered: number[]; refused: number[]; late: number };

const call = (engine: Engine, tenantKey: string, deadlineMs: number) =>
  engine.inference.run({
    version: engine.version(LOOP, LOOP, { joinable: false }),
    tenantKey,
    priority: 0,
    inputs: [{ name: 'x', datatype: 'INT64', shape: [1], data: TURNS.slice() }],
    outputs: null,
    deadlineMs,
  });

/** Answers a second that callers get who wait for each before they send the next. */
async function peakOf(engine: Engine, seconds: number): Promise<number> {
  let calls = 0;
  const endMs = performance.now() + seconds * 1_000;
  await Promise.all(
    Array.from({ length: 4 }, async () => {
      for (; performance.now() < endMs; calls++) await call(engine, 'a', 30_000);
    }),
  );
  return calls / seconds;
}

/** Calls that come at random (Poisson), whatever becomes of them. */
async function send(engine: Engine, tenantKey: string, perSecond: number, seconds: number): Promise<Sent> {
  const sent: Sent = { answered: [], refused: [], late: 0 };
  const dice = new Dice(SEED + tenantKey.charCodeAt(0));
  const calls: Promise<unknown>[] = [];
  const startedMs = performance.now();
  const gapMs = () => (-Math.log(1 - dice.next()) * 1_000) / perSecond;
  for (let dueMs = 0; dueMs < seconds * 1_000; ) {
    for (const nowMs = performance.now() - startedMs; dueMs <= nowMs; dueMs += gapMs()) {
      const calledMs = performance.now();
      const took = () => performance.now() - calledMs;
      calls.push(
        call(engine, tenantKey, DEADLINE_MS).then(
          () => sent.answered.push(took()),
          (error: { code?: string }) => (error.code === 'OVERLOADED' ? sent.refused.push(took()) : sent.late++),
        ),
      );
    }
    await pause(1);
  }
  await Promise.all(calls);
  return sent;
}

const QUIET = ['b', 'c', 'd'];

/** The 99th percentile of calls of three tenants that send as many each, and those of them that were not answered. */
async function beside(
  engine: Engine,
  perSecond: number,
  otherPerSecond: number,
  seconds: number,
): Promise<{ p99: number; failed: number }> {
  const [, ...quiet] = await Promise.all([
    send(engine, 'a', otherPerSecond, seconds),
    ...QUIET.map((tenantKey) => send(engine, tenantKey, perSecond, seconds)),
  ]);
  const failed = quiet.reduce((sum, { refused, late }) => sum + refused.length + late, 0);
  return {
    p99: at(
      quiet.flatMap(({ answered }) => answered),
      0.99,
    ),
    failed,
  };
}

/** R10 in four figures: what is answered under ten times the peak, how soon the rest is refused, what that costs busy tenants and one alone. */
export async function overload({ rounds, seconds }: Effort): Promise<Figure[]> {
  await using engine = await openEngine({});
  await call(engine, 'a', 30_000);
  const goodput: number[] = [];
  const refusals: number[] = [];
  const busy: { before: number[]; during: number[] } = { before: [], during: [] };
  const alone: { before: number[]; during: number[] } = { before: [], during: [] };
  const notes: string[] = [];
  for (let round = 0; round < rounds; round++) {
    const peak = await peakOf(engine, seconds);
    const { answered, refused, late } = await send(engine, 'a', 10 * peak, seconds);
    goodput.push(answered.length / seconds / peak);
    refusals.push(at(refused, 0.99));
    const before = await beside(engine, peak / 10, peak / 10, 2 * seconds);
    const during = await beside(engine, peak / 10, 10 * peak, 2 * seconds);
    busy.before.push(before.p99);
    busy.during.push(during.p99);
    const lone = await send(engine, 'q', peak / 10, 2 * seconds);
    const [noisy] = await Promise.all([send(engine, 'q', peak / 10, 2 * seconds), send(engine, 'a', 10 * peak, 2 * seconds)]);
    alone.before.push(at(lone.answered, 0.99));
    alone.during.push(at(noisy.answered, 0.99));
    notes.push(
      `R10 peak ${peak.toFixed(0)}/s; of ten times that answered ${answered.length}, refused ${refused.length}, late ${late}; not answered of the three beside it ${during.failed} (${before.failed} before), of the one ${noisy.refused.length + noisy.late}`,
    );
  }
  const common = { theirs: '', mark: null, notes: [] };
  const ms = (values: readonly number[]) => `p99 ${median(values).toFixed(1)} ms`;
  const cost = ({ before, during }: typeof busy) => {
    const costs = during.map((one, round) => one / (before[round] ?? Number.NaN));
    return { unit: '×' as const, rounds: costs, value: median(costs), ours: ms(during), theirs: ms(before), goal: { most: 1.1 } };
  };
  return [
    {
      ...common,
      ...{ id: 'R10', what: 'ten times overload: goodput of the peak', unit: '×', rounds: goodput, value: median(goodput) },
      ours: `${(median(goodput) * 100).toFixed(0)} % of the peak`,
      mark: { least: 0.9 },
      goal: { least: 0.9 },
      notes,
    },
    {
      ...common,
      ...{ id: 'R10', what: 'ten times overload: p99 of a refusal', unit: 'ms', rounds: refusals, value: median(refusals) },
      ours: '',
      mark: { most: 5 },
      goal: { most: 5 },
    },
    {
      ...common,
      id: 'R10',
      what: 'p99 of three tenants, each a tenth of the peak, as a fourth goes from that to ten times the peak',
      ...cost(busy),
    },
    { ...common, id: 'R10', what: 'p99 of one tenant at a tenth of the peak, beside ten times the peak : alone', ...cost(alone) },
  ];
}
