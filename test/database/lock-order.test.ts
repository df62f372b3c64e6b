import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asSystem, type Tx } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { changeHolds, move } from '../../src/billing/accounts.ts';
import { lockCounters } from '../../src/usage/counters.ts';
import { returnToLimits } from '../../src/usage/limit-counters.ts';
import { dropLeases, renewLeases, returnUnits } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { type Core, openCore } from '../support/core.ts';
import { asTheyLie, onPostgres, race, unlocked } from '../support/races.ts';

let core: Core;
beforeAll(async () => {
  core = await openCore('2026-10-15T12:00:00Z');
  await core.setClock('2026-11-15T12:00:00Z');
});
afterAll(() => core[Symbol.asyncDispose]());

const one = newId();
/** So many that they do not come in the order of their keys by chance. */
const ids = Array.from({ length: 20 }, () => newId());
const highest = ids.at(-1) ?? '';
const lower = ids.slice(0, -1);
const downwards = ids.toReversed();
const unused = (leaseId: string) => ({ leaseId, number: 1n, units: 0n, slots: 0n });
const payment = (debitAccountId: string) => ({ debitAccountId, creditAccountId: highest, postedNanos: 1n, pendingNanos: 0n });
const countersOf = (month: string) => `usage_counter where period = '${month}' and consumer_tenant_id`;
const counter = (consumerTenantId: string) => ({ consumerTenantId, listingId: one, period: '2026-11' });

/** A row of each key, the highest first. */
async function fill(tx: Tx): Promise<void> {
  for (const [i, id] of downwards.entries()) {
    await tx.$executeRaw`insert into usage_counter (consumer_tenant_id, listing_id, period, publisher_tenant_id) values (${id}::uuid, ${one}::uuid, '2026-10', ${one}::uuid)`;
    await tx.$executeRaw`insert into usage_counter (consumer_tenant_id, listing_id, period, publisher_tenant_id) values (${id}::uuid, ${one}::uuid, '2026-11', ${one}::uuid)`;
    await tx.$executeRaw`
      insert into lease (id, process_id, consumer_tenant_id, listing_id, period, units, expires_at, counters)
      values (${id}::uuid, ${one}::uuid, ${id}::uuid, ${one}::uuid, '2026-11', 0, mercato_now(), ${downwards}::uuid[])`;
    await tx.$executeRaw`insert into account (id, kind, currency) values (${id}::uuid, 'FUNDING', ${`X${i}`})`;
    await tx.$executeRaw`
      insert into usage_limit (id, tenant_id, name, subject, subject_id, measure, "window", amount, hard, alert_percents)
      values (${id}::uuid, ${one}::uuid, ${id}, 'TENANT', ${one}::uuid, 'UNITS', 'DAY', 1, true, '{}')`;
    await tx.$executeRaw`
      insert into limit_counter (id, tenant_id, limit_id, measure, starts_at) values (${id}::uuid, ${one}::uuid, ${id}::uuid, 'UNITS', mercato_now())`;
  }
}

// Embedded, one transaction runs at a time.
describe.skipIf(!onPostgres)('whoever locks several rows locks them by key:', () => {
  beforeAll(() => asAdmin(core.db, fill));

  const cases: [string, string, (tx: Tx) => Promise<unknown>][] = [
    ['leases that are renewed', 'lease where id', (tx) => renewLeases(tx, downwards)],
    ['leases that are dropped', 'lease where id', (tx) => dropLeases(tx, downwards)],
    ['leases whose units come back', 'lease where id', (tx) => returnUnits(tx, downwards.map(unused))],
    ['counters', countersOf('2026-11'), (tx) => lockCounters(tx, downwards.map(counter))],
    ['counters of a month that is closed', countersOf('2026-10'), (tx) => tx.$executeRaw`select mercato_close_period('2026-10')`],
    ['counters of limits', 'limit_counter where id', (tx) => returnToLimits(tx, [unused(highest)])],
    [
      'holds',
      'account where id',
      (tx) =>
        changeHolds(
          tx,
          downwards.map((accountId) => ({ accountId, heldNanos: 1n })),
        ),
    ],
    ['accounts that money moves between', 'account where id', (tx) => move(tx, downwards.map(payment))],
  ];
  it.each(cases)('%s', async (_, rows, work) => {
    const undone = () =>
      asSystem(core.db, async (tx) => {
        await asTheyLie(tx);
        await work(tx);
        throw new Error('undone');
      });
    const outcome = await race(
      core.db,
      (tx) => tx.$executeRawUnsafe(`select from ${rows} = '${highest}' for update`),
      undone,
      () => unlocked(core.db, rows, lower),
    );
    expect(outcome).toMatchObject({ waited: true, found: [], result: { reason: { message: 'undone' } } });
  });
});
