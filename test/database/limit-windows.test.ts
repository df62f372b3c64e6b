import { createHash } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { asSystem } from '../../src/base/database.ts';
import type { MercatoError } from '../../src/base/errors.ts';
import { newId } from '../../src/base/ids.ts';
import type { PlanTerms } from '../../src/catalog/catalog.ts';
import { lockLimits } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { alertsOf, brokenAtLast, createLimit, type GivenLimit, limitsOf, NOTHING } from '../support/caps.ts';
import { type Core, codeOf, finished, openCore, type Process, type Right } from '../support/core.ts';

const NOON = '2026-11-15T12:00:00Z';
let core: Core;
let one: Process;
let two: Process;
beforeAll(async () => {
  core = await openCore(NOON);
  [one, two] = [await core.process(), await core.process()];
});
beforeEach(() => core.setClock(NOON));
afterEach(async () => {
  await core.setClock('2026-12-30T23:59:00Z');
  await expect.poll(() => brokenAtLast(core, one)).toEqual([]);
});
afterAll(() => core[Symbol.asyncDispose]());

const limit = (right: Right, given: GivenLimit) => createLimit(core, right, given);
const alertsFor = (right: Right) => alertsOf(core, right);
const limits = (right: Right) => limitsOf(core, right);

async function call(process: Process, right: Right, units: number): Promise<void> {
  const { apiKeyId, memberId } = right;
  const admission = await process.leases.admit(right, units, 5_000);
  await process.settlement.settle(finished(right, admission, { apiKeyId, userId: apiKeyId === null ? memberId : null }));
}

async function withKey(right: Right, memberId: string): Promise<Right> {
  const id = newId();
  const hash = createHash('sha256').update(id).digest();
  const data = {
    id,
    tenantId: right.consumerTenantId,
    name: 'k',
    hash,
    prefix: 'mk_',
    scopes: ['model:predict'],
    createdByUserId: memberId,
  };
  await asAdmin(core.db, (tx) => tx.apiKey.create({ data }));
  return { ...right, apiKeyId: id };
}

test.each(['MINUTE', 'DAY'] as const)('what a limit per %s finds used is of its own tenant, subject and window', async (window) => {
  const [right, stranger] = [await core.consumer({}), await core.consumer({})];
  const { offer, terms } = await core.offer({});
  const elsewhere = await core.subscribe(right.consumerTenantId, offer, terms);
  const [member, colleague] = [newId(), newId()];
  await asAdmin(core.db, async (tx) => {
    for (const id of [member, colleague]) {
      await tx.user.create({ data: { id, email: `${id}@mercato.test`, passwordHash: '-' } });
      await tx.member.create({ data: { tenantId: right.consumerTenantId, userId: id, role: 'DEVELOPER' } });
    }
  });
  const [key, other] = [await withKey(right, member), await withKey(right, colleague)];
  await core.setClock('2026-11-14T23:59:59Z');
  await call(one, key, 1_000);
  await core.setClock(NOON);
  await call(one, stranger, 500);
  await call(one, key, 1);
  await call(one, other, 2);
  await call(one, { ...right, memberId: member }, 4);
  await call(one, { ...elsewhere, memberId: colleague }, 8);
  const next = await core.subscribe(right.consumerTenantId, right, right.terms as PlanTerms);
  const of = async (given: GivenLimit) => (await limit(right, { name: newId(), window, amount: 10_000n, ...given })).used;
  expect(await of({})).toBe(15n);
  // To the system role, which counts, no wall hides a stranger's use.
  expect(await asSystem(core.db, (tx) => lockLimits(tx, right))).toMatchObject([{ used: 15n }]);
  expect(await of({ subject: 'SUBSCRIPTION', subjectId: next.subscriptionId })).toBe(7n);
  expect(await of({ subject: 'API_KEY', subjectId: key.apiKeyId })).toBe(1n);
  expect(await of({ subject: 'MEMBER', subjectId: member })).toBe(5n);
});

