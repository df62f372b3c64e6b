import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Call, DispatchSettings, Refusal } from '../../src/inference/dispatcher.ts';
import { stage } from './stage.ts';

/** A call that a tenant sends. */
type Sends = (index: number) => { values: number[]; given?: Partial<Call> };

const joins: Sends = (index) => ({ values: [index] });
/** No two calls may run as one, because they ask for other outputs. */
const joinsNothing: Sends = (index) => ({ values: [index], given: { outputs: [`y${index}`] } });

/** Milliseconds of a run: a hundredfold of what digits takes on a CPU. */
const digitsMs = (values: readonly number[]) => 4 + Math.round((24 * values.length) / 64);

type Scene = { settings?: Partial<DispatchSettings>; runMs?: (values: readonly number[]) => number };

/** Tenants that send a call again whenever one is answered, before a device whose time is the test's. */
function market({ settings = {}, runMs = digitsMs }: Scene = {}) {
  const { dispatcher, runs, add, echo } = stage({ shared: true, maxBatchRows: 64, runLimitMs: 100_000, ...settings });
  const sent: (() => void)[] = [];
  let begun: { tenant: string; rows: number }[] = [];
  let index = 0;
  function send(tenant: string, sends: Sends): void {
    const { values, given } = sends(index);
    const again = () => {
      sent.push(() => send(tenant, sends));
    };
    const begin = () => {
      begun.push({ tenant, rows: values.length });
    };
    add(`${tenant}${index++}`, values, { tenantKey: tenant, begin, answer: again, refuse: again, ...given });
  }
  /** The tenant has so many calls waiting from now on. */
  function enter(tenant: string, sends: Sends, calls: number): void {
    for (let call = 0; call < calls; call++) send(tenant, sends);
    dispatcher.dispatch();
  }
  /** One run, of which those that `fails` names fail; tells what each tenant had of its time. */
  function step(fails: (tenants: readonly string[]) => boolean = () => false): Map<string, number> {
    const ran = begun;
    begun = [];
    const ms = runMs(runs.at(-1)?.rows ?? []);
    if (fails(ran.map(({ tenant }) => tenant))) {
      vi.advanceTimersByTime(ms);
      dispatcher.failed(runs.length, 'bad row');
    } else echo(ms);
    for (const next of sent.splice(0)) next();
    dispatcher.dispatch();
    const total = ran.reduce((sum, { rows }) => sum + rows, 0);
    const had = new Map<string, number>();
    for (const { tenant, rows } of ran) had.set(tenant, (had.get(tenant) ?? 0) + (ms * rows) / total);
    return had;
  }
  /** What each tenant has of the device for so long, as parts of it. */
  function shares(forMs: number): Record<string, number> {
    const startedMs = performance.now();
    const had = new Map<string, number>();
    while (performance.now() < startedMs + forMs) for (const [tenant, ms] of step()) had.set(tenant, (had.get(tenant) ?? 0) + ms);
    return Object.fromEntries([...had].map(([tenant, ms]) => [tenant, ms / (performance.now() - startedMs)]));
  }
  return { add, enter, step, shares };
}

type Market = ReturnType<typeof market>;

/** A tenant fails a run of others, so that its calls run by themselves for ten seconds. */
function failOthers({ step }: Market, culprit: string): void {
  let done = false;
  while (!done) {
    step((tenants) => {
      done = tenants.length === 1 && tenants[0] === culprit;
      return tenants.includes(culprit);
    });
  }
}

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }));
afterEach(() => void vi.useRealTimers());

