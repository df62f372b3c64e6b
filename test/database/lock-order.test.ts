import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asSystem, type Tx } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { changeHolds, move } from '../../src/billing/accounts.ts';
import { lockCounters } from '../../src/usage/counters.ts';
import { returnToLimits } from '../../src/usage/limit-counters.ts';
import { dropLeases, renewLeases, returnUnits } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { type Core, openCore } from '../support/core.ts';
import { isLocked, onPostgres, race } from '../support/races.ts';

let core: Core;
beforeAll(async () => {
  core = await openCore();
});
afterAll(() => core[Symbol.asyncDispose]());

const [low, high, one] = [newId(), newId(), newId()];
const bothWays = [
  [low, high],
  [high, low],
] as const;
const unused = (leaseId: string) => ({ leaseId, units: 0n, slots: 0n });
const counter = (consumerTenantId: string) => ({ consumerTenantId, listingId: one, period: '2026-11' });

/** Rows of two keys each; the higher comes first in the table. */
async function fill(tx: Tx): Promise<void> {
  for (const id of [high, low]) {
    await tx.$executeRaw`insert into usage_counter (consumer_tenant_id, listing_id, period, publisher_tenant_id) values (${id}::uuid, ${one}::uuid, '2026-11', ${one}::uuid)`;
    await tx.$executeRaw`
      insert into lease (id, process_id, consumer_tenant_id, listing_id, period, units, expires_at)
      values (${id}::uuid, ${one}::uuid, ${id}::uuid, ${one}::uuid, '2026-11', 0, mercato_now())`;
    await tx.$executeRaw`insert into account (id, kind, currency) values (${id}::uuid, 'FUNDING', ${id === low ? 'AAA' : 'BBB'})`;
    await tx.$executeRaw`
      insert into usage_limit (id, tenant_id, name, subject, subject_id, measure, "window", amount, hard, alert_percents)
      values (${id}::uuid, ${one}::uuid, ${id}, 'TENANT', ${one}::uuid, 'UNITS', 'DAY', 1, true, '{}')`;
    await tx.$executeRaw`
      insert into limit_counter (id, tenant_id, limit_id, measure, starts_at) values (${id}::uuid, ${one}::uuid, ${id}::uuid, 'UNITS', mercato_now())`;
  }
  await tx.$executeRaw`update lease set counters = ${[high, low]}::uuid[] where id = ${high}::uuid`;
}

// Embedded, one transaction runs at a time.
describe.skipIf(!onPostgres)('whoever locks several rows locks them by key:', () => {
  beforeAll(() => asAdmin(core.db, fill));

  const cases: [string, string, string, (tx: Tx, ids: readonly string[]) => Promise<unknown>][] = [
    ['leases that are renewed', 'lease', 'id', renewLeases],
    ['leases that are dropped', 'lease', 'id', dropLeases],
    ['leases whose units come back', 'lease', 'id', (tx, ids) => returnUnits(tx, ids.map(unused))],
    ['counters', 'usage_counter', 'consumer_tenant_id', (tx, ids) => lockCounters(tx, ids.map(counter))],
    ['counters of limits', 'limit_counter', 'id', (tx) => returnToLimits(tx, [unused(high)])],
    [
      'holds',
      'account',
      'id',
      (tx, ids) =>
        changeHolds(
          tx,
          ids.map((accountId) => ({ accountId, heldNanos: 1n })),
        ),
    ],
    [
      'accounts that money moves between',
      'account',
      'id',
      (tx, [from = '', to = '']) => move(tx, [{ debitAccountId: from, creditAccountId: to, postedNanos: 1n, pendingNanos: 0n }]),
    ],
  ];
  it.each(cases)('%s', async (_, table, key, work) => {
    for (const ids of bothWays) {
      const undone = () =>
        asSystem(core.db, async (tx) => {
          await work(tx, ids);
          throw new Error('undone');
        });
      const outcome = await race(
        core.db,
        (tx) => tx.$executeRawUnsafe(`select from ${table} where ${key} = '${high}' for update`),
        undone,
        () => isLocked(core.db, `select from ${table} where ${key} = '${low}'`),
      );
      expect(outcome).toMatchObject({ waited: true, found: true, result: { reason: { message: 'undone' } } });
    }
  });
});
