import { createHash } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { asSystem, asTenant } from '../../src/base/database.ts';
import { globalId, newId } from '../../src/base/ids.ts';
import { createLeaseStore, systemTime } from '../../src/prediction/lease-store.ts';
import type { Admission } from '../../src/prediction/leases.ts';
import { keepUsage, recallLeases } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { brokenAtLast, createLimit, type GivenLimit, limitsOf, NOTHING } from '../support/caps.ts';
import { booksOf, type Core, codeOf, finished, openCore, type Process, type Right } from '../support/core.ts';

const NOON = '2026-11-15T12:00:00Z';
let core: Core;
let one: Process;
let two: Process;
beforeAll(async () => {
  core = await openCore(NOON);
  one = await core.process();
  two = await core.process();
});
beforeEach(() => core.setClock(NOON));
afterEach(async () => {
  await core.setClock('2026-12-30T23:59:00Z');
  await expect.poll(() => brokenAtLast(core, one)).toEqual([]);
});
afterAll(() => core[Symbol.asyncDispose]());

const limit = (right: Right, given: GivenLimit) => createLimit(core, right, { amount: 10n, ...given });
const limits = (right: Right) => limitsOf(core, right);
const stateOf = async (right: Right) => (await limits(right)).map(({ used, inFlight }) => ({ used, inFlight }))[0];

async function admit(process: Process, right: Right, units = 1): Promise<Admission> {
  return process.leases.admit(right, units, 5_000);
}

async function call(process: Process, right: Right, units = 1): Promise<void> {
  const { apiKeyId, memberId } = right;
  const admission = await admit(process, right, units);
  await process.settlement.settle(finished(right, admission, { apiKeyId, userId: apiKeyId === null ? memberId : null }));
}

/** How many of `calls` calls of one unit were let in, by turns of the two processes, all at once. */
async function letIn(right: Right, calls: number): Promise<{ answered: number; refusals: Set<string> }> {
  const refusals = new Set<string>();
  let answered = 0;
  await Promise.all(
    Array.from({ length: calls }, async (_, i) => {
      const code = await codeOf(() => call(i % 2 === 0 ? one : two, right));
      if (code === 'OK') answered++;
      else refusals.add(code);
    }),
  );
  return { answered, refusals };
}

async function ownKey(right: Right): Promise<Right> {
  const apiKeyId = newId();
  await asAdmin(core.db, (tx) =>
    tx.apiKey.create({
      data: {
        id: apiKeyId,
        tenantId: right.consumerTenantId,
        name: 'k',
        hash: createHash('sha256').update(apiKeyId).digest(),
        prefix: 'mk_',
        scopes: ['model:predict'],
      },
    }),
  );
  return { ...right, apiKeyId };
}

