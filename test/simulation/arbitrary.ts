import { type Arbitrary, array, boolean, constantFrom, integer, nat, oneof, record } from 'fast-check';
import type { Schedule } from './schedule.ts';

const when = { afterMs: constantFrom(0, 0, 5, 50, 100, 2_500) };
const step = oneof(
  {
    weight: 12,
    arbitrary: record({
      ...{ kind: constantFrom('call' as const), ...when, process: nat(3), right: nat(2), units: constantFrom(1, 1, 2, 5, 9) },
      ...{ runMs: constantFrom(0, 3, 40, 3_000), fails: boolean(), keyed: boolean() },
    }),
  },
  { weight: 1, arbitrary: record({ kind: constantFrom('crash' as const), ...when, process: nat(3) }) },
  { weight: 1, arbitrary: record({ kind: constantFrom('pause' as const), ...when, process: nat(3), ms: constantFrom(100, 5_000) }) },
  { weight: 1, arbitrary: record({ kind: constantFrom('faults' as const), ...when, percent: constantFrom(0, 5, 30) }) },
  {
    weight: 1,
    arbitrary: record({
      ...{ kind: constantFrom('limit' as const), ...when, amount: constantFrom(1, 10, 40) },
      measure: constantFrom('UNITS' as const, 'SPEND' as const, 'CONCURRENCY' as const),
    }),
  },
);

/** Any schedule of up to 40 steps on one to four processes. */
export const schedules: Arbitrary<Schedule> = record({
  seed: integer(),
  processes: integer({ min: 1, max: 4 }),
  steps: array(step, { minLength: 1, maxLength: 40 }),
});