describe('tenants that always ask have equal parts of the device', () => {
  const TOLERANCE = 0.05;

  function expectEqual(shares: Record<string, number>, tenants: number): void {
    expect(Object.keys(shares)).toHaveLength(tenants);
    for (const share of Object.values(shares)) expect(Math.abs(share - 1 / tenants)).toBeLessThan(TOLERANCE / tenants);
  }

  for (const [name, scene] of Object.entries({
    'of runs that take longer by their rows': {},
    'of runs filled up to a fixed number': { settings: { maxBatchRows: 8, fixedRows: 8 }, runMs: () => 10 },
    'of rows that are not shared': { settings: { shared: false } },
  } satisfies Record<string, Scene>)) {
    test(`where the calls of one join nothing, ${name}`, () => {
      const { enter, shares } = market(scene);
      enter('a', joinsNothing, 200);
      enter('b', joins, 200);
      shares(1_000);
      expectEqual(shares(20_000), 2);
    });
  }

  test('where one of several joins nothing, and one sends calls of many rows', () => {
    const { enter, shares } = market();
    enter('a', joinsNothing, 200);
    enter('b', joins, 200);
    enter('c', joins, 200);
    enter('d', (index) => ({ values: new Array<number>(40).fill(index) }), 200);
    shares(1_000);
    expectEqual(shares(40_000), 4);
  });

  test('where one runs by itself because it failed the runs of others', () => {
    const all = market();
    all.enter('a', joins, 200);
    all.enter('b', joins, 200);
    all.shares(1_000);
    failOthers(all, 'a');
    all.shares(1_000);
    expectEqual(all.shares(8_000), 2);
  });

  test('where the runs of one take longer by what is in them, and where they fail', () => {
    const runMs = (values: readonly number[]) => (values.includes(-1) ? 50 : 5);
    const { enter, step, shares } = market({ settings: { joinable: false }, runMs });
    enter('a', () => ({ values: [-1] }), 200);
    enter('b', joins, 200);
    shares(1_000);
    expectEqual(shares(20_000), 2);
    const had = new Map<string, number>();
    for (let run = 0; run < 1_000; run++)
      for (const [tenant, ms] of step((tenants) => tenants.includes('a'))) had.set(tenant, (had.get(tenant) ?? 0) + ms);
    expect((had.get('a') ?? 0) / (had.get('b') ?? 0)).toBeCloseTo(1, 1);
  });
});

test('a tenant that was alone owes nothing for it to one that comes later', () => {
  const { enter, shares } = market();
  enter('a', joinsNothing, 200);
  expect(shares(20_000)).toEqual({ a: 1 });
  enter('b', joins, 200);
  const { a = 0 } = shares(280);
  expect(a).toBeGreaterThan(0.35);
});

test('one that asks for little goes before those that always ask, one of whom joins nothing', () => {
  const { add, enter, step, shares } = market();
  enter('a', joinsNothing, 200);
  enter('b', joins, 200);
  shares(1_000);
  for (let call = 0; call < 20; call++) {
    const startedMs = performance.now();
    let answeredMs = 0;
    const answer = () => {
      answeredMs = performance.now();
    };
    add(`q${call}`, [0], { answer });
    while (answeredMs === 0) step();
    // The run under way, what the others are owed after one of b's, and its own.
    expect(answeredMs - startedMs).toBeLessThanOrEqual(28 + 28 + 28);
    shares(200);
  }
});

describe('whether a call would be in time is known', () => {
  const crowd = (one: Market, tenants: number, sends: (tenant: number) => Sends) => {
    for (let tenant = 0; tenant < tenants; tenant++) one.enter(`t${tenant}`, sends(tenant), 1);
  };
  const cases: Record<string, { scene?: Scene; open(all: Market): void; once?(all: Market): void }> = {
    'behind calls of others and its own that join': {
      open: (all) => {
        all.enter('a', joins, 1_000);
        all.enter('b', joins, 600);
      },
    },
    'behind calls of another that join nothing, with its own': {
      open: (all) => {
        all.enter('a', joinsNothing, 1_000);
        all.enter('b', joins, 600);
      },
    },
    'behind few calls that join nothing and come once': {
      open: (all) => {
        all.enter('a', joinsNothing, 1);
        all.enter('b', joins, 600);
      },
      once: ({ add }) => {
        for (let call = 0; call < 30; call++) add('c', [call], { outputs: [`c${call}`] });
      },
    },
    'of a tenant whose calls join nothing, beside one whose calls do': {
      open: (all) => {
        all.enter('a', joins, 1_000);
        all.enter('b', joinsNothing, 100);
      },
    },
    'behind runs filled up to a fixed number': {
      scene: { settings: { maxBatchRows: 8, fixedRows: 8 }, runMs: () => 10 },
      open: (all) => {
        all.enter('a', joinsNothing, 500);
        all.enter('b', joins, 80);
      },
    },
    'behind many tenants, each with a call that joins no other': {
      open: (all) => crowd(all, 100, (tenant) => () => ({ values: [tenant], given: { outputs: [`y${tenant}`] } })),
    },
    'behind many tenants whose calls all join': { open: (all) => crowd(all, 200, () => joins) },
    'behind many tenants whose calls join each other and not its own': {
      open: (all) => crowd(all, 200, () => () => ({ values: [0], given: { outputs: ['y'] } })),
    },
    'behind many tenants whose rows are not shared': {
      scene: { settings: { shared: false } },
      open: (all) => crowd(all, 50, () => joins),
    },
    'behind calls of so many rows that one fills a run': {
      scene: { settings: { maxBatchRows: 64, fixedRows: 64 }, runMs: () => 10 },
      open: (all) => {
        all.enter('a', (index) => ({ values: new Array<number>(40).fill(index) }), 100);
        all.enter('b', (index) => ({ values: new Array<number>(40).fill(index) }), 50);
      },
    },
    'behind calls of one that runs by itself because it failed the runs of others': {
      open: (all) => {
        all.enter('a', joins, 100);
        all.enter('b', joins, 600);
        failOthers(all, 'a');
      },
    },
  };

  /** How a call of b with so much time left fares: how long it takes, or null: it is refused at once. */
  function fate({ scene, open, once }: (typeof cases)[string], leftMs: number): number | null {
    const all = market(scene);
    open(all);
    all.shares(1_000);
    once?.(all);
    const startedMs = performance.now();
    let end: 'answered' | 'refused' | null = null;
    const ended = (how: typeof end) => () => {
      end = how;
    };
    all.add('b', [0], { expiresMs: startedMs + leftMs, answer: ended('answered'), refuse: ended('refused') });
    const isRefused = end !== null;
    while (end === null) all.step();
    return isRefused ? null : performance.now() - startedMs;
  }

  // A fifth of a call's time is kept back, so that it has to have a quarter more than it takes.
  for (const [name, one] of Object.entries(cases)) {
    test(name, () => {
      const tookMs = fate(one, Number.POSITIVE_INFINITY) ?? Number.NaN;
      expect(fate(one, 0.95 * tookMs)).toBe(null);
      expect(fate(one, 1.6 * tookMs)).not.toBe(null);
    });
  }
});