test.each([
  ['SPEND', 35n, 30n],
  ['UNITS', 8n, 6n],
] as const)('a call whose lease was swept is let in again by each kind of limit as the kind counts: %s', async (measure, amount, all) => {
  const right = await core.consumer({ unitPriceNanos: 5n }, 1_000n);
  await limit(right, { measure, amount });
  await limit(right, { name: 'soft', hard: false, amount: 1n });
  await limit(right, { name: 'together', measure: 'CONCURRENCY', window: null, amount: 2n });
  await limit(right, { name: 'burst', window: 'MINUTE', amount: 1n, burstUnits: 12n });
  const [kept, lost] = [await one.leases.admit(right, 3, 5_000), await one.leases.admit(right, 3, 5_000)];
  await core.setClock('2026-11-15T12:00:10Z');
  await two.leases.maintain();
  expect(await one.settlement.settle(finished(right, kept))).toMatchObject({ amountNanos: 15n });
  await call(two, right, 3);
  expect(await codeOf(() => one.settlement.settle(finished(right, lost)))).toBe('OVERLOADED');
  const used = Object.fromEntries((await limits(right)).map((shown) => [shown.name, shown.used]));
  expect(used).toMatchObject({ cap: all, soft: 6n, together: 0n });
});

test('a call whose free units others had is refused unbilled where its spend limit lacks what it costs then, else billed', async () => {
  const right = await core.consumer({ unitPriceNanos: 7n, freeUnits: 5n }, 1_000n);
  const frugal = await withKey(right, newId());
  const capped = { name: 'key', subject: 'API_KEY', subjectId: frugal.apiKeyId, measure: 'SPEND' } as const;
  const { id } = await limit(right, { ...capped, amount: 6n });
  const first = await one.leases.admit(frugal, 3, 5_000);
  await call(two, right, 5);
  await expect(one.settlement.settle(finished(frugal, first, { apiKeyId: frugal.apiKeyId }))).rejects.toMatchObject({
    code: 'OVERLOADED',
    message: expect.stringMatching(/not billed\. The limit "key" of the API key is 6 nanos per day; of these, 0 are used and 0 in flight/),
    data: {
      limitName: 'key',
      subject: 'API_KEY',
      limit: '6',
      used: '0',
      given: '3 units',
      expected: 'at most 0 a call',
      retryAfterMs: 1_000,
    },
  });
  expect(await codeOf(() => one.leases.admit(frugal, 1, 5_000))).toBe('QUOTA_EXCEEDED');
  await core.usage.updateLimit(right.consumerTenantId, id, { ...NOTHING, amount: 14n });
  await call(one, frugal, 2);
  expect((await limits(right)).map(({ used, inFlight }) => [used, inFlight])).toEqual([[14n, 0n]]);
});

test('what a lease still holds of a spend limit pays for its calls, though others had the free units that it counted on', async () => {
  const right = await core.consumer({ unitPriceNanos: 7n, freeUnits: 3n }, 1_000n);
  const frugal = await withKey(right, newId());
  await limit(right, { name: 'key', subject: 'API_KEY', subjectId: frugal.apiKeyId, measure: 'SPEND', amount: 14n });
  (await one.leases.admit(frugal, 5, 5_000)).giveBack();
  await call(two, right, 3);
  await call(one, frugal, 1);
  await call(one, frugal, 1);
  expect((await limits(right)).map(({ used }) => used)).toEqual([14n]);
  expect(await codeOf(() => call(one, frugal, 1))).toBe('OVERLOADED');
});

test('it is billed where there is room by then, whatever a soft limit has', async () => {
  const right = await core.consumer({ unitPriceNanos: 7n, freeUnits: 5n }, 1_000n);
  const frugal = await withKey(right, newId());
  const ofKey = { subject: 'API_KEY', subjectId: frugal.apiKeyId, measure: 'SPEND' } as const;
  const { id } = await limit(right, { ...ofKey, amount: 0n });
  await limit(right, { ...ofKey, name: 'soft', amount: 1n, hard: false });
  const first = await one.leases.admit(frugal, 3, 5_000);
  await call(two, right, 5);
  await core.usage.updateLimit(right.consumerTenantId, id, { ...NOTHING, amount: 21n });
  const settled = await one.settlement.settle(finished(frugal, first, { apiKeyId: frugal.apiKeyId }));
  expect(settled).toMatchObject({ amountNanos: 21n });
});

