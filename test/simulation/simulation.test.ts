import { assert, asyncProperty } from 'fast-check';
import { expect, test } from 'vitest';
import { schedules } from './arbitrary.ts';
import { FOUND } from './found.ts';
import { type Step, simulate } from './schedule.ts';

test('the books hold, and refusals are true, in any schedule of calls, limits, rates, transfers, crashes, pauses and lost answers', {
  timeout: 120_000,
}, async () => {
  const holds = asyncProperty(schedules, async (schedule) => {
    expect(await simulate(schedule)).toEqual([]);
  });
  await assert(holds, { numRuns: 600 });
});

test.each(FOUND)('never again: %s', async (_, schedule) => {
  expect(await simulate(schedule)).toEqual([]);
});

test('a schedule runs the same way again', async () => {
  const steps: Step[] = Array.from({ length: 20 }, (_, i) => ({
    ...{ kind: 'call', afterMs: 20, process: i, right: i, units: 1 + (i % 4), runMs: i % 7, fails: i % 5 === 0, keyed: i % 2 === 0 },
  }));
  const other = { afterMs: 5, process: 1, of: 1, pending: true, timeoutMs: 1_000 };
  steps.splice(
    8,
    0,
    { kind: 'limit', afterMs: 5, measure: 'UNITS', amount: 9, window: 'HOUR' },
    { ...other, kind: 'transfer', what: 'down', nanos: 8 },
  );
  const ends = await Promise.all([1, 1].map((seed) => simulate({ seed, processes: 3, steps: [...steps, { kind: 'end', afterMs: 0 }] })));
  expect(ends[0]).toEqual(ends[1]);
  expect(ends[0]?.[0]).toMatch(/calls were answered/);
});
