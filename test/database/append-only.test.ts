import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Database, Tx } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { asAdmin, undone } from '../support/admin.ts';
import { openTestDatabase } from '../support/database.ts';

/** Every table whose rows never change, with a change that would otherwise be allowed. */
const CHANGES = {
  usage_record: 'set units = units + 1',
  transfer: 'set amount_nanos = amount_nanos + 1',
  plan_version: 'set unit_price_nanos = 1',
  idempotency_key: "set digest = sha256('another')",
  alias_move: "set alias = 'another'",
  training_epoch: 'set loss = 0',
  evaluation: "set figures = '{}'",
  strike: "set runner = 'another'",
  version_samples: "set samples = '[]'",
  usage_alert: 'set percent = 1',
  mutation_key: "set mutation = 'another'",
  closed_period: 'set closed_at = mercato_now()',
};
type Table = keyof typeof CHANGES;
const TABLES = Object.keys(CHANGES) as Table[];

let db: Database;
let partition: string;
beforeAll(async () => {
  db = await openTestDatabase();
  partition = await asAdmin(db, async (tx) => {
    await tx.$executeRaw`select mercato_ensure_partitions(1)`;
    await fill(tx);
    const [row] = await tx.$queryRaw<{ name: string }[]>`select tableoid::regclass::text "name" from usage_record`;
    return row?.name ?? '';
  });
});
afterAll(() => db[Symbol.asyncDispose]());

/** A row in each of the tables, and what it stands on. */
async function fill(tx: Tx): Promise<void> {
  const [a, b] = [newId(), newId()];
  await tx.$executeRaw`insert into tenant (id, name, display_name) values (${a}::uuid, 'shop', 'shop')`;
  await tx.$executeRaw`insert into model (id, tenant_id, name) values (${a}::uuid, ${a}::uuid, 'model')`;
  await tx.$executeRaw`insert into listing (id, publisher_tenant_id, model_id, handle) values (${a}::uuid, ${a}::uuid, ${a}::uuid, 'shop/model')`;
  await tx.$executeRaw`insert into plan (id, publisher_tenant_id, listing_id, name) values (${a}::uuid, ${a}::uuid, ${a}::uuid, 'plan')`;
  await tx.$executeRaw`
    insert into plan_version (id, publisher_tenant_id, plan_id, number, currency, unit_price_nanos, free_units)
    values (${a}::uuid, ${a}::uuid, ${a}::uuid, 1, 'EUR', 10, 0)`;
  await tx.$executeRaw`
    insert into usage_record (period, id, consumer_tenant_id, publisher_tenant_id, listing_id, model_id, model_version_id, units, rows, runs,
      compute_micros, bytes_in, bytes_out, amount_nanos, currency)
    values (mercato_period(mercato_now()), ${a}::uuid, ${b}::uuid, ${a}::uuid, ${a}::uuid, ${a}::uuid, ${a}::uuid, 1, 1, 1, 1, 1, 1, 0, 'EUR')`;
  await tx.$executeRaw`insert into closed_period (period) values ('2026-10')`;
  await tx.$executeRaw`
    insert into transfer (id, batch_id, kind, debit_account_id, credit_account_id, amount_nanos, currency, period)
    values (${a}::uuid, ${a}::uuid, 'CREDIT', ${a}::uuid, ${b}::uuid, 1, 'EUR', '2026-11')`;
  await tx.$executeRaw`
    insert into model_version (id, tenant_id, model_id, number, sha256, size_bytes)
    values (${a}::uuid, ${a}::uuid, ${a}::uuid, 1, ${'0'.repeat(64)}, 1)`;
  await tx.$executeRaw`
    insert into alias_move (id, tenant_id, model_id, alias, kind, to_version_id)
    values (${a}::uuid, ${a}::uuid, ${a}::uuid, 'live', 'PROMOTE', ${a}::uuid)`;
  await tx.$executeRaw`
    insert into strike (id, version_id, publisher_tenant_id, consumer_tenant_id, kind, runner)
    values (${a}::uuid, ${a}::uuid, ${a}::uuid, ${b}::uuid, 'CRASH', 'runner')`;
  await tx.$executeRaw`
    insert into usage_limit (id, tenant_id, name, subject, subject_id, measure, "window", amount, hard, alert_percents)
    values (${a}::uuid, ${a}::uuid, 'limit', 'TENANT', ${a}::uuid, 'UNITS', 'DAY', 1, true, '{100}')`;
  await tx.$executeRaw`
    insert into usage_alert (tenant_id, limit_id, counter_id, percent, used, amount) values (${a}::uuid, ${a}::uuid, ${a}::uuid, 100, 1, 1)`;
  await tx.$executeRaw`
    insert into mutation_key (tenant_id, mutation, key, digest, object_id) values (${a}::uuid, 'createApiKey', 'key', sha256('digest'), ${a}::uuid)`;
  await tx.$executeRaw`insert into version_samples (version_id, tenant_id, samples) values (${a}::uuid, ${a}::uuid, '[{}]')`;
  await tx.$executeRaw`
    insert into work (id, tenant_id, kind, time_limit_ms, memory_limit_mib) values (${a}::uuid, ${a}::uuid, 'TRAIN', 1, 1)`;
  await tx.$executeRaw`
    insert into dataset (id, tenant_id, name, format, sha256, size_bytes, bad_rows_max)
    values (${a}::uuid, ${a}::uuid, 'rows', 'CSV', ${'0'.repeat(64)}, 1, 0)`;
  await tx.$executeRaw`
    insert into training_run (id, tenant_id, dataset_id, model_id, spec) values (${a}::uuid, ${a}::uuid, ${a}::uuid, ${a}::uuid, '{}')`;
  await tx.$executeRaw`
    insert into training_epoch (run_id, epoch, tenant_id, loss, learning_rate, elapsed_ms) values (${a}::uuid, 1, ${a}::uuid, 1, 1, 1)`;
  await tx.$executeRaw`
    insert into evaluation (id, tenant_id, version_id, data_key, figures) values (${a}::uuid, ${a}::uuid, ${a}::uuid, 'rows', '{}')`;
  await tx.$executeRaw`
    insert into idempotency_key (tenant_id, key, digest, record_id, period) values (${a}::uuid, 'key', sha256('digest'), ${a}::uuid, '2026-11')`;
}