describe('two processes admit exactly what a limit allows', () => {
  test.each(['MINUTE', 'HOUR', 'DAY', 'MONTH'] as const)('units per %s', async (window) => {
    const right = await core.consumer({});
    await limit(right, { window, amount: 23n });
    const { answered, refusals } = await letIn(right, 60);
    expect({ answered, refusals }).toEqual({ answered: 23, refusals: new Set([window === 'MINUTE' ? 'RATE_LIMITED' : 'QUOTA_EXCEEDED']) });
    expect(await stateOf(right)).toEqual({ used: 23n, inFlight: 0n });
    await core.setClock('2026-12-01T00:00:00Z');
    // Processes measure windows by their own clocks, which did not jump.
    [one, two] = [await core.process(), await core.process()];
    expect((await letIn(right, 30)).answered).toBe(23);
  });

  test('spend, with free units that cost nothing in the end', async () => {
    const right = await core.consumer({ unitPriceNanos: 7n, freeUnits: 5n }, 1_000_000n);
    await limit(right, { measure: 'SPEND', amount: 70n });
    const { answered } = await letIn(right, 60);
    expect(answered).toBe(15); // five are free, and ten cost all of it
    expect(await stateOf(right)).toEqual({ used: 70n, inFlight: 0n });
  });

  test('spend of nothing, with free units', async () => {
    const right = await core.consumer({ unitPriceNanos: 7n, freeUnits: 5n }, 1_000_000n);
    await limit(right, { measure: 'SPEND', amount: 0n });
    expect(await codeOf(() => call(one, right, 6))).toBe('QUOTA_EXCEEDED');
    expect(await letIn(right, 30)).toMatchObject({ answered: 5, refusals: new Set(['QUOTA_EXCEEDED']) });
    expect(await stateOf(right)).toEqual({ used: 0n, inFlight: 0n });
  });

  test('at the dearest price that there is, a tenant keeps nothing of the others', async () => {
    const dear = { unitPriceNanos: 10n ** 18n, freeUnits: 10n ** 12n };
    const [right, other] = [await core.consumer(dear), await core.consumer({})];
    await limit(right, { measure: 'SPEND', amount: 0n });
    await limit(right, { name: 'together', measure: 'CONCURRENCY', window: null, amount: 8n });
    let passedMs = 0;
    const process = await core.process({ ...systemTime, nowMs: () => performance.now() + passedMs });
    const [held, idle] = [await admit(process, right, 10), await admit(process, other)];
    idle.giveBack();
    passedMs = 2_000;
    await process.leases.maintain();
    expect([(await booksOf(core.db, right)).leased, (await booksOf(core.db, other)).leased]).toEqual([10n, 0n]);
    await process.settlement.settle(finished(right, held, { apiKeyId: null, userId: null }));
    for (let i = 0; i < 10; i++) await call(i % 2 ? one : two, right, 10);
    expect((await limits(right)).find(({ name }) => name === 'cap')).toMatchObject({ used: 0n, inFlight: 0n });
  });

  test('at that price units are limited as at any', async () => {
    const right = await core.consumer({ unitPriceNanos: 10n ** 18n, freeUnits: 10n ** 12n });
    await limit(right, { amount: 60n });
    await call(one, right);
    expect(await letIn(right, 70)).toMatchObject({ answered: 59, refusals: new Set(['QUOTA_EXCEEDED']) });
    expect(await stateOf(right)).toEqual({ used: 60n, inFlight: 0n });
  });

  test('a burst at once, then the rate', async () => {
    const right = await core.consumer({});
    await limit(right, { window: 'MINUTE', amount: 60n, burstUnits: 12n });
    expect((await letIn(right, 40)).answered).toBe(12);
    await core.setClock('2026-11-15T12:00:03Z');
    expect((await letIn(right, 40)).answered).toBe(3);
  });

  test('calls in flight, whichever process has them', async () => {
    const right = await core.consumer({});
    await limit(right, { measure: 'CONCURRENCY', window: null, amount: 3n });
    const held = [await admit(one, right), await admit(two, right), await admit(one, right)];
    expect(await codeOf(() => admit(one, right))).toBe('RATE_LIMITED');
    expect(await codeOf(() => admit(two, right))).toBe('RATE_LIMITED');
    held.pop()?.giveBack();
    // To another process the place is taken until it is back in the database.
    await expect.poll(async () => (await stateOf(right))?.inFlight).toBe(2n);
    held.push(await admit(two, right));
    expect(await codeOf(() => admit(one, right))).toBe('RATE_LIMITED');
    for (const admission of held) admission.giveBack();
    // Settling frees a place as giving back does.
    for (let i = 0; i < 10; i++) await call(i % 2 ? one : two, right);
  });

  test('across the listings that the tenant calls', async () => {
    const right = await core.consumer({});
    const { offer, terms } = await core.offer({});
    const other = await core.subscribe(right.consumerTenantId, offer, terms);
    await limit(right, { amount: 9n });
    const outcomes = await Promise.all(Array.from({ length: 30 }, (_, i) => codeOf(() => call(i % 2 ? one : two, i % 3 ? right : other))));
    expect(outcomes.filter((code) => code === 'OK')).toHaveLength(9);
    expect(new Set(outcomes)).toEqual(new Set(['OK', 'QUOTA_EXCEEDED']));
  });
});

