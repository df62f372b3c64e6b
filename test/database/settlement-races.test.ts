import { createHash } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { asSystem, type Tx } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import type { Admission } from '../../src/prediction/leases.ts';
import { lockLimits, sweepLeases, takeFromLimits } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { booksOf, broken, COMMISSION_BPS, type Core, CURRENCY, finished, openCore, type Process, type Right } from '../support/core.ts';
import { asTheyLie, onPostgres, race, unlocked } from '../support/races.ts';

const NOON = '2026-11-15T12:00:00Z';
const AFTER_THE_LEASES = '2026-11-15T12:00:03Z';
let core: Core;
let server: Process;
let other: Process;
beforeAll(async () => {
  core = await openCore(NOON);
  [server, other] = [await core.process(), await core.process()];
});
afterEach(async () => {
  await core.setClock(AFTER_THE_LEASES);
  await server.leases.maintain();
  await core.setClock(NOON);
  expect(await broken(core.db)).toEqual([]);
});
afterAll(() => core[Symbol.asyncDispose]());

const admit = async (right: Right, units: number): Promise<Admission> => server.leases.admit(right, units, 60_000);

/** One call of each, as the settlement sends them, in an open transaction. */
function settleIn(tx: Tx, calls: readonly { right: Right; admission: Admission; apiKeyId?: string }[]): Promise<unknown> {
  const groups = calls.map(({ right, admission, apiKeyId }) => ({
    ...{ period: admission.period, lease_id: admission.leaseId, counters: admission.counterIds, charge_id: newId(), api_key_id: apiKeyId },
    ...{ consumer_tenant_id: right.consumerTenantId, publisher_tenant_id: right.publisherTenantId, listing_id: right.listingId },
    ...{ model_id: right.modelId, model_version_id: right.modelVersionId, subscription_id: right.subscriptionId },
    plan_version_id: right.terms?.planVersionId,
    ...{ wallet_id: admission.accounts?.walletId, payable_id: admission.accounts?.payableId, revenue_id: admission.accounts?.revenueId },
    calls: [{ id: newId(), units: admission.units, rows: 1, runs: 1, compute_micros: 1, bytes_in: 1, bytes_out: 1 }],
  }));
  return tx.$queryRaw`select id::text, outcome from mercato_settle(${JSON.stringify(groups)}::jsonb, ${CURRENCY}, ${COMMISSION_BPS}::int, 24)`;
}

async function keyOf(tenantId: string, id = newId()): Promise<string> {
  const data = { id, tenantId, name: 'key', hash: createHash('sha256').update(id).digest(), prefix: 'mk_test', scopes: ['model:predict'] };
  await asAdmin(core.db, (tx) => tx.apiKey.create({ data }));
  return id;
}

async function capped(right: Right, amount: bigint): Promise<string> {
  const plain = { name: 'cap', subject: 'TENANT', subjectId: null, measure: 'UNITS', window: 'DAY', burstUnits: null, hard: true } as const;
  return (await core.usage.createLimit(right.consumerTenantId, { ...plain, amount, alertPercents: null })).id;
}

// Embedded, one transaction runs at a time.
describe.skipIf(!onPostgres)('a settlement waits, and goes by what it finds then, where', () => {
  it('its key is being revoked', async () => {
    const right = await core.consumer({ unitPriceNanos: 10n }, 100n);
    const apiKeyId = await keyOf(right.consumerTenantId);
    const admission = await admit(right, 1);
    const revoke = (tx: Tx) => tx.$executeRaw`update api_key set revoked_at = mercato_now() where id = ${apiKeyId}::uuid`;
    const outcome = await race(core.db, revoke, () => server.settlement.settle(finished(right, admission, { apiKeyId })));
    expect(outcome).toMatchObject({ waited: true, result: { status: 'rejected', reason: { code: 'UNAUTHENTICATED' } } });
    expect((await booksOf(core.db, right)).records).toBe(0n);
  });

  it('its lease is being swept', async () => {
    const right = await core.consumer({ unitPriceNanos: 10n, quotaUnits: 4n }, 100n);
    const admission = await admit(right, 2);
    await core.setClock(AFTER_THE_LEASES);
    const sweep = async (tx: Tx) => core.billing.hold(tx, await holdsOf(await sweepLeases(tx)));
    const outcome = await race(core.db, sweep, () => server.settlement.settle(finished(right, admission)));
    expect(outcome).toMatchObject({ waited: true, result: { status: 'fulfilled', value: { amountNanos: 20n } } });
    expect(await booksOf(core.db, right)).toMatchObject({ used: 2n, leased: 0n, held: 0n, balance: 80n });
  });

  it('another is counted on the same counter: each pays for its own side of the free units', async () => {
    const right = await core.consumer({ unitPriceNanos: 10n, freeUnits: 3n }, 100n);
    const [first, second] = [await admit(right, 2), await other.leases.admit(right, 2, 60_000)];
    expect(first.leaseId).not.toBe(second.leaseId);
    const outcome = await race(
      core.db,
      (tx) => settleIn(tx, [{ right, admission: first }]),
      () => server.settlement.settle(finished(right, second)),
    );
    expect(outcome).toMatchObject({ waited: true, result: { value: { amountNanos: 10n } } });
    expect(await booksOf(core.db, right)).toMatchObject({ used: 4n, balance: 90n });
  });

  it('another takes the last of its limit, and its lease was swept', async () => {
    const right = await core.consumer({});
    await capped(right, 4n);
    const admission = await admit(right, 3);
    await core.setClock(AFTER_THE_LEASES);
    await asSystem(core.db, sweepLeases);
    await core.setClock(NOON);
    const take = async (tx: Tx) => takeFromLimits(tx, await lockLimits(tx, right), { units: 4n, nanos: 0n, slots: 0n });
    const outcome = await race(core.db, take, () => server.settlement.settle(finished(right, admission)));
    expect(outcome).toMatchObject({ waited: true, result: { status: 'rejected', reason: { code: 'OVERLOADED' } } });
    await asAdmin(core.db, (tx) => tx.$executeRaw`update limit_counter set leased = 0 where tenant_id = ${right.consumerTenantId}::uuid`);
  });
});

