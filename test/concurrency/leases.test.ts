import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { globalId, newId } from '../../src/base/ids.ts';
import { createGrants } from '../../src/prediction/grants.ts';
import type { Admission } from '../../src/prediction/leases.ts';
import { asAdmin } from '../support/admin.ts';
import { booksOf, broken, type Core, codeOf, finished, openCore, type Process, type Right } from '../support/core.ts';

const NOON = '2026-11-15T12:00:00Z';
const AFTER_THE_LEASES = '2026-11-15T12:00:03Z';
const MINUTE = 60_000;

let core: Core;
let one: Process;
let two: Process;
beforeAll(async () => {
  core = await openCore(NOON);
  [one, two] = [await core.process(), await core.process()];
});
afterAll(async () => {
  expect(await broken(core.db)).toEqual([]);
  await core[Symbol.asyncDispose]();
});

const admit = async (process: Process, right: Right, units: number, deadlineMs = MINUTE): Promise<Admission> =>
  process.leases.admit(right, units, deadlineMs);

async function call(process: Process, right: Right, units: number): Promise<bigint> {
  const admission = await admit(process, right, units);
  const settled = await process.settlement.settle(finished(right, admission));
  return settled.stored === null ? settled.amountNanos : -1n;
}

/** Takes all units that a process could, and dies: nobody renews, returns or answers for this lease. */
async function dieHolding(right: Right, units: number): Promise<void> {
  const dead = createGrants({ db: core.db, billing: core.billing, processId: newId() });
  expect(await dead.attempt(newId(), right, { need: units, want: units, requests: 1 })).toMatchObject({ units });
}

test('two processes answer exactly a quota of 100 between them', async () => {
  const right = await core.consumer({ unitPriceNanos: 7n, quotaUnits: 100n }, 1_000n);
  const outcomes = await Promise.all(Array.from({ length: 160 }, (_, i) => codeOf(() => call(i % 2 ? one : two, right, 1))));
  expect(outcomes.filter((code) => code === 'OK')).toHaveLength(100);
  expect(outcomes.filter((code) => code === 'QUOTA_EXCEEDED')).toHaveLength(60);
  await expect.poll(() => booksOf(core.db, right)).toEqual({ used: 100n, leased: 0n, balance: 300n, held: 0n, records: 100n });
});

test('calls of several units fill a quota while any of them fits, whoever holds the rest', async () => {
  const right = await core.consumer({ quotaUnits: 50n });
  const sizes = [7, 1, 3, 9, 2, 5, 8, 4, 6, 1, 2, 3, 1, 1, 1];
  const outcomes = await Promise.all(sizes.map((units, i) => codeOf(() => call(i % 2 ? one : two, right, units))));
  const used = sizes.reduce((sum, units, i) => sum + (outcomes[i] === 'OK' ? units : 0), 0);
  const refused = sizes.filter((_, i) => outcomes[i] === 'QUOTA_EXCEEDED');
  expect(used).toBeLessThanOrEqual(50);
  for (const units of refused) expect(used + units).toBeGreaterThan(50);
  expect((await booksOf(core.db, right)).used).toBe(BigInt(used));
});

test('units that lie unused in another process are recalled before QUOTA_EXCEEDED is said', async () => {
  const right = await core.consumer({ quotaUnits: 20n });
  const first = await admit(one, right, 1);
  expect((await booksOf(core.db, right)).leased).toBeGreaterThan(1n);
  const rest = await admit(two, right, 19);
  await expect(admit(two, right, 1)).rejects.toMatchObject({
    code: 'QUOTA_EXCEEDED',
    data: { limit: '20', resetsAt: '2026-12-01T00:00:00.000Z' },
  });
  first.giveBack();
  await expect.poll(() => codeOf(async () => (await admit(two, right, 1)).giveBack())).toBe('OK');
  rest.giveBack();
});