describe('a limit is of its subject', () => {
  test('of one key, whose neighbours go on', async () => {
    const right = await core.consumer({});
    const [capped, free] = [await ownKey(right), await ownKey(right)];
    await limit(right, { subject: 'API_KEY', subjectId: capped.apiKeyId, amount: 4n });
    expect((await letIn(capped, 20)).answered).toBe(4);
    expect((await letIn(free, 20)).answered).toBe(20);
    expect(await stateOf(right)).toEqual({ used: 4n, inFlight: 0n });
  });

  test("of one member, the calls of the member's keys included", async () => {
    const right = await core.consumer({});
    const memberId = newId();
    await asAdmin(core.db, async (tx) => {
      await tx.user.create({ data: { id: memberId, email: `${memberId}@mercato.test`, passwordHash: '-' } });
      await tx.member.create({ data: { tenantId: right.consumerTenantId, userId: memberId, role: 'DEVELOPER' } });
    });
    await limit(right, { subject: 'MEMBER', subjectId: memberId, amount: 5n });
    const key = { ...(await ownKey(right)), memberId };
    expect((await letIn({ ...right, memberId }, 3)).answered).toBe(3);
    expect((await letIn(key, 20)).answered).toBe(2);
    expect((await letIn(right, 20)).answered).toBe(20);
  });

  test('is seen by whose calls can meet it', async () => {
    const right = await core.consumer({});
    const [member, colleague] = [newId(), newId()];
    await asAdmin(core.db, async (tx) => {
      for (const id of [member, colleague]) {
        await tx.user.create({ data: { id, email: `${id}@mercato.test`, passwordHash: '-' } });
        await tx.member.create({ data: { tenantId: right.consumerTenantId, userId: id, role: 'DEVELOPER' } });
      }
    });
    const { apiKeyId } = await ownKey(right);
    for (const [name, subject, subjectId] of [
      ['all', 'TENANT', null],
      ['subscription', 'SUBSCRIPTION', right.subscriptionId],
      ['member', 'MEMBER', member],
      ['key', 'API_KEY', apiKeyId],
    ] as const) {
      await limit(right, { name, subject, subjectId });
    }
    const { consumerTenantId: tenantId } = right;
    const seenBy = async (memberId: string | null, apiKeyId: string | null) => {
      const seen = await asTenant(core.db, tenantId, (tx) => core.usage.limitsOf(tx, { tenantId, memberId, apiKeyId }));
      return seen.map(({ name }) => name);
    };
    expect(await seenBy(member, apiKeyId)).toEqual(['all', 'subscription', 'member', 'key']);
    expect(await seenBy(member, null)).toEqual(['all', 'subscription', 'member']);
    expect(await seenBy(colleague, newId())).toEqual(['all', 'subscription']);
  });

  test('of one subscription, whose neighbours go on', async () => {
    const right = await core.consumer({});
    const { offer, terms } = await core.offer({});
    const other = await core.subscribe(right.consumerTenantId, offer, terms);
    await limit(right, { subject: 'SUBSCRIPTION', subjectId: right.subscriptionId, amount: 2n });
    expect((await letIn(right, 10)).answered).toBe(2);
    expect((await letIn(other, 10)).answered).toBe(10);
  });

  test('of a subscription and whatever follows it to the same listing: subscribing again sheds nothing', async () => {
    const right = await core.consumer({});
    const { offer, terms } = await core.offer({});
    const other = await core.subscribe(right.consumerTenantId, offer, terms);
    await limit(right, { name: 'first', subject: 'SUBSCRIPTION', subjectId: right.subscriptionId, amount: 3n });
    expect((await letIn(right, 2)).answered).toBe(2);
    const next = await core.subscribe(right.consumerTenantId, right, await core.version(right, 2, {}));
    expect((await letIn(next, 10)).answered).toBe(1);
    await expect(admit(one, next)).rejects.toMatchObject({
      code: 'QUOTA_EXCEEDED',
      data: { limitName: 'first', subject: 'SUBSCRIPTION', subjectId: globalId('Subscription', right.subscriptionId ?? '') },
    });
    // A limit of the one that follows finds what was used under the one before.
    await limit(right, { name: 'second', subject: 'SUBSCRIPTION', subjectId: next.subscriptionId, amount: 4n });
    expect((await limits(right)).map(({ name, used }) => [name, used])).toEqual([
      ['first', 3n],
      ['second', 3n],
    ]);
    expect((await letIn(other, 10)).answered).toBe(10);
  });

  test("of nobody else's: another tenant's key, subscription and member are not found", async () => {
    const [right, foreign] = [await core.consumer({}), await core.consumer({})];
    const key = await ownKey(foreign);
    for (const given of [
      { subject: 'API_KEY', subjectId: key.apiKeyId },
      { subject: 'SUBSCRIPTION', subjectId: foreign.subscriptionId },
      { subject: 'MEMBER', subjectId: newId() },
    ] as const) {
      expect(await codeOf(() => limit(right, given))).toBe('NOT_FOUND');
    }
    expect(await codeOf(() => limit(right, { subjectId: foreign.consumerTenantId }))).toBe('BAD_USER_INPUT');
  });
});

test('a limit counts what its window had used before it was set', async () => {
  const right = await core.consumer({});
  for (let i = 0; i < 6; i++) await call(one, right);
  await limit(right, { amount: 10n });
  await limit(right, { name: 'minute', window: 'MINUTE', amount: 100n });
  expect(await stateOf(right)).toEqual({ used: 6n, inFlight: 0n });
  expect((await letIn(right, 20)).answered).toBe(4);
  expect((await limits(right)).map(({ used }) => used)).toEqual([10n, 10n]);
});