it.skipIf(!onPostgres)('a limit that is lowered while a call is settled tells of what that used', async () => {
  const right = await core.consumer({});
  const limitId = await capped(right, 100n);
  const admission = await admit(right, 9);
  const same = { name: null, burstUnits: null, hard: null, alertPercents: null };
  const outcome = await race(
    core.db,
    (tx) => settleIn(tx, [{ right, admission }]),
    () => core.usage.updateLimit(right.consumerTenantId, limitId, { ...same, amount: 10n }),
  );
  expect(outcome).toMatchObject({ waited: true, result: { value: { used: 9n } } });
  const alerts = await asAdmin(core.db, (tx) => tx.usageAlert.findMany({ where: { limitId } }));
  expect(alerts).toMatchObject([{ percent: 80, amount: 10n }]);
});

it.skipIf(!onPostgres)('a limit is changed while calls cross its thresholds, and nobody waits for the other in turn', async () => {
  const right = await core.consumer({});
  const same = { name: null, burstUnits: null, hard: false, amount: null };
  const limitId = await capped(right, 30n);
  const percents = Array.from({ length: 10 }, (_, i) => i * 10 + 10);
  const change = (i: number) =>
    core.usage.updateLimit(right.consumerTenantId, limitId, { ...same, alertPercents: percents.slice(0, 1 + (i % 10)) });
  const settle = async () => server.settlement.settle(finished(right, await admit(right, 1)));
  const done = await Promise.allSettled([...Array.from({ length: 30 }, settle), ...Array.from({ length: 15 }, (_, i) => change(i))]);
  expect(done.flatMap((one) => (one.status === 'rejected' ? [String(one.reason)] : []))).toEqual([]);
});

/** What a sweep gives back of the holds, for the tests' price of ten nanos. */
async function holdsOf(changes: Awaited<ReturnType<typeof sweepLeases>>) {
  return changes.map(({ before, after }) => ({
    consumerTenantId: before.consumerTenantId,
    heldNanos: (after.leasedUnits - before.leasedUnits) * 10n,
  }));
}

describe.skipIf(!onPostgres)('a settlement locks by key within a table:', () => {
  it.each([
    ['api_key', 'id', 'tenant_id'],
    ['lease', 'id', 'consumer_tenant_id'],
    ['usage_counter', 'consumer_tenant_id', 'consumer_tenant_id'],
    ['limit_counter', 'id', 'tenant_id'],
    ['account', 'id', 'tenant_id'],
  ])('%s', async (table, key, tenant) => {
    // So many that they do not come in the order of their keys by chance.
    const calls: { right: Right; admission: Admission; apiKeyId: string }[] = [];
    for (let i = 0; i < 10; i++) {
      const right = await core.consumer({ unitPriceNanos: 10n }, 100n);
      await capped(right, 100n);
      calls.push({ right, admission: await admit(right, 1), apiKeyId: await keyOf(right.consumerTenantId) });
    }
    const tenants = calls.map(({ right }) => right.consumerTenantId);
    const rows = await asAdmin(core.db, (tx) =>
      tx.$queryRawUnsafe<{ key: string }[]>(
        `select ${key}::text "key" from ${table} where ${tenant} = any ($1::uuid[]) order by ${key}`,
        tenants,
      ),
    );
    const keys = rows.map((row) => row.key);
    // Rows that were changed lie behind all others.
    for (const changed of keys.toReversed()) {
      await asAdmin(core.db, (tx) => tx.$executeRawUnsafe(`update ${table} set ${key} = ${key} where ${key} = '${changed}'`));
    }
    const outcome = await race(
      core.db,
      (tx) => tx.$executeRawUnsafe(`select from ${table} where ${key} = '${keys.at(-1)}' for update`),
      () => asSystem(core.db, async (tx) => asTheyLie(tx).then(() => settleIn(tx, calls.toReversed()))),
      () => unlocked(core.db, `${table} where ${key}`, keys.slice(0, -1)),
    );
    expect(outcome).toMatchObject({ waited: true, found: [], result: { status: 'fulfilled' } });
    for (const { admission } of calls) admission.settled();
  });
});
