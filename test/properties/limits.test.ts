import { createHash } from 'node:crypto';
import { array, assert, asyncProperty, constantFrom, nat, oneof, record } from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { asTenant } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import type { Admission } from '../../src/prediction/leases.ts';
import { Limits, type SimLimit } from '../simulation/limits.ts';
import { asAdmin } from '../support/admin.ts';
import { broken, type Core, codeOf, finished, openCore, type Process, type Right } from '../support/core.ts';

const HOUR_MS = 3_600_000;
/** As the calendar of UTC has them; limits here are of no other window. */
const WINDOW_MS = { MINUTE: 60_000, HOUR: HOUR_MS, DAY: 24 * HOUR_MS, MONTH: Number.NaN };
const QUOTA_UNITS = 30n;
const PATIENCE_MS = 1_000;

/** The database's clock, and the process's, stand still but for steps; the process's goes on while it waits. */
let now = Date.parse('2026-11-15T12:00:00Z');
let waitedMs = 0;
const time = {
  nowMs: () => now + waitedMs,
  sleep: async (ms: number) => {
    waitedMs += ms;
  },
};

let core: Core;
let server: Process;
beforeAll(async () => {
  core = await openCore(new Date(now).toISOString());
  server = await core.process(time);
});
afterAll(() => core[Symbol.asyncDispose]());

const of = nat(99);
const call = record({
  do: constantFrom('call' as const),
  who: nat(1),
  units: constantFrom(1, 2, 5),
  end: constantFrom('settle', 'fail', 'later'),
});
const action = oneof(
  { weight: 8, arbitrary: call },
  { weight: 2, arbitrary: record({ do: constantFrom('end' as const), of, end: constantFrom('settle', 'fail') }) },
  {
    weight: 3,
    arbitrary: record({
      ...{ do: constantFrom('set' as const), subject: constantFrom('TENANT' as const, 'API_KEY' as const) },
      ...{ window: constantFrom('HOUR' as const, 'DAY' as const, null), amount: constantFrom(1n, 3n, 8n, 20n) },
    }),
  },
  { weight: 1, arbitrary: record({ do: constantFrom('change' as const), of, amount: constantFrom(null, 2n, 9n, 25n) }) },
  {
    weight: 2,
    arbitrary: record({ do: constantFrom('wait' as const), ms: constantFrom(HOUR_MS / 3, HOUR_MS, 24 * HOUR_MS, 20 * 24 * HOUR_MS) }),
  },
);
type Action = typeof action extends { generate(...args: never[]): { value: infer T } } ? T : never;

type Call = { admission: Admission; right: Right; counterIds: readonly string[]; atMs: number };

/** Calls of one tenant, under a key and without, asked of leases and settlement in SQL and of the simulation's limits. */
class Schedule {
  private readonly model = new Limits(
    () => now,
    (limit, from) => this.usedBefore(limit, from),
    WINDOW_MS,
  );
  private readonly ids = new Map<SimLimit, string>();
  private readonly open: Call[] = [];
  private readonly settled: Call[] = [];
  private readonly rights: readonly [Right, Right];

  constructor(rights: readonly [Right, Right]) {
    this.rights = rights;
  }

  async step(given: Action): Promise<void> {
    if (given.do === 'call') await this.call(given);
    else if (given.do === 'end') {
      const [ended] = this.open.splice(given.of % Math.max(1, this.open.length), 1);
      if (ended) await this.end(ended, given.end === 'settle');
    } else if (given.do === 'set') await this.set(given);
    else if (given.do === 'change') await this.change(given);
    else await this.wait(given.ms);
    await this.compare();
  }

  /** Refused exactly where the quota or a limit that concerns it has no room beside what is used and in flight. */
  private async call({ who, units, end }: Action & { do: 'call' }): Promise<void> {
    const right = this.rights[who === 0 ? 0 : 1];
    const locked = this.model.lock(this.callerOf(right));
    const short = this.model
      .concerning(this.callerOf(right))
      .filter((limit) => this.model.refuses(limit, units, 0n, (counterId) => this.flying(counterId)));
    const isFull = this.unitsOf([...this.settled, ...this.open], periodOf(now)) + BigInt(units) > QUOTA_UNITS;
    const due = isFull || short.some(({ measure }) => measure === 'UNITS') ? 'QUOTA_EXCEEDED' : short.length > 0 ? 'RATE_LIMITED' : 'OK';
    let admission: Admission | undefined;
    const code = await codeOf(async () => {
      admission = await server.leases.admit(right, units, PATIENCE_MS);
    });
    // Where more than one refuses, the first by name says so.
    expect(due === 'OK' ? ['OK'] : ['QUOTA_EXCEEDED', 'RATE_LIMITED']).toContain(code);
    if (short.length <= 1) expect(code).toBe(due);
    if (!admission) return;
    const made = { admission, right, counterIds: locked.map(({ counterId }) => counterId), atMs: now };
    if (end === 'later') this.open.push(made);
    else await this.end(made, end === 'settle');
  }

