import { type Arbitrary, array, boolean, constantFrom, integer, nat, oneof, record } from 'fast-check';
import type { Schedule, Step } from './schedule.ts';

const when = { afterMs: constantFrom(0, 0, 0, 0, 5, 5, 50, 50, 100, 100, 2_500, 2_500, 9_000) };
const process = nat(3);

const pauses = record({ kind: constantFrom('pause' as const), ...when, process, ms: constantFrom(100, 5_000, 5_000) });
const calls = (rights: readonly number[], callers: number, runMs = [0, 3, 40, 3_000], afterMs: Arbitrary<number> = when.afterMs) =>
  record({
    ...{ kind: constantFrom('call' as const), afterMs, process, right: constantFrom(...rights), caller: nat(callers) },
    ...{ units: constantFrom(1, 1, 2, 5, 9, 9), runMs: constantFrom(...runMs), fails: boolean(), keyed: boolean() },
  });
const troubles = oneof(
  record({ kind: constantFrom('crash' as const), ...when, process }),
  pauses,
  record({ kind: constantFrom('faults' as const), ...when, percent: constantFrom(0, 5, 30) }),
);
const measure = constantFrom('UNITS' as const, 'SPEND' as const, 'CONCURRENCY' as const);
const monthly = record({ kind: constantFrom('limit' as const), ...when, measure, amount: constantFrom(1, 10, 40) });
const limits = oneof(
  monthly,
  record({
    ...{
      kind: constantFrom('limit' as const),
      ...when,
      measure,
      amount: constantFrom(0, 1, 3, 10, 40),
      number: nat(2),
      isHasty: boolean(),
    },
    ...{ subject: constantFrom('TENANT' as const, 'SUBSCRIPTION' as const, 'MEMBER' as const, 'API_KEY' as const) },
    ...{ window: constantFrom('MONTH' as const, 'DAY' as const, 'HOUR' as const, 'MINUTE' as const) },
    ...{ burstUnits: constantFrom(null, null, 2, 9), hard: constantFrom(true, true, true, false) },
  }),
);
/** Soon used up, and soon over. */
const small = record({
  ...{
    kind: constantFrom('limit' as const),
    ...when,
    amount: constantFrom(1, 2, 5),
    measure: constantFrom('UNITS' as const, 'SPEND' as const),
  },
  window: constantFrom('DAY' as const, 'HOUR' as const, 'HOUR' as const, 'MINUTE' as const),
});
/** In flight for as long as it takes a burst to come back, and mostly in vain. */
const slow = record({
  ...{ kind: constantFrom('call' as const), afterMs: constantFrom(0, 600, 5_000), process, right: constantFrom(1) },
  ...{ units: constantFrom(2, 9), runMs: constantFrom(0, 3_000), fails: constantFrom(true, true, false), keyed: boolean() },
});
const bursts = record({
  ...{ kind: constantFrom('limit' as const), ...when, amount: constantFrom(1, 2), measure: constantFrom('UNITS' as const) },
  burstUnits: constantFrom(9, 9, 20),
});
const places = record({
  kind: constantFrom('limit' as const),
  ...when,
  amount: constantFrom(1, 2, 3),
  measure: constantFrom('CONCURRENCY' as const),
});
const ofSome = (...subjects: ('SUBSCRIPTION' | 'MEMBER' | 'API_KEY')[]) =>
  record({
    ...{ kind: constantFrom('limit' as const), ...when, amount: constantFrom(0, 1, 3, 10), number: nat(1), isHasty: boolean() },
    ...{ subject: constantFrom(...subjects), measure: constantFrom('UNITS' as const, 'CONCURRENCY' as const) },
  });