test('a wallet is held in other processes and for other listings only until somebody needs it', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n }, 1_000n);
  const other = await core.offer({ unitPriceNanos: 10n });
  const second = await core.subscribe(right.consumerTenantId, other.offer, other.terms);
  const held = await admit(one, right, 2);
  const more = await admit(two, second, 98);
  expect(await codeOf(() => admit(two, second, 1))).toBe('INSUFFICIENT_CREDIT');
  expect(await codeOf(() => admit(one, right, 1))).toBe('INSUFFICIENT_CREDIT');
  held.giveBack();
  await expect.poll(() => codeOf(async () => (await admit(two, second, 2)).giveBack())).toBe('OK');
  more.giveBack();
});

test('two listings that share a wallet in two processes spend exactly what it has', async () => {
  const first = await core.consumer({ unitPriceNanos: 1n }, 100n);
  const { offer, terms } = await core.offer({ unitPriceNanos: 1n });
  const second = await core.subscribe(first.consumerTenantId, offer, terms);
  const callers = [
    [one, first],
    [two, second],
    [one, second],
    [two, first],
  ] as const;
  const outcomes = await Promise.all(
    callers.flatMap(([process, right]) => Array.from({ length: 40 }, () => codeOf(() => call(process, right, 1)))),
  );
  expect(outcomes.filter((code) => code === 'OK')).toHaveLength(100);
  expect(outcomes.filter((code) => code === 'INSUFFICIENT_CREDIT')).toHaveLength(60);
  await expect.poll(() => booksOf(core.db, first)).toMatchObject({ balance: 0n, held: 0n });
});

test('INSUFFICIENT_CREDIT comes exactly where the wallet does not cover the call', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n }, 95n);
  const outcomes: string[] = [];
  for (let i = 0; i < 11; i++) outcomes.push(await codeOf(() => call(i % 2 ? one : two, right, 1)));
  expect(outcomes).toEqual([...Array<string>(9).fill('OK'), 'INSUFFICIENT_CREDIT', 'INSUFFICIENT_CREDIT']);
  expect(await booksOf(core.db, right)).toMatchObject({ used: 9n, balance: 5n, held: 0n });
});

test('a call across the end of the free units pays for those beyond it', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n, freeUnits: 5n }, 50n);
  expect(await call(one, right, 8)).toBe(30n);
  expect(await codeOf(() => call(one, right, 3))).toBe('INSUFFICIENT_CREDIT');
  expect(await call(two, right, 2)).toBe(20n);
});

test('units that are given back are free again, and so is the money', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n, quotaUnits: 4n }, 40n);
  const all = await admit(one, right, 4);
  expect(await booksOf(core.db, right)).toMatchObject({ leased: 4n, held: 40n });
  expect(await codeOf(() => admit(two, right, 1))).toBe('QUOTA_EXCEEDED');
  all.giveBack();
  await expect.poll(() => booksOf(core.db, right)).toMatchObject({ leased: 0n, held: 0n });
  expect(await call(two, right, 4)).toBe(40n);
  expect(await booksOf(core.db, right)).toEqual({ used: 4n, leased: 0n, balance: 0n, held: 0n, records: 1n });
});

test('a stopping process returns all that it holds', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n }, 10_000n);
  {
    await using process = await core.process();
    (await admit(process, right, 3)).giveBack();
    expect((await booksOf(core.db, right)).held).toBeGreaterThan(0n);
  }
  expect(await booksOf(core.db, right)).toMatchObject({ used: 0n, leased: 0n, held: 0n });
});