test('the first calls of a new customer pass no limit by', async () => {
  const right = await core.consumer({});
  await limit(right, { amount: 3n });
  const fresh = await core.process();
  const outcomes = await Promise.all(Array.from({ length: 20 }, () => codeOf(() => call(fresh, right))));
  expect(outcomes.filter((code) => code === 'OK')).toHaveLength(3);
});

test('a limit that is set, raised and lifted holds for calls from then on, though leases were out', async () => {
  const right = await core.consumer({});
  await call(one, right);
  await call(two, right);
  const { id } = await limit(right, { amount: 5n });
  expect((await letIn(right, 20)).answered).toBe(3);
  await core.usage.updateLimit(right.consumerTenantId, id, { name: null, amount: 7n, burstUnits: null, hard: null, alertPercents: null });
  expect((await letIn(right, 20)).answered).toBe(2);
  await core.usage.updateLimit(right.consumerTenantId, id, { name: null, amount: 1n, burstUnits: null, hard: null, alertPercents: null });
  expect((await letIn(right, 20)).answered).toBe(0);
  await core.usage.deleteLimit(right.consumerTenantId, id);
  expect((await letIn(right, 20)).answered).toBe(20);
});

test('a call that waits for units while a limit is set on its key is under it when they come', async () => {
  const right = await ownKey(await core.consumer({ quotaUnits: 4n }));
  (await admit(one, right)).giveBack(); // from now on its limits are known here
  await one.leases.maintain();
  await asSystem(core.db, (tx) => recallLeases(tx, { consumerTenantId: right.consumerTenantId, listingId: null }));
  const leased = async () => (await booksOf(core.db, right)).leased;
  await expect.poll(leased).toBe(0n);
  // Nobody answers for this lease.
  const silent = createLeaseStore({ db: core.db, billing: core.billing, processId: newId() });
  const leaseId = newId();
  await silent.grant(leaseId, right, { need: 4, want: 4, requests: 1 });
  const waiting = admit(one, right).catch((error: unknown) => error);
  await limit(right, { subject: 'API_KEY', subjectId: right.apiKeyId, amount: 0n });
  await silent.putBack([{ leaseId, number: 1n, units: 4n, slots: 0n }], false);
  expect(await waiting).toMatchObject({ code: 'QUOTA_EXCEEDED', data: { limitName: 'cap', subject: 'API_KEY' } });
});

test('windows that are long over are forgotten, and what is open stays', async () => {
  const right = await core.consumer({});
  await limit(right, { name: 'minute', window: 'MINUTE', amount: 9n });
  await limit(right, { name: 'month', window: 'MONTH', amount: 9n });
  await limit(right, { name: 'together', measure: 'CONCURRENCY', window: null, amount: 9n });
  await call(one, right, 2);
  await one.leases.maintain();
  const counters = () => asSystem(core.db, (tx) => tx.limitCounter.count({ where: { tenantId: right.consumerTenantId } }));
  await keepUsage(core.db);
  expect(await counters()).toBe(3);
  await core.setClock('2026-11-17T12:00:00Z');
  await one.leases.maintain();
  await keepUsage(core.db);
  expect(await counters()).toBe(2);
  expect((await limits(right)).map(({ name, used }) => [name, used])).toEqual([
    ['minute', 0n],
    ['month', 2n],
    ['together', 0n],
  ]);
});

test.each([
  ['a burst', { window: 'MINUTE', burstUnits: 9n }],
  ['calls in flight', { measure: 'CONCURRENCY', window: null }],
] as const)('%s, which has no window that ends, is forgotten a day after its limit was removed', async (_, given) => {
  const right = await core.consumer({});
  const { id } = await limit(right, { amount: 9n, ...given });
  await call(one, right, 2);
  await one.leases.maintain();
  const counters = () => asSystem(core.db, (tx) => tx.limitCounter.count({ where: { tenantId: right.consumerTenantId } }));
  await core.setClock('2026-11-20T12:00:00Z');
  await keepUsage(core.db);
  expect(await counters()).toBe(1);
  await core.usage.deleteLimit(right.consumerTenantId, id);
  await core.setClock('2026-11-21T12:00:00Z');
  await keepUsage(core.db);
  expect(await counters()).toBe(1);
  await core.setClock('2026-11-21T12:00:01Z');
  await keepUsage(core.db);
  expect(await counters()).toBe(0);
});