const changes = record({
  ...{
    kind: constantFrom('change' as const),
    ...when,
    of: nat(3),
    amount: constantFrom(null, 0, 1, 10, 40),
    hard: constantFrom(true, true, false),
  },
});
const follows = record({ kind: constantFrom('follow' as const), ...when, right: nat(5), samePlan: constantFrom(true, true, false) });
/** To a plan of another rate. */
const rates = record({ kind: constantFrom('follow' as const), ...when, right: constantFrom(3, 4, 4), samePlan: constantFrom(false) });
const subscriptions = oneof(follows, record({ kind: constantFrom('revoke' as const), ...when, caller: nat(3) }));
const transfers = record({
  ...{
    kind: constantFrom('transfer' as const),
    ...when,
    process,
    of: constantFrom(0, 1, 2, 3, 4, 9),
    nanos: constantFrom(1, 8, 40, 149),
    pending: boolean(),
  },
  ...{ timeoutMs: constantFrom(null, 1_000, 4_000) },
  what: constantFrom(
    ...(['credit', 'up', 'down', 'down', 'payout', 'post', 'post', 'void'] as const),
    ...(['reverse', 'reverse', 'reverse', 'again', 'otherwise', 'expire', 'close', 'close'] as const),
  ),
});

const closings = record({
  ...{ kind: constantFrom('transfer' as const), ...when, process, what: constantFrom('close' as const), of: nat(0), nanos: nat(0) },
  ...{ pending: boolean(), timeoutMs: constantFrom(null) },
});

const steps = (...weighed: { weight: number; arbitrary: Arbitrary<Step> }[]) => array(oneof(...weighed), { minLength: 1, maxLength: 40 });
const some = (weight: number, arbitrary: Arbitrary<Step>) => ({ weight, arbitrary });

/** Any schedule of up to 40 steps on one to four processes. What goes wrong takes several steps about one thing: most schedules have a theme. */
export const schedules: Arbitrary<Schedule> = record({
  seed: integer(),
  processes: integer({ min: 1, max: 4 }),
  startMs: constantFrom(0, 0, 16_000, 18_000, 19_500),
  steps: oneof(
    { weight: 4, arbitrary: steps(some(12, calls([0, 1, 2], 0)), some(3, troubles), some(1, monthly)) },
    {
      weight: 12,
      arbitrary: oneof(
        steps(some(12, calls([1, 2], 3)), some(1, troubles), some(3, limits), some(2, changes), some(1, subscriptions)),
        steps(some(12, calls([1, 2], 0, [3, 40, 3_000], constantFrom(0, 0, 5, 50, 100))), some(1, places)),
        steps(some(14, slow), some(1, bursts)),
        steps(some(8, calls([1], 3)), some(2, pauses), some(2, ofSome('MEMBER', 'API_KEY'))),
        steps(some(8, calls([1, 2], 0)), some(2, follows), some(2, ofSome('SUBSCRIPTION'))),
        steps(some(1, calls([3, 4, 4], 0, [0, 3], constantFrom(0, 5, 50, 100, 300)))),
        steps(some(1, calls([3], 0, [0, 40], constantFrom(0, 0, 5)))),
        steps(some(12, calls([3, 4, 4], 1, [0, 3, 40], constantFrom(0, 0, 5, 50, 300))), some(2, rates)),
        steps(some(14, calls([3, 4], 1)), some(1, troubles), some(1, limits), some(1, subscriptions)),
        steps(some(5, calls([1, 2], 0)), some(1, troubles), some(8, transfers)),
        steps(some(1, calls([1, 2], 0)), some(8, transfers)),
        steps(some(8, calls([0, 1], 0, [3_000])), some(4, pauses), some(4, closings)),
        steps(some(12, calls([1, 2], 0, [0, 3], constantFrom(0, 100, 500, 2_500, 5_000))), some(1, small)),
        steps(
          some(14, calls([0, 1, 2, 3, 4, 5], 3)),
          some(3, troubles),
          some(2, limits),
          some(1, changes),
          some(2, subscriptions),
          some(5, transfers),
        ),
      ),
    },
  ),
});
