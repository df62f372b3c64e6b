import { randomBytes } from 'node:crypto';
import { serialize } from 'node:v8';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asSystem, asTenant, type Database, type Tx } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { runAudit } from '../../src/prediction/audit.ts';
import { createLeaseStore } from '../../src/prediction/lease-store.ts';
import { createReplays } from '../../src/prediction/replays.ts';
import { createUsage } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { type Core, openCore, type Right } from '../support/core.ts';

/** Rows of each table that grows with calls, of so many tenants. */
const ROWS = 20_000;
const TENANTS = 200;
/** An empty partition may well be read as it lies. */
const FEW_ROWS = 1_000n;
const NOVEMBER = { from: new Date('2026-11-01T00:00:00Z'), to: new Date('2026-12-01T00:00:00Z') };

const PLAIN = {
  subject: 'TENANT',
  subjectId: null,
  measure: 'UNITS',
  amount: 1_000n,
  burstUnits: null,
  hard: true,
  alertPercents: null,
} as const;

let core: Core;
let right: Right;
let watched: Database;
/** Tables that were read from their first row to their last. */
let scanned: Set<string>;
beforeAll(async () => {
  core = await openCore();
  right = await core.consumer({ unitPriceNanos: 1n }, 1_000_000n);
  await fill();
  scanned = new Set();
  watched = {
    ...core.db,
    listen: core.db.listen,
    tenantClient: watch(core.db.tenantClient),
    systemClient: watch(core.db.systemClient),
    systemQuery: null,
    [Symbol.asyncDispose]: async () => {},
  };
}, 120_000);
afterAll(() => core[Symbol.asyncDispose]());

/** A client whose transactions note what they scan, functions of the database included. */
function watch(client: Database['tenantClient']): Database['tenantClient'] {
  const $transaction = (fn: (tx: Tx) => Promise<unknown>, options: object) =>
    client.$transaction(async (tx) => {
      const before = await scans(tx);
      const result = await fn(tx);
      for (const [table, count] of await scans(tx)) if (count - (before.get(table) ?? 0n) >= FEW_ROWS) scanned.add(table);
      return result;
    }, options);
  return { $transaction } as unknown as Database['tenantClient'];
}

async function scans(tx: Tx): Promise<Map<string, bigint>> {
  const rows = await tx.$queryRaw<{ name: string; count: bigint }[]>`
    select relname::text "name", seq_tup_read count from pg_stat_xact_user_tables
     where relname ~ '^(usage_record|usage_rollup|idempotency_key|replay|lease|usage_counter|limit_counter|transfer|subscription_charge)'`;
  return new Map(rows.map(({ name, count }) => [name, count]));
}

/** Calls of many tenants, of which one is `right`'s, each with a key, an answer and a rollup of its own, and a lease and a counter to each hundred. */
async function fill(): Promise<void> {
  const others = Array.from({ length: TENANTS - 1 }, () => newId());
  const tenants = [right.consumerTenantId, ...others];
  const fixed = [right.publisherTenantId, right.listingId, right.modelId, right.modelVersionId] as const;
  const [publisher, listing, model, version] = fixed;
  await asAdmin(core.db, async (tx) => {
    await tx.$executeRaw`create temporary table made (id uuid, tenant uuid, listing uuid, i int, made_at timestamptz) on commit drop`;
    await tx.$executeRaw`
      insert into made
      select gen_random_uuid(), (${tenants}::uuid[])[1 + i % ${TENANTS}::int], gen_random_uuid(), i, timestamptz '2026-11-01' + i * interval '1 minute'
        from generate_series(0, ${ROWS}::int - 1) i`;
    await tx.$executeRaw`
      insert into usage_record (period, id, consumer_tenant_id, publisher_tenant_id, listing_id, model_id, model_version_id, units, rows, runs,
                                compute_micros, bytes_in, bytes_out, amount_nanos, currency, created_at)
      select '2026-11', id, tenant, ${publisher}::uuid, ${listing}::uuid, ${model}::uuid, ${version}::uuid, 1, 1, 1, 1, 1, 1, 0, 'EUR', made_at from made`;
    await tx.$executeRaw`
      insert into usage_rollup (consumer_tenant_id, grain, starts_at, listing_id, subscription_id, caller_id, by_key, currency, publisher_tenant_id,
                                predictions, units, compute_micros, amount_nanos)
      select tenant, 'HOUR', date_trunc('hour', made_at), listing, mercato_nobody(), id, false, 'EUR', ${publisher}::uuid, 1, 1, 1, 0 from made`;
    await tx.$executeRaw`
      insert into idempotency_key (tenant_id, key, digest, record_id, period)
      select tenant, 'key-' || i, ${randomBytes(32)}::bytea, id, '2026-11' from made`;
    await tx.$executeRaw`
      insert into replay (record_id, tenant_id, answer, expires_at) select id, tenant, ${serialize(null)}::bytea, timestamptz '2026-12-01' from made`;
    await tx.$executeRaw`
      insert into usage_counter (consumer_tenant_id, listing_id, period, publisher_tenant_id)
      select tenant, listing, '2026-11', ${publisher}::uuid from made`;
    await tx.$executeRaw`
      insert into lease (id, process_id, consumer_tenant_id, listing_id, period, units, expires_at)
      select id, gen_random_uuid(), tenant, listing, '2026-11', 0, timestamptz '2026-11-20' from made`;
  });
  await asAdmin(core.db, (tx) => tx.$executeRaw`analyze`);
}

it('what is read as a whole is noticed', async () => {
  scanned.clear();
  await asSystem(watched, (tx) => tx.$queryRaw`select max(bytes_in)::int from usage_record where bytes_out > 0`);
  expect([...scanned]).toEqual(['usage_record_2026_11']);
});

/** What reading does must not grow with what others have. */
describe('nothing that grows with calls is read as a whole by', () => {
  const tenant = () => right.consumerTenantId;
  const usage = () => createUsage({ db: watched, announcer: { publish: async () => 0n, confirmed: async () => {} }, currency: 'EUR' });
  it.each<[string, () => Promise<unknown>]>([
    [
      'the usage page',
      () => asTenant(watched, tenant(), (tx) => usage().report(tx, { tenantId: tenant(), ...NOVEMBER, groupBy: 'MODEL' })),
    ],
    ['the look-up of an idempotency key', () => createReplays({ db: watched, store: core.store }).lookUp(tenant(), 'key-0')],
    ['the sweep of leases', () => createLeaseStore({ db: watched, billing: core.billing, processId: newId() }).sweep()],
    [
      'the export of records',
      async () => {
        const { lines } = usage().exportRecords(tenant(), { from: '2026-11-01', to: '2026-12-01', format: 'csv' }, async () => {});
        for await (const part of lines) expect(part).not.toBe('');
      },
    ],
    ['the audit of one tenant', () => runAudit(watched, tenant())],
    ...(['MINUTE', 'HOUR', 'MONTH'] as const).map((window): [string, () => Promise<unknown>] => [
      `a limit that is set, of what its ${window} has used`,
      () => usage().createLimit(tenant(), { ...PLAIN, name: window, window }),
    ]),
  ])('%s', async (_, work) => {
    scanned.clear();
    await work();
    expect([...scanned]).toEqual([]);
  });
});
