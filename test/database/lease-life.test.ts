import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { asSystem, asTenant } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import type { Granted } from '../../src/prediction/grants.ts';
import { createLeaseStore, type LeaseStore } from '../../src/prediction/lease-store.ts';
import type { Admission } from '../../src/prediction/leases.ts';
import { createLeases } from '../../src/prediction/leases.ts';
import {
  dropLeases,
  grantLease,
  hasForeignLeases,
  type LeaseScope,
  lockCounter,
  returnUnits,
  sweepLeases,
  takeRequests,
} from '../../src/usage/usage.ts';
import { booksOf, type Core, codeOf, log, openCore, type Right } from '../support/core.ts';

const NOON = '2026-11-15T12:00:00Z';
let core: Core;
beforeAll(async () => {
  core = await openCore(NOON);
});
beforeEach(() => core.setClock(NOON));
afterAll(() => core[Symbol.asyncDispose]());

/** A process whose time passes when a test says so, and whose store can be counted, held up and broken. */
async function open() {
  const processId = newId();
  const store = createLeaseStore({ db: core.db, billing: core.billing, processId });
  const asked: Record<string, number> = {};
  const faults = new Map<keyof LeaseStore, Error>();
  const gates = new Map<keyof LeaseStore, Promise<void>>();
  const watched = <K extends keyof LeaseStore>(name: K): LeaseStore[K] =>
    (async (...args: never[]) => {
      asked[name] = (asked[name] ?? 0) + 1;
      const fault = faults.get(name);
      faults.delete(name);
      if (fault) throw fault;
      const found = await (store[name] as (...args: never[]) => unknown)(...args);
      await gates.get(name);
      // What the store says of its own time is meant for this process's.
      return name === 'grant' && 'usableUntil' in (found as object) ? later(found as Granted) : found;
    }) as LeaseStore[K];
  const names = ['grant', 'putBack', 'putBackRequests', 'renew', 'drop', 'sweep', 'limitedCallers'] as const;
  const onRecall = async () => {};
  const own = { ...Object.fromEntries(names.map((name) => [name, watched(name)])), onRecall } as unknown as LeaseStore;
  let passedMs = 0;
  const later = (granted: Granted): Granted => ({ ...granted, usableUntil: granted.usableUntil + passedMs });
  let fresh = true;
  const forgets: ((tenantId: string) => void)[] = [];
  const leases = await createLeases({
    store: own,
    time: { nowMs: () => performance.now() + passedMs, sleep: () => Promise.resolve() },
    invalidations: { isFresh: () => fresh, on: (_, forget) => void forgets.push(forget) },
    log,
    maintainMs: null,
  });
  return {
    ...{ processId, asked, faults, gates, leases },
    admit: async (right: Right, units = 1): Promise<Admission> => leases.admit(right, units, 5_000),
    pass: (ms: number) => {
      passedMs += ms;
    },
    lapse: () => {
      fresh = false;
    },
    changeLimits: (right: Right) => {
      for (const forget of forgets) forget(right.consumerTenantId);
    },
  };
}

/** A lease of one's own making. */
async function leaseOf(right: Right, more: Partial<{ processId: string; units: bigint; slots: bigint }> = {}): Promise<string> {
  const leaseId = newId();
  const grant = {
    leaseId,
    processId: newId(),
    planVersionId: null,
    quotaUnits: null,
    units: 3n,
    slots: 0n,
    nanos: 0n,
    counterIds: [],
    ...more,
  };
  await asSystem(core.db, async (tx) => grantLease(tx, await lockCounter(tx, right), grant));
  return leaseId;
}

const leases = (right: Right) => asSystem(core.db, (tx) => tx.lease.count({ where: { consumerTenantId: right.consumerTenantId } }));