describe('what another process holds and does not return is said to be busy, and which it is:', () => {
  const cap = { name: 'cap', subject: 'TENANT', subjectId: null, measure: 'UNITS', window: 'DAY', hard: true } as const;
  const subjectIdOf = ({ consumerTenantId, subscriptionId }: Right, type: 'Tenant' | 'Subscription') =>
    globalId(type, type === 'Tenant' ? consumerTenantId : (subscriptionId ?? ''));

  it.each([
    [
      'the quota',
      { quotaUnits: 10n },
      'Subscription',
      { limitName: 'plan', limit: '10', used: '0', given: '2 units', expected: 'at most 0' },
    ],
    ['a limit', {}, 'Tenant', { limitName: 'cap', limit: '10', used: '10', given: '2 units', expected: 'at most 0 now' }],
    ['the wallet', { unitPriceNanos: 10n }, 'Tenant', { neededNanos: '20', availableNanos: '0', currency: 'EUR' }],
  ] as const)('%s', async (what, terms, type, data) => {
    const right = await core.consumer(terms, 100n);
    if (what === 'a limit')
      await core.usage.createLimit(right.consumerTenantId, { ...cap, amount: 10n, burstUnits: null, alertPercents: null });
    await dieHolding(right, 10);
    await expect(admit(one, right, 2, 30)).rejects.toMatchObject({
      code: 'OVERLOADED',
      message: expect.stringMatching(/^Another server has not yet returned what it holds unused .+; try again\. .*(units|nanos)/),
      data: { ...data, subject: type.toUpperCase(), subjectId: subjectIdOf(right, type), retryAfterMs: 2_000 },
    });
  });
});

test('what a dead process holds is not refused as used up; it comes back with its money when the lease ends', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n, quotaUnits: 10n }, 100n);
  await dieHolding(right, 10);
  await expect(admit(one, right, 1, 30)).rejects.toMatchObject({ code: 'OVERLOADED', data: { retryAfterMs: 2_000 } });
  await one.leases.maintain();
  expect(await booksOf(core.db, right)).toMatchObject({ leased: 10n, held: 100n });
  try {
    await core.setClock(AFTER_THE_LEASES);
    await one.leases.maintain();
    expect(await booksOf(core.db, right)).toMatchObject({ leased: 0n, held: 0n });
  } finally {
    await core.setClock(NOON);
  }
  expect(await call(one, right, 10)).toBe(100n);
});

test("a publisher's own calls cost nothing, and are limited all the same", async () => {
  const { offer } = await core.offer({ unitPriceNanos: 10n, quotaUnits: 1n });
  const right: Right = {
    ...offer,
    consumerTenantId: offer.publisherTenantId,
    terms: null,
    subscriptionId: null,
    memberId: null,
    apiKeyId: null,
  };
  expect(await call(one, right, 2_000_000)).toBe(0n);
  for (let i = 1; i < 600; i++) (await admit(one, right, 1)).settled();
  await expect(admit(one, right, 1)).rejects.toMatchObject({
    ...{ code: 'RATE_LIMITED', message: expect.stringMatching(/ 6000 times per minute in bursts of 600; of these, 600 are used\./) },
    data: { limitName: 'own-calls', subject: 'TENANT', limit: '6000', used: '600', retryAfterMs: 10 },
  });
  expect(await booksOf(core.db, right)).toMatchObject({ used: 2_000_000n, balance: 0n, held: 0n });
});

test('a burst is answered whole, however many units its calls have', async () => {
  const right = await core.consumer({ requestsPerMinute: 6_000, burst: 60 });
  const outcomes: string[] = [];
  for (let i = 0; i < 62; i++) outcomes.push(await codeOf(() => call(one, right, 16)));
  expect(outcomes.filter((code) => code === 'OK')).toHaveLength(60);
  expect(outcomes.slice(60)).toEqual(['RATE_LIMITED', 'RATE_LIMITED']);
});

test('two processes share one rate', async () => {
  const right = await core.consumer({ requestsPerMinute: 60, burst: 10 });
  const outcomes = await Promise.all(Array.from({ length: 30 }, (_, i) => codeOf(() => call(i % 2 ? one : two, right, 1))));
  expect(outcomes.filter((code) => code === 'OK')).toHaveLength(10);
  expect(outcomes.filter((code) => code === 'RATE_LIMITED')).toHaveLength(20);
});