  private async end(ended: Call, isAnswered: boolean): Promise<void> {
    const { admission, right, counterIds } = ended;
    if (!isAnswered) return admission.giveBack();
    await server.settlement.settle(finished(right, admission, { apiKeyId: right.apiKeyId }));
    this.settled.push(ended);
    this.model.count(counterIds, BigInt(admission.units), 0n, null);
  }

  /** With nothing in flight: what was let in before a limit is not under it. */
  private async set({ subject, window, amount }: Action & { do: 'set' }): Promise<void> {
    await this.endAll();
    const [{ consumerTenantId, apiKeyId }] = this.rights;
    const measure = window === null ? ('CONCURRENCY' as const) : ('UNITS' as const);
    const kind = { subject, subjectId: subject === 'TENANT' ? consumerTenantId : (apiKeyId ?? ''), measure, window, burstUnits: null };
    const limit = this.model.set(kind, { amount, hard: true }, () => true);
    const { id } = await core.usage.createLimit(consumerTenantId, { ...kind, name: limit.id, amount, hard: true, alertPercents: null });
    this.ids.set(limit, id);
  }

  private async change({ of: number, amount }: Action & { do: 'change' }): Promise<void> {
    const known = [...this.ids];
    const [limit, id] = known[number % Math.max(1, known.length)] ?? [];
    if (!limit || !id) return;
    const { consumerTenantId } = this.rights[0];
    this.model.change(limit, amount === null ? null : { amount, hard: true }, () => true);
    if (amount === null) {
      this.ids.delete(limit);
      await core.usage.deleteLimit(consumerTenantId, id);
    } else await core.usage.updateLimit(consumerTenantId, id, { name: null, amount, burstUnits: null, hard: null, alertPercents: null });
  }

  private async wait(ms: number): Promise<void> {
    await this.endAll();
    now += ms;
    await core.setClock(new Date(now).toISOString());
    await server.leases.maintain();
  }

  private async endAll(): Promise<void> {
    for (const one of this.open.splice(0)) await this.end(one, true);
  }

  private async compare(): Promise<void> {
    const { consumerTenantId } = this.rights[0];
    const views = await asTenant(core.db, consumerTenantId, (tx) => core.usage.limits(tx, consumerTenantId));
    expect(views.map(({ id }) => id).sort()).toEqual([...this.ids.values()].sort());
    const locked = new Map(this.model.lock(this.callerOf(this.rights[0])).map((limit) => [limit.limitId, limit]));
    for (const { name, used, inFlight, amount } of views) {
      const due = locked.get(name);
      const { units, slots } = this.flying(due?.counterId ?? '');
      const flying = due?.measure === 'CONCURRENCY' ? slots : units;
      expect([name, used, amount]).toEqual([name, due?.used, due?.amount]);
      // Leased is what is in flight and what lies ready for the next calls; what a lower amount leaves over is on its way back.
      expect(inFlight).toBeGreaterThanOrEqual(flying);
      const isChanged = [...this.ids.keys()].find(({ id }) => id === name)?.isChanged;
      if (!isChanged && used + inFlight > amount) expect(inFlight).toBe(flying);
    }
  }

  async finish(): Promise<void> {
    await this.endAll();
    await this.compare();
    expect(await broken(core.db)).toEqual([]);
  }

  private callerOf({ listingId, apiKeyId }: Right) {
    return { consumerTenantId: 'two', listingId, memberId: null, apiKeyId };
  }

  private flying(counterId: string) {
    const under = this.open.filter(({ counterIds }) => counterIds.includes(counterId));
    return { units: this.unitsOf(under), nanos: 0n, slots: BigInt(under.length), idleUnits: 0n };
  }

  private usedBefore({ subject, subjectId }: SimLimit, from: number): bigint {
    return this.unitsOf(this.settled.filter(({ atMs, right }) => atMs >= from && (subject === 'TENANT' || right.apiKeyId === subjectId)));
  }

  private unitsOf(calls: readonly Call[], period: string | null = null): bigint {
    const own = calls.filter(({ atMs }) => period === null || periodOf(atMs) === period);
    return own.reduce((sum, { admission }) => sum + BigInt(admission.units), 0n);
  }
}

const periodOf = (ms: number) => new Date(ms).toISOString().slice(0, 7);

async function begin(): Promise<Schedule> {
  const right = await core.consumer({ quotaUnits: QUOTA_UNITS });
  const id = newId();
  const tenantId = right.consumerTenantId;
  const hash = createHash('sha256').update(id).digest();
  const key = { id, tenantId, name: 'k', hash, prefix: 'mk_', scopes: ['model:predict'] };
  await asAdmin(core.db, (tx) => tx.apiKey.create({ data: key }));
  return new Schedule([{ ...right, apiKeyId: id }, right]);
}

test('quotas and limits let in and count what the simulated ones do, after every step', { timeout: 120_000 }, async () => {
  await assert(
    asyncProperty(array(action, { minLength: 10, maxLength: 30 }), async (actions) => {
      const schedule = await begin();
      for (const step of actions) await schedule.step(step);
      await schedule.finish();
    }),
    { numRuns: 8, endOnFailure: true },
  );
});
