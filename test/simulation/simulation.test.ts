import { array, assert, asyncProperty, boolean, constantFrom, integer, nat, oneof, record } from 'fast-check';
import { expect, test } from 'vitest';
import { type Schedule, type Step, simulate } from './schedule.ts';

const schedules = record({
  seed: integer(),
  processes: integer({ min: 1, max: 4 }),
  steps: array(
    oneof(
      {
        weight: 12,
        arbitrary: record({
          kind: constantFrom('call' as const),
          afterMs: constantFrom(0, 0, 5, 100, 2_500),
          process: nat(3),
          right: nat(2),
          units: constantFrom(1, 1, 2, 5, 9),
          runMs: constantFrom(0, 3, 40, 3_000),
          fails: boolean(),
          keyed: boolean(),
        }),
      },
      { weight: 1, arbitrary: record({ kind: constantFrom('crash' as const), afterMs: constantFrom(0, 50), process: nat(3) }) },
      {
        weight: 1,
        arbitrary: record({
          kind: constantFrom('pause' as const),
          afterMs: constantFrom(0, 50),
          process: nat(3),
          ms: constantFrom(100, 5_000),
        }),
      },
      {
        weight: 1,
        arbitrary: record({ kind: constantFrom('faults' as const), afterMs: constantFrom(0, 50), percent: constantFrom(0, 5, 30) }),
      },
      {
        weight: 1,
        arbitrary: record({
          kind: constantFrom('limit' as const),
          afterMs: constantFrom(0, 50),
          measure: constantFrom('UNITS' as const, 'SPEND' as const, 'CONCURRENCY' as const),
          amount: constantFrom(1, 10, 40),
        }),
      },
    ),
    { minLength: 1, maxLength: 40 },
  ),
});

test('the books hold in any schedule of calls, crashes, pauses, faults and limits', { timeout: 120_000 }, async () => {
  await assert(
    asyncProperty(schedules, async (schedule: Schedule) => {
      expect(await simulate(schedule)).toEqual([]);
    }),
    { numRuns: Number(process.env.SIM_RUNS ?? 400) },
  );
});

test('a schedule runs the same way again', async () => {
  const steps: Step[] = Array.from({ length: 20 }, (_, i) => ({
    ...{ kind: 'call', afterMs: 20, process: i, right: i, units: 1 + (i % 4), runMs: i % 7, fails: i % 5 === 0, keyed: i % 2 === 0 },
  }));
  const runs = await Promise.all([1, 1].map((seed) => simulate({ seed, processes: 3, steps })));
  expect(runs[0]).toEqual(runs[1]);
});