test('a larger plan lifts the rate of the one before, at once', async () => {
  const old = await core.consumer({ requestsPerMinute: 1, burst: 20 });
  for (let i = 0; i < 20; i++) expect(await codeOf(() => call(one, old, 1))).toBe('OK');
  await expect(admit(one, old, 1)).rejects.toMatchObject({ code: 'RATE_LIMITED', data: { retryAfterMs: MINUTE } });
  const right = await core.subscribe(old.consumerTenantId, old, await core.version(old, 2, { requestsPerMinute: 6_000, burst: 23 }));
  const outcomes: string[] = [];
  for (let i = 0; i < 4; i++) outcomes.push(await codeOf(() => call(two, right, 1)));
  expect(outcomes).toEqual(['OK', 'OK', 'OK', 'RATE_LIMITED']);
});

test('units leased under an older plan version are settled under it before the newer one is leased', async () => {
  const old = await core.consumer({ unitPriceNanos: 10n, quotaUnits: 10n }, 1_000n);
  const inFlight = await admit(one, old, 2);
  const terms = await core.version(old, 2, { unitPriceNanos: 100n, quotaUnits: 5n });
  const right = await core.subscribe(old.consumerTenantId, old, terms);
  for (const process of [one, two]) {
    await expect(admit(process, right, 1, 30)).rejects.toMatchObject({
      code: 'OVERLOADED',
      message: `Calls of ${right.handle} under the former plan are still in flight; those under the new one begin once they are billed.`,
      data: {
        limitName: 'plan',
        subject: 'SUBSCRIPTION',
        subjectId: globalId('Subscription', right.subscriptionId ?? ''),
        retryAfterMs: 2_000,
      },
    });
  }
  expect(await one.settlement.settle(finished(old, inFlight))).toMatchObject({ amountNanos: 20n });
  expect(await call(two, right, 3)).toBe(300n);
  expect(await codeOf(() => call(one, right, 1))).toBe('QUOTA_EXCEEDED');
  expect(await booksOf(core.db, right)).toMatchObject({ used: 5n, balance: 680n });
});

/** What `work` comes to while somebody locks the counters of these, whose calls all wait for a grant, `stuckMin` of them in the database. */
async function whileStuck(rights: readonly Right[], stuckMin: number, work: () => Promise<void>): Promise<void> {
  // Their counters are there, and which limits they have is known.
  for (const right of rights) (await admit(one, right, 1)).giveBack();
  const tenants = rights.map(({ consumerTenantId }) => consumerTenantId);
  const stuck = await asAdmin(core.db, async (tx) => {
    await tx.$executeRaw`select from usage_counter where consumer_tenant_id = any(${tenants}::uuid[]) for update`;
    const admissions = rights.map((right) => admit(one, right, 500));
    await expect.poll(countStuck).toBeGreaterThanOrEqual(stuckMin);
    await work();
    return admissions;
  });
  for (const admission of await Promise.all(stuck)) admission.giveBack();
}

async function countStuck(): Promise<number> {
  const found = await asAdmin(
    core.db,
    (tx) => tx.$queryRaw<unknown[]>`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  );
  return found.length;
}

// Embedded, all share the one connection of whoever locks.
describe.skipIf(process.env.MERCATO_TEST_DATABASE_URL === undefined)('grants that wait leave connections', () => {
  test("of one tenant to others' grants and settlements", async () => {
    const right = await core.consumer({});
    const offers = await Promise.all(Array.from({ length: 5 }, () => core.offer({})));
    const rights = await Promise.all(offers.map(({ offer, terms }) => core.subscribe(right.consumerTenantId, offer, terms)));
    const other = await core.consumer({ unitPriceNanos: 10n }, 10_000n);
    const admission = await admit(one, other, 1);
    await whileStuck(rights, 1, async () => {
      expect(await one.settlement.settle(finished(other, admission))).toMatchObject({ amountNanos: 10n });
      (await admit(one, other, 500)).giveBack();
    });
  });

  test('of any number of tenants to settlements', async () => {
    const rights = await Promise.all(Array.from({ length: 4 }, () => core.consumer({})));
    const other = await core.consumer({ unitPriceNanos: 10n }, 1_000n);
    const admission = await admit(one, other, 1);
    await whileStuck(rights, 2, async () => {
      expect(await one.settlement.settle(finished(other, admission))).toMatchObject({ amountNanos: 10n });
    });
  });
});