describe('in the database', () => {
  it('a lease is swept after its expiry, not before, and renewed while calls are in flight', async () => {
    const [right, server] = [await core.consumer({}), await open()];
    const admission = await server.admit(right);
    await core.setClock('2026-11-15T12:00:01.500Z');
    await server.leases.maintain();
    await core.setClock('2026-11-15T12:00:03Z');
    await asSystem(core.db, sweepLeases);
    expect(await leases(right)).toBe(1);
    admission.settled();
    await core.setClock('2026-11-15T12:00:03.600Z');
    await asSystem(core.db, sweepLeases);
    expect(await leases(right)).toBe(0);
  });

  it('a lease that holds units or places is not dropped', async () => {
    const right = await core.consumer({});
    const [units, places, nothing] = [
      await leaseOf(right),
      await leaseOf(right, { units: 0n, slots: 1n }),
      await leaseOf(right, { units: 0n }),
    ];
    await asSystem(core.db, (tx) => dropLeases(tx, [units, places, nothing]));
    const left = await asSystem(core.db, (tx) => tx.lease.findMany({ where: { consumerTenantId: right.consumerTenantId } }));
    expect(left.map(({ id }) => id).sort()).toEqual([units, places].sort());
  });

  it('units of a lease that is gone do not come back', async () => {
    const right = await core.consumer({});
    const kept = await leaseOf(right);
    const returned = [kept, newId()].map((leaseId) => ({ leaseId, number: 1n, units: 1n, slots: 0n }));
    await asSystem(core.db, (tx) => returnUnits(tx, returned));
    expect((await booksOf(core.db, right)).leased).toBe(2n);
  });

  it('what can be recalled lies in another process, of the same consumer and listing, unused and not asked for yet', async () => {
    const [right, stranger] = [await core.consumer({}), await core.consumer({})];
    const own = newId();
    const found = (scope: LeaseScope) => asSystem(core.db, (tx) => hasForeignLeases(tx, scope, own));
    await leaseOf(right, { processId: own });
    await leaseOf(right, { units: 0n });
    await leaseOf(stranger);
    expect(await found({ ...right, listingId: null })).toBe(false);
    const foreign = await leaseOf(right);
    expect(await found(right)).toBe(true);
    expect(await found({ ...right, listingId: stranger.listingId })).toBe(false);
    await asSystem(core.db, (tx) => returnUnits(tx, [{ leaseId: foreign, number: 1n, units: 1n, slots: 0n }], true));
    expect(await found(right)).toBe(false);
  });
});