test('a call that was let in at its full price is billed, though its spend limit was lowered meanwhile', async () => {
  const right = await core.consumer({ unitPriceNanos: 7n }, 1_000n);
  const { id } = await limit(right, { measure: 'SPEND', amount: 100n });
  const first = await one.leases.admit(right, 3, 5_000);
  await core.usage.updateLimit(right.consumerTenantId, id, { ...NOTHING, amount: 1n });
  expect(await one.settlement.settle(finished(right, first))).toMatchObject({ amountNanos: 21n });
});

test.each([
  ['UNITS', 3n],
  ['SPEND', 0n],
] as const)('a limit of %s that was removed refuses nothing that is settled late', async (measure, amount) => {
  const right = await core.consumer({ unitPriceNanos: 7n, freeUnits: 3n }, 1_000n);
  const { id } = await limit(right, { measure, amount });
  const first = await one.leases.admit(right, 3, 5_000);
  await core.usage.updateLimit(right.consumerTenantId, id, { ...NOTHING, amount: 0n });
  await core.usage.deleteLimit(right.consumerTenantId, id);
  await core.setClock('2026-11-15T12:00:10Z');
  await two.leases.maintain();
  await call(two, right, 3);
  expect(await one.settlement.settle(finished(right, first))).toMatchObject({ amountNanos: 21n });
  expect(await alertsFor(right)).toEqual([]);
});

test('free units that lie unused in another process are asked for before a spend limit refuses', async () => {
  const right = await core.consumer({ unitPriceNanos: 7n, freeUnits: 5n }, 1_000n);
  const frugal = await withKey(right, newId());
  await limit(right, { name: 'key', subject: 'API_KEY', subjectId: frugal.apiKeyId, measure: 'SPEND', amount: 0n });
  await call(two, right, 1);
  await call(one, frugal, 4);
  const refusal = { code: 'QUOTA_EXCEEDED', data: { given: '1 unit', expected: 'at most 0 a call' } };
  await expect(one.leases.admit(frugal, 1, 5_000)).rejects.toMatchObject(refusal);
});

test('a refusal is of the call that is refused, though it was found for another', async () => {
  const right = await core.consumer({});
  await limit(right, { amount: 5n });
  await call(one, right, 5);
  for (const units of [7, 1]) {
    const given = `${units} unit${units === 1 ? '' : 's'}`;
    await expect(codeAndGiven(() => one.leases.admit(right, units, 5_000))).resolves.toEqual(['QUOTA_EXCEEDED', given]);
  }
});

test('of the wallet, each that waits is told what its own call may cost', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n, freeUnits: 1n }, 5n);
  const refused = (units: number, neededNanos: string) =>
    expect(one.leases.admit(right, units, 5_000)).rejects.toMatchObject({
      code: 'INSUFFICIENT_CREDIT',
      message: expect.stringContaining(`may cost ${neededNanos} nanos of EUR`),
      data: { neededNanos, availableNanos: '5' },
    });
  await Promise.all([refused(2, '10'), refused(5, '40')]);
});

async function codeAndGiven(work: () => unknown): Promise<unknown[]> {
  try {
    await work();
    return [];
  } catch (error) {
    const { code, data } = error as MercatoError;
    return [code, data.given];
  }
}