describe('a call of less time than its run is known to take, where nothing runs', () => {
  /** A device of one call at a time, which has run three of so many milliseconds. */
  function idle(runMs: number) {
    const { dispatcher, runs, add, echo } = stage({ joinable: false, runLimitMs: 100_000 });
    let index = 0;
    /** A call with so much time left; whether it runs, or the refusal. */
    function call(tenantKey: string, leftMs: number, takesMs = runMs): 'runs' | Refusal {
      let refused: Refusal | null = null;
      const refuse = (refusal: Refusal) => {
        refused = refusal;
      };
      const before = runs.length;
      add(`c${index++}`, [1], { tenantKey, expiresMs: performance.now() + leftMs, refuse });
      dispatcher.dispatch();
      if (runs.length === before) return refused ?? expect.unreachable('neither runs nor is refused');
      echo(takesMs);
      return 'runs';
    }
    for (let run = 0; run < 3; run++) call('a', 60_000);
    return { call };
  }
  const hopeless = { code: 'OVERLOADED', rule: 'DEADLINE', message: 'A run of this model takes longer than the deadline.' };

  test('is refused at once after one of its tenant that was late, and calls in time are not', () => {
    const { call } = idle(200);
    expect(call('a', 5)).toBe('runs');
    expect(call('a', 5)).toMatchObject({ ...hopeless, retryAfterMs: 5_000, forMs: 10 });
    expect(call('a', 199)).toMatchObject(hopeless);
    expect(call('a', 201)).toBe('runs');
    // In time was another call of it.
    expect(call('a', 5)).toMatchObject({ ...hopeless, retryAfterMs: 4_800 });
    expect(call('b', 5)).toBe('runs');
  });

  test('runs again after a while, in which such calls of a tenant take a tenth of the device at most', () => {
    for (const [runMs, againMs] of [
      [200, 5_000],
      [2_000, 20_000],
    ] as const) {
      const { call } = idle(runMs);
      expect(call('a', 5)).toBe('runs');
      vi.advanceTimersByTime(againMs - 1);
      expect(call('a', 5)).toMatchObject({ ...hopeless, retryAfterMs: 10 });
      vi.advanceTimersByTime(1);
      expect([call('a', 5), call('a', 5)]).toMatchObject(['runs', hopeless]);
    }
  });

  test('goes on to run where the last one was in time: the pace is wrong by now', () => {
    const { call } = idle(200);
    for (let run = 0; run < 20; run++) expect(call('a', 50, 20)).toBe('runs');
    expect(call('b', 50, 20)).toBe('runs');
  });

  test('runs where it is the first, or the one after', () => {
    const { dispatcher, runs, add, echo } = stage({ joinable: false });
    for (let call = 1; call <= 2; call++) {
      add(`a${call}`, [1], { expiresMs: performance.now() + 5 });
      dispatcher.dispatch();
      expect(runs).toHaveLength(call);
      echo(200);
    }
  });
});