describe('in memory', () => {
  it('a block admits as long as its lease lives', async () => {
    const [right, server] = [await core.consumer({}), await open()];
    (await server.admit(right)).settled();
    (await server.admit(right)).settled();
    expect(server.asked.grant).toBe(1);
    server.pass(1_400);
    (await server.admit(right)).settled();
    expect(server.asked.grant).toBe(2);
  });

  it('a block admits nothing of the next month', async () => {
    await core.setClock('2026-11-30T23:59:59Z');
    const [right, server] = [await core.consumer({}), await open()];
    (await server.admit(right)).settled();
    server.pass(1_050);
    (await server.admit(right)).settled();
    expect(server.asked.grant).toBe(2);
  });

  it('a used quota is refused from memory until its month ends', async () => {
    await core.setClock('2026-11-30T23:59:59Z');
    const [right, server] = [await core.consumer({ quotaUnits: 1n }), await open()];
    await asSystem(core.db, async (tx) => {
      await lockCounter(tx, right);
      await tx.usageCounter.updateMany({ where: { consumerTenantId: right.consumerTenantId }, data: { usedUnits: 1n } });
    });
    for (let i = 0; i < 3; i++) expect(await codeOf(() => server.admit(right))).toBe('QUOTA_EXCEEDED');
    await core.setClock('2026-12-01T00:00:00Z');
    server.pass(1_100);
    expect(await codeOf(() => server.admit(right))).toBe('OK');
  });

  it.each([
    ['quota', { quotaUnits: 2n }],
    ['limit', {}],
  ])('a %s that is only in flight is free again when its calls come to nothing', async (kind, terms) => {
    const [right, server] = [await core.consumer(terms), await open()];
    if (kind === 'limit') {
      const given = {
        name: 'cap',
        subject: 'TENANT',
        subjectId: null,
        measure: 'UNITS',
        window: 'DAY',
        burstUnits: null,
        hard: true,
      } as const;
      await core.usage.createLimit(right.consumerTenantId, { ...given, amount: 2n, alertPercents: null });
    }
    const held = await server.admit(right, 2);
    expect(await codeOf(() => server.admit(right))).toBe('QUOTA_EXCEEDED');
    held.giveBack();
    await expect.poll(() => codeOf(() => server.admit(right))).toBe('OK');
  });

  it('of two calls at once only the one is refused that there are too few units for', async () => {
    const [right, server] = [await core.consumer({ quotaUnits: 3n }), await open()];
    const gate = Promise.withResolvers<void>();
    server.gates.set('grant', gate.promise);
    const first = server.admit(right, 2);
    await expect.poll(() => server.asked.grant).toBe(1);
    // Both wait when the next grant is asked for.
    const codes = Promise.all([5, 1].map((units) => codeOf(() => server.admit(right, units))));
    gate.resolve();
    await first;
    expect(await codes).toEqual(['QUOTA_EXCEEDED', 'OK']);
  });

  it('a call that did not run gives its request back, one that ran has spent it', async () => {
    const [right, server] = [await core.consumer({ requestsPerMinute: 60, burst: 2 }), await open()];
    (await server.admit(right)).giveBack();
    (await server.admit(right)).giveBack(true);
    (await server.admit(right)).settled();
    expect(await codeOf(() => server.admit(right))).toBe('RATE_LIMITED');
  });

  it.each([
    ['gives its request back', false, 'OK'],
    ['has spent its request', true, 'RATE_LIMITED'],
  ])('a call that ends after its block was closed %s (it ran: %s)', async (_, spent, outcome) => {
    const [right, server] = [await core.consumer({ requestsPerMinute: 60, burst: 1 }), await open()];
    const admission = await server.admit(right);
    server.changeLimits(right);
    admission.giveBack(spent);
    expect(await codeOf(() => server.admit(right))).toBe(outcome);
  });

  it('requests that were not made go back with their block', async () => {
    const rate = { requestsPerMinute: 6_000, burst: 60 };
    const [right, server] = [await core.consumer(rate), await open()];
    const take = () => asSystem(core.db, (tx) => takeRequests(tx, right, rate, 60));
    (await server.admit(right)).settled();
    const { granted } = await take();
    await core.setClock('2026-11-15T12:00:00.300Z');
    server.pass(2_000);
    await server.leases.maintain();
    // All of the burst but 30 have come back by themselves, and of the block all but the one that was made.
    expect(await take()).toMatchObject({ granted: 30 + (60 - granted - 1) });
  });

  it('requests of calls that failed late go back each as far as time has not given it back', async () => {
    const rate = { requestsPerMinute: 6_000, burst: 60 };
    const [right, server] = [await core.consumer(rate), await open()];
    const calls = [await server.admit(right), await server.admit(right)];
    server.pass(2_000);
    await server.leases.maintain();
    await core.setClock('2026-11-15T12:00:00.025Z');
    const take = () => asSystem(core.db, (tx) => takeRequests(tx, right, rate, 60));
    expect(await take()).toMatchObject({ granted: 60 });
    for (const admission of calls) admission.giveBack();
    await server.leases.maintain();
    expect(await take()).toMatchObject({ granted: 0 });
  });

  it('units of a burst go back whole where nobody used them, and less what has run off where their call failed late', async () => {
    const [right, server, other] = [await core.consumer({}), await open(), await open()];
    const burst = { subject: 'TENANT', subjectId: null, measure: 'UNITS', window: 'MINUTE', amount: 60n, burstUnits: 16n } as const;
    await core.usage.createLimit(right.consumerTenantId, { ...burst, name: 'cap', hard: true, alertPercents: null });
    const used = async () =>
      (await asTenant(core.db, right.consumerTenantId, (tx) => core.usage.limits(tx, right.consumerTenantId))).map((limit) => limit.used);
    const late = await server.admit(right, 9);
    const [made, idle] = [await other.admit(right, 1), 1n];
    made.settled();
    expect(await used()).toEqual([9n + 1n + idle]);
    await core.setClock('2026-11-15T12:00:01.500Z');
    for (const process of [server, other]) {
      process.pass(1_500);
      await process.leases.maintain();
    }
    // 8.5 of them: the other process's one is back, and 1.5 of all have run off.
    expect(await used()).toEqual([9n]);
    const third = await (await open()).admit(right, 4);
    late.giveBack();
    await server.leases.maintain();
    // 12.5 less 7.5.
    await expect.poll(used).toEqual([5n]);
    third.settled();
  });

  it('who is refused for want of credit has made no request', async () => {
    const right = await core.consumer({ unitPriceNanos: 10n, requestsPerMinute: 60, burst: 1 });
    const server = await open();
    expect(await codeOf(() => server.admit(right))).toBe('INSUFFICIENT_CREDIT');
    await core.billing.addCredit({ id: right.consumerTenantId }, { amountNanos: 10n, note: null, idempotencyKey: newId() });
    expect(await codeOf(() => server.admit(right))).toBe('OK');
  });

  it('a lease that was granted while limits changed is returned, and asked for anew', async () => {
    const [right, server] = [await core.consumer({}), await open()];
    const gate = Promise.withResolvers<void>();
    server.gates.set('grant', gate.promise);
    const admitted = server.admit(right, 3);
    await expect.poll(() => server.asked.grant).toBe(1);
    await expect.poll(() => leases(right)).toBe(1);
    server.changeLimits(right);
    gate.resolve();
    (await admitted).giveBack();
    expect(server.asked).toMatchObject({ grant: 2, putBack: 1 });
  });

  it('the requests of such a lease are not lost', async () => {
    const [right, server] = [await core.consumer({ requestsPerMinute: 1, burst: 1 }), await open()];
    const gate = Promise.withResolvers<void>();
    server.gates.set('grant', gate.promise);
    const admitted = server.admit(right);
    await expect.poll(() => leases(right)).toBe(1);
    server.changeLimits(right);
    gate.resolve();
    (await admitted).settled();
    expect(await codeOf(() => server.admit(right))).toBe('RATE_LIMITED');
  });

  it('who is limited is read once, again after a change, and each time out of touch with the database', async () => {
    const [right, server] = [await core.consumer({}), await open()];
    const gate = Promise.withResolvers<void>();
    server.gates.set('limitedCallers', gate.promise);
    const first = server.admit(right);
    await expect.poll(() => server.asked.limitedCallers).toBe(1);
    server.changeLimits(right);
    gate.resolve();
    (await first).settled();
    expect(server.asked.limitedCallers).toBe(2);
    (await server.admit(right)).settled();
    expect(server.asked.limitedCallers).toBe(2);
    server.changeLimits(right);
    (await server.admit(right)).settled();
    expect(server.asked.limitedCallers).toBe(3);
    server.lapse();
    (await server.admit(right)).settled();
    expect(server.asked.limitedCallers).toBe(4);
  });

  it('out of touch, what was granted or refused before a change of limits is relied on no more', async () => {
    const [right, server] = [await core.consumer({}), await open()];
    for (let i = 0; i < 2; i++) (await server.admit(right)).settled();
    server.lapse();
    const { consumerTenantId } = right;
    const none = { subject: 'TENANT', subjectId: null, measure: 'UNITS', window: 'DAY', amount: 0n, burstUnits: null } as const;
    for (let i = 0; i < 5; i++) (await server.admit(right)).settled();
    // Each closes what the one before was granted: that is no sign of traffic.
    expect((await booksOf(core.db, right)).leased).toBeLessThan(64n);
    const { id } = await core.usage.createLimit(consumerTenantId, { ...none, name: 'cap', hard: true, alertPercents: null });
    expect(await codeOf(() => server.admit(right))).toBe('QUOTA_EXCEEDED');
    await core.usage.deleteLimit(consumerTenantId, id);
    expect(await codeOf(() => server.admit(right))).toBe('OK');
  });

  it.each(['limitedCallers', 'grant'] as const)('nothing is admitted where the database fails (%s)', { timeout: 10_000 }, async (name) => {
    const [right, server] = [await core.consumer({}), await open()];
    server.faults.set(name, new Error('the database is gone'));
    expect(await codeOf(() => server.admit(right))).toBe('OVERLOADED');
    expect(await codeOf(() => server.admit(right))).toBe('OK');
  });

  it('what could not be returned is returned with the next maintenance, and a lease that is done is gone', async () => {
    const [right, server] = [await core.consumer({}), await open()];
    (await server.admit(right)).giveBack();
    server.pass(2_000);
    server.faults.set('putBack', new Error('the database is gone'));
    await expect(server.leases.maintain()).rejects.toThrow('gone');
    expect((await booksOf(core.db, right)).leased).toBeGreaterThan(0n);
    await server.leases.maintain();
    expect((await booksOf(core.db, right)).leased).toBe(0n);
    expect(await leases(right)).toBe(0);
  });

  it('what the database refuses to take back of several is put back one by one', async () => {
    const [rights, server] = [[await core.consumer({}), await core.consumer({})], await open()];
    for (const right of rights) (await server.admit(right)).giveBack();
    server.pass(2_000);
    server.faults.set('putBack', Object.assign(new Error('out of range'), { cause: { code: '22003' } }));
    await server.leases.maintain();
    expect(server.asked.putBack).toBe(3);
    for (const right of rights) expect((await booksOf(core.db, right)).leased).toBe(0n);
  });

  it('where nothing can be returned, what is done is dropped all the same, and what other processes left is swept', async () => {
    const [right, left, server] = [await core.consumer({}), await core.consumer({}), await open()];
    const last = await core.consumer({ quotaUnits: 1n });
    (await server.admit(last)).settled();
    await leaseOf(left);
    await core.setClock('2026-11-15T12:00:03Z');
    (await server.admit(right)).giveBack();
    server.pass(2_000);
    server.faults.set('putBack', new Error('the database is gone'));
    await expect(server.leases.maintain()).rejects.toThrow('gone');
    expect([await leases(left), server.asked.drop]).toEqual([0, 1]);
  });
});