test('what a lease holds of spend is what its units cost, and less as they are settled or returned', async () => {
  const right = await core.consumer({ unitPriceNanos: 7n, freeUnits: 5n }, 1_000n);
  const { id } = await limit(right, { measure: 'SPEND', amount: 100n, hard: false });
  const held = async () => (await limits(right)).map(({ used, inFlight }) => [used, inFlight])[0];
  const [first, second] = [await one.leases.admit(right, 4, 5_000), await two.leases.admit(right, 4, 5_000)];
  await one.leases.maintain();
  await two.leases.maintain();
  expect((await held())?.[1]).toBeGreaterThanOrEqual(21n);
  const leases = () => asAdmin(core.db, (tx) => tx.lease.findMany({ where: { consumerTenantId: right.consumerTenantId } }));
  const costMost = async () => 7n * (await leases()).reduce((sum, { units }) => sum + units, 0n);
  await two.settlement.settle(finished(right, second));
  expect(await held()).toEqual([0n, await costMost()]);
  await one.settlement.settle(finished(right, first));
  expect(await held()).toEqual([21n, await costMost()]);
  await core.usage.updateLimit(right.consumerTenantId, id, NOTHING);
  await expect.poll(held).toEqual([21n, 0n]);
});

test('a burst fills to itself only, however long nobody calls', async () => {
  const right = await core.consumer({});
  await limit(right, { window: 'MINUTE', amount: 60n, burstUnits: 12n });
  await call(one, right, 12);
  await core.setClock('2026-11-15T12:10:00Z');
  await call(one, right, 12);
  expect(await codeOf(() => one.leases.admit(right, 1, 5_000))).toBe('RATE_LIMITED');
});

test('what a call did not use of a burst is there again', async () => {
  const right = await core.consumer({});
  await limit(right, { window: 'MINUTE', amount: 60n, burstUnits: 12n });
  (await one.leases.admit(right, 12, 5_000)).giveBack();
  await expect.poll(() => codeOf(async () => (await two.leases.admit(right, 12, 5_000)).giveBack())).toBe('OK');
});

test('what a swept lease held of a burst comes back with time alone, since its calls may still be billed', async () => {
  const right = await core.consumer({});
  await limit(right, { window: 'MINUTE', amount: 60n, burstUnits: 12n });
  const [slow, idle] = [await one.leases.admit(right, 8, 5_000), await one.leases.admit(right, 4, 5_000)];
  await core.setClock('2026-11-15T12:00:03Z');
  await two.leases.maintain();
  await call(two, right, 3);
  slow.giveBack();
  idle.giveBack();
  await one.leases.maintain();
  expect(await codeOf(() => two.leases.admit(right, 1, 5_000))).toBe('RATE_LIMITED');
});

test('a limit that is changed stays in form, and with bursts or without', async () => {
  const right = await core.consumer({});
  const { id } = await limit(right, { window: 'MINUTE' });
  for (const change of [{ burstUnits: 3n, alertPercents: [] }, { amount: -1n }, { name: 'no spaces' }]) {
    expect(await codeOf(() => core.usage.updateLimit(right.consumerTenantId, id, { ...NOTHING, ...change }))).toBe('BAD_USER_INPUT');
  }
});

test('what was used of a burst counts at once against the new amount and burst', async () => {
  const right = await core.consumer({});
  const { id } = await limit(right, { window: 'MINUTE', amount: 1n, burstUnits: 10n });
  await call(one, right, 10);
  await expect(one.leases.admit(right, 1, 5_000)).rejects.toMatchObject({ code: 'RATE_LIMITED', data: { used: '10' } });
  const update = (change: object) => core.usage.updateLimit(right.consumerTenantId, id, { ...NOTHING, ...change });
  expect((await update({ amount: 60n })).used).toBe(10n);
  expect(await codeOf(() => one.leases.admit(right, 1, 5_000))).toBe('RATE_LIMITED');
  await core.setClock('2026-11-15T12:00:04Z');
  await call(one, right, 4);
  expect(await codeOf(() => one.leases.admit(right, 1, 5_000))).toBe('RATE_LIMITED');
  expect((await update({ burstUnits: 12n })).used).toBe(10n);
  await call(one, right, 2);
  expect((await update({ amount: 1n })).used).toBe(12n);
  await core.setClock('2026-11-15T12:01:04Z');
  expect(await codeOf(() => one.leases.admit(right, 2, 5_000))).toBe('RATE_LIMITED');
  await call(one, right, 1);
});