/** Runs a statement as a role in a transaction that is undone: rows affected, or the refusal. */
function attempt(role: string, sql: string): Promise<number> {
  return undone(db, async (tx) => {
    await tx.$executeRaw`select set_config('role', ${role}, true)`;
    return tx.$executeRawUnsafe(sql);
  });
}

const statements = (table: Table): [string, string][] => [
  ['UPDATE', `update ${table} ${CHANGES[table]}`],
  ['DELETE', `delete from ${table}`],
  ['TRUNCATE', `truncate ${table} cascade`],
];

it('the append-only tables are those that a trigger keeps, whole, but for what is old of alerts', async () => {
  const rows = await asAdmin(
    db,
    (tx) => tx.$queryRaw<{ name: string; whole: boolean; aged: string | null }[]>`
      select tgrelid::regclass::text "name", bit_or(tgtype & 56) = 56 whole, string_agg(case when tgqual is not null then tgname::text end, ' ') aged
        from pg_trigger where tgfoid = 'mercato_refuse_change'::regproc and tgenabled = 'O' group by tgrelid order by 1`,
  );
  const partitions = rows.filter((row) => row.name.startsWith('usage_record_'));
  expect(partitions.length).toBe(2);
  expect(rows.filter((row) => !partitions.includes(row)).map((row) => row.name)).toEqual([...TABLES].sort());
  for (const { whole } of rows) expect(whole).toBe(true);
  expect(rows.flatMap(({ aged }) => aged ?? [])).toEqual(['usage_alert_append_only_for_400_days']);
});

describe.each(TABLES)('%s', (table) => {
  it.each(statements(table))('refuses %s to a superuser, whom neither grants nor policies stop', async (_, sql) => {
    await expect(attempt('none', sql)).rejects.toThrow('is append-only');
  });

  it.each(statements(table))("refuses %s to the tables' owner, or shows it no row to change", async (_, sql) => {
    const outcome = await attempt('mercato_owner', sql).catch((error: Error) => error.message);
    if (outcome !== 0) expect(outcome).toMatch(/is append-only|permission denied/);
  });

  it.each(['mercato_system', 'mercato_tenant'])('gives no grant to change it to %s', async (role) => {
    for (const [, sql] of statements(table)) await expect(attempt(role, sql)).rejects.toThrow('permission denied');
  });
});

it.each(['none', 'mercato_owner'])(
  'a partition of usage_record can be emptied by its own name no more than the whole (role %s)',
  async (role) => {
    await expect(attempt(role, `truncate ${partition}`)).rejects.toThrow('is append-only');
    if (role === 'none') await expect(attempt(role, `delete from ${partition}`)).rejects.toThrow('is append-only');
  },
);