test('a refusal says which limit, whose, how much, until when, and what would lift it', async () => {
  const right = await ownKey(await core.consumer({}));
  await limit(right, { subject: 'API_KEY', subjectId: right.apiKeyId, name: 'robot', amount: 2n });
  await call(one, right, 2);
  await expect(admit(one, right)).rejects.toMatchObject({
    code: 'QUOTA_EXCEEDED',
    message: expect.stringMatching(/"robot" of the API key is 2 units per day; .* 2 are used and 0 in flight.*updateUsageLimit/),
    data: {
      limitName: 'robot',
      subject: 'API_KEY',
      limit: '2',
      used: '2',
      resetsAt: '2026-11-16T00:00:00.000Z',
      expected: 'at most 0 now',
    },
  });
  await expect(admit(two, right, 3)).rejects.toMatchObject({ data: { expected: 'at most 2 a call' } });
});

test('a call that outlives its swept lease is let in again where its limits have room, else refused unbilled', async () => {
  const right = await core.consumer({});
  await limit(right, { amount: 10n });
  const [kept, lost] = [await admit(one, right, 4), await admit(one, right, 4)];
  await core.setClock('2026-11-15T12:00:10Z');
  await two.leases.maintain(); // the sweep
  expect(await stateOf(right)).toEqual({ used: 0n, inFlight: 0n });
  await one.settlement.settle(finished(right, kept));
  await call(two, right, 6);
  expect(await codeOf(() => one.settlement.settle(finished(right, lost)))).toBe('OVERLOADED');
  expect(await stateOf(right)).toEqual({ used: 10n, inFlight: 0n });
});

test('a dead process holds no place: the sweep frees units and calls in flight', async () => {
  const right = await core.consumer({});
  await limit(right, { amount: 4n });
  await limit(right, { name: 'together', measure: 'CONCURRENCY', window: null, amount: 2n });
  const dead = await core.process();
  await admit(dead, right);
  await admit(dead, right);
  expect(await codeOf(() => two.leases.admit(right, 1, 50))).not.toBe('OK');
  await core.setClock('2026-11-15T12:00:10Z');
  const held = async () => {
    await two.leases.maintain(); // a sweep passes by what another transaction has locked
    return (await limits(right)).map(({ inFlight }) => inFlight);
  };
  await expect.poll(held).toEqual([0n, 0n]);
  for (let i = 0; i < 4; i++) await call(two, right);
  expect(await codeOf(() => call(two, right))).toBe('QUOTA_EXCEEDED');
});

describe('what a limit may be', () => {
  test.each([
    ['name', { name: 'no spaces' }],
    ['name', { name: '' }],
    ['name', { name: 'plan' }],
    ['amount', { amount: -1n }],
    ['amount', { amount: 10n ** 13n }],
    ['window', { window: null }],
    ['window', { measure: 'CONCURRENCY' }],
    ['hard', { measure: 'CONCURRENCY', window: null, hard: false }],
    ['burstUnits', { burstUnits: 3n }],
    ['burstUnits', { window: 'MINUTE', burstUnits: 0n }],
    ['alertPercents', { alertPercents: [0] }],
    ['alertPercents', { alertPercents: [50, 50] }],
    ['alertPercents', { measure: 'CONCURRENCY', window: null, alertPercents: [50] }],
    ['subjectId', { subject: 'API_KEY' }],
  ] as const)('refuses a wrong %s: %o', async (field, given) => {
    const right = await core.consumer({});
    await expect(limit(right, given)).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field } });
    expect(await limits(right)).toEqual([]);
  });

  test('no name, when it is renamed, of what a plan limits', async () => {
    const right = await core.consumer({});
    const { id } = await limit(right, {});
    for (const name of ['plan', 'plan-requests', 'own-calls', 'no spaces']) {
      const renamed = core.usage.updateLimit(right.consumerTenantId, id, { ...NOTHING, name });
      await expect(renamed).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field: 'name' } });
    }
    expect(await limits(right)).toMatchObject([{ name: 'cap' }]);
  });

  test('one name among those in force', async () => {
    const right = await core.consumer({});
    const { id } = await limit(right, {});
    expect(await codeOf(() => limit(right, {}))).toBe('CONFLICT');
    await core.usage.deleteLimit(right.consumerTenantId, id);
    expect(await codeOf(() => limit(right, {}))).toBe('OK');
    expect(await codeOf(() => core.usage.deleteLimit(right.consumerTenantId, id))).toBe('NOT_FOUND');
  });
});
