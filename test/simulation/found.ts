import type { Schedule } from './schedule.ts';

type Short = [afterMs: number, process: number, right: number, units: number, runMs: number, fails: boolean];
const call = ([afterMs, process, right, units, runMs, fails]: Short) => ({
  kind: 'call' as const,
  afterMs,
  process,
  right,
  units,
  runMs,
  fails,
  keyed: false,
});

/** Schedules in which something went wrong once, or does without one of the guards, as small as they could be made, and what it was. */
export const FOUND: [what: string, schedule: Schedule][] = [
  [
    'a return whose answer was lost was made again, and took the units of calls in flight',
    {
      ...{ seed: -1677845836, processes: 2 },
      steps: [
        call([2_500, 0, 0, 1, 0, false]),
        { kind: 'faults', afterMs: 0, percent: 30 },
        call([100, 0, 0, 1, 0, false]),
        { kind: 'limit', afterMs: 0, measure: 'UNITS', amount: 1 },
        call([2_500, 0, 0, 1, 0, false]),
        call([0, 0, 0, 1, 0, false]),
      ],
    },
  ],
  [
    'a quota was called used up while units were on their way back from the very process',
    {
      ...{ seed: 1855980348, processes: 1 },
      steps: [
        call([0, 0, 2, 1, 0, false]),
        call([5, 0, 1, 9, 3_000, false]),
        call([2_500, 0, 1, 1, 0, false]),
        { kind: 'pause', afterMs: 0, process: 0, ms: 100 },
        call([5, 0, 0, 9, 0, true]),
        call([0, 0, 0, 1, 0, false]),
        call([0, 0, 1, 2, 0, false]),
        call([5, 0, 0, 9, 3_000, false]),
        call([2_500, 0, 0, 1, 0, false]),
        { kind: 'faults', afterMs: 0, percent: 0 },
      ],
    },
  ],
  [
    'a call that outlived its lease was told that the quota was used up, which others only held',
    {
      ...{ seed: -1625995270, processes: 2 },
      steps: [
        call([0, 0, 1, 1, 0, false]),
        call([5, 0, 1, 1, 40, false]),
        call([0, 3, 1, 1, 0, false]),
        call([0, 0, 1, 1, 0, false]),
        call([0, 0, 0, 1, 40, false]),
        call([0, 0, 0, 9, 40, false]),
        { kind: 'pause', afterMs: 50, process: 0, ms: 5_000 },
        call([0, 0, 0, 2, 0, false]),
        call([0, 0, 2, 1, 0, false]),
        call([2_500, 0, 2, 1, 0, false]),
      ],
    },
  ],
  [
    'a limit was called used up while a grant to another listing of the process was on its way',
    {
      ...{ seed: -101559955, processes: 2 },
      steps: [
        { kind: 'limit', afterMs: 0, measure: 'UNITS', amount: 1 },
        call([0, 0, 1, 1, 0, false]),
        call([0, 0, 0, 1, 0, false]),
        call([0, 0, 2, 1, 0, false]),
        call([0, 1, 1, 1, 0, false]),
      ],
    },
  ],
  [
    'a grant whose answer was lost kept its units until a sweep',
    {
      ...{ seed: 1198922673, processes: 3 },
      steps: [
        call([0, 0, 1, 1, 0, true]),
        call([0, 0, 1, 1, 0, false]),
        { kind: 'faults', afterMs: 2_500, percent: 30 },
        call([0, 0, 2, 1, 0, false]),
        call([0, 0, 0, 1, 0, false]),
        call([0, 0, 2, 1, 0, false]),
        call([0, 0, 0, 1, 0, false]),
      ],
    },
  ],
  [
    'a lease was marked as in flight while its unused units were on their way back',
    {
      seed: 0,
      processes: 4,
      steps: [call([0, 3, 2, 1, 40, true]), call([100, 0, 2, 9, 0, false]), { kind: 'faults', afterMs: 0, percent: 0 }],
    },
  ],
  [
    'units that were taken out of use at the end of a caller’s patience were forgotten',
    {
      ...{ seed: -4, processes: 1 },
      steps: [
        call([0, 0, 1, 1, 0, false]),
        call([100, 0, 0, 1, 0, false]),
        call([0, 0, 0, 1, 0, false]),
        { kind: 'pause', afterMs: 0, process: 0, ms: 5_000 },
        call([0, 0, 2, 9, 0, false]),
        call([0, 0, 2, 5, 0, false]),
        call([5, 0, 1, 1, 3_000, false]),
      ],
    },
  ],
  [
    'calls in flight were called too many while places were on their way back by another hand',
    {
      ...{ seed: -1610173988, processes: 1 },
      steps: [
        { kind: 'limit', afterMs: 0, measure: 'CONCURRENCY', amount: 10 },
        call([0, 0, 0, 1, 3_000, false]),
        call([2_500, 0, 2, 1, 0, false]),
        call([0, 0, 1, 1, 0, false]),
        call([2_500, 0, 0, 1, 0, false]),
        call([0, 0, 2, 1, 0, false]),
        call([0, 0, 1, 1, 0, false]),
        call([5, 0, 1, 1, 0, false]),
      ],
    },
  ],
  [
    'units of a grant whose answer was lost stayed with a lease that nobody knew',
    {
      ...{ seed: 1135877165, processes: 2 },
      steps: [
        { kind: 'faults', afterMs: 0, percent: 5 },
        call([2_500, 3, 1, 1, 3_000, false]),
        call([100, 3, 2, 1, 0, false]),
        call([5, 3, 2, 5, 0, false]),
      ],
    },
  ],
  [
    'places on the move were not waited for before a call was refused',
    {
      ...{ seed: 0, processes: 1 },
      steps: [
        call([0, 0, 0, 1, 0, false]),
        call([0, 0, 0, 1, 0, true]),
        { kind: 'faults', afterMs: 0, percent: 0 },
        { kind: 'limit', afterMs: 100, measure: 'CONCURRENCY', amount: 1 },
        call([0, 0, 1, 1, 0, false]),
        call([100, 0, 1, 1, 0, false]),
        call([0, 0, 2, 1, 0, false]),
        call([50, 0, 2, 1, 0, false]),
      ],
    },
  ],
  [
    'a rate was called used up although requests went back to it while the answer was on its way',
    {
      ...{ seed: -339404168, processes: 1 },
      steps: [
        call([0, 0, 4, 1, 0, false]),
        call([5, 0, 3, 1, 0, true]),
        call([5, 0, 3, 1, 0, false]),
        call([50, 0, 3, 1, 0, true]),
        call([0, 0, 3, 1, 0, false]),
        call([400, 0, 4, 1, 0, false]),
        call([50, 0, 4, 5, 0, false]),
        call([400, 0, 4, 1, 0, false]),
        call([0, 0, 4, 1, 0, false]),
        call([0, 0, 4, 1, 0, false]),
        call([0, 0, 4, 1, 0, false]),
        call([0, 0, 3, 1, 0, false]),
        call([400, 0, 3, 1, 0, false]),
        call([0, 0, 3, 1, 0, false]),
        call([0, 0, 3, 1, 0, false]),
      ],
    },
  ],
  [
    'units of a block without requests were forgotten when the rate refused',
    {
      ...{ seed: 538469761, processes: 1 },
      steps: [
        call([0, 0, 4, 1, 0, false]),
        call([0, 0, 4, 9, 0, false]),
        call([0, 0, 4, 5, 0, false]),
        call([0, 0, 4, 1, 0, false]),
        call([50, 0, 4, 1, 0, false]),
        call([0, 0, 4, 1, 0, false]),
      ],
    },
  ],
  [
    'a rate was called used up by requests of the very process, which it had taken out of use for their units',
    {
      ...{ seed: 1878279248, processes: 1 },
      steps: [
        call([0, 0, 4, 1, 0, false]),
        call([0, 0, 4, 1, 0, false]),
        call([0, 0, 4, 1, 0, true]),
        call([0, 0, 3, 1, 0, false]),
        call([0, 0, 3, 1, 0, true]),
        call([0, 0, 4, 9, 0, false]),
        call([0, 0, 4, 1, 0, false]),
      ],
    },
  ],
  [
    'a limit was called used up after its window had ended, since the answer that said so had come late',
    {
      ...{ seed: 1495433884, processes: 2 },
      steps: [
        { kind: 'change', afterMs: 0, of: 0, amount: null, hard: true },
        call([50, 0, 2, 5, 0, false]),
        call([100, 0, 2, 1, 0, false]),
        call([2500, 0, 2, 1, 0, false]),
        call([2500, 1, 1, 1, 0, false]),
        { kind: 'revoke', afterMs: 0, caller: 0 },
        {
          kind: 'limit',
          afterMs: 0,
          measure: 'SPEND',
          amount: 40,
          number: 0,
          isHasty: true,
          subject: 'TENANT',
          window: 'HOUR',
          burstUnits: null,
          hard: true,
        },
        { kind: 'limit', afterMs: 50, measure: 'UNITS', amount: 1 },
        call([0, 0, 2, 1, 0, false]),
        call([2500, 0, 2, 1, 0, false]),
      ],
    },
  ],
  [
    'who came while a refusal was on its way was refused by it',
    {
      ...{ seed: 1960146527, processes: 2 },
      steps: [
        call([0, 0, 3, 1, 0, false]),
        call([0, 0, 4, 1, 0, false]),
        call([5, 0, 3, 1, 0, false]),
        call([100, 0, 3, 1, 0, false]),
        call([0, 3, 4, 1, 0, false]),
        call([5, 0, 4, 1, 0, false]),
        call([0, 1, 4, 1, 0, false]),
        call([50, 1, 4, 1, 0, false]),
        call([100, 1, 4, 1, 0, false]),
        call([0, 0, 3, 1, 0, false]),
      ],
    },
  ],
];
