import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Database, Tx } from '../../src/base/database.ts';
import { asAdmin, undone } from '../support/admin.ts';
import { openTestDatabase } from '../support/database.ts';

let db: Database;
beforeAll(async () => {
  db = await openTestDatabase();
  await asAdmin(db, (tx) => tx.$executeRaw`select mercato_ensure_partitions(1)`);
});
afterAll(() => db[Symbol.asyncDispose]());

type Row = Record<string, string>;
const ID = "'00000000-0000-7000-8000-000000000001'";
const OTHER = "'00000000-0000-7000-8000-000000000002'";
const HASH = "sha256('x')";
const SIDES = { consumer_tenant_id: ID, publisher_tenant_id: ID, listing_id: ID };
const MEASURED = {
  units: '1',
  rows: '1',
  runs: '1',
  compute_micros: '1',
  bytes_in: '1',
  bytes_out: '1',
  amount_nanos: '0',
  currency: "'EUR'",
};
const POSTED = { batch_id: ID, kind: "'CREDIT'", debit_account_id: ID, credit_account_id: OTHER, amount_nanos: '1', currency: "'EUR'" };
const LIMIT = { tenant_id: ID, name: "'l'", subject: "'TENANT'", subject_id: ID, measure: "'UNITS'", '"window"': "'DAY'", amount: '1' };

/** A right row of each table, as SQL. */
const ROWS: Record<string, Row> = {
  server_process: { id: ID, confirmed_seq: '0', heartbeat_at: 'now()', started_at: 'now()' },
  invalidation: { seq: '1', kind: "'k'", subject_id: ID },
  tenant: { id: ID, name: "'name'", display_name: "'n'" },
  app_user: { id: ID, email: "'a@example.com'", password_hash: "'h'" },
  member: { tenant_id: ID, user_id: ID, role: "'OWNER'" },
  session: { id: ID, user_id: ID, tenant_id: ID, expires_at: 'now()' },
  refresh_token: { hash: HASH, session_id: ID },
  api_key: { id: ID, tenant_id: ID, name: "'k'", hash: HASH, prefix: "'mk_'", scopes: "'{}'" },
  api_key_use: { api_key_id: ID, tenant_id: ID, last_used_at: 'now()' },
  mutation_key: { tenant_id: ID, mutation: "'m'", key: "'k'", digest: HASH, object_id: ID },
  usage_counter: { ...SIDES, period: "'2026-11'" },
  lease: { id: ID, process_id: ID, consumer_tenant_id: ID, listing_id: ID, period: "'2026-11'", units: '1', expires_at: 'now()' },
  rate_limit: { consumer_tenant_id: ID, listing_id: ID, arrival_at: 'now()', requests_per_minute: '1' },
  usage_record: { period: 'mercato_period(now())', id: ID, ...SIDES, model_id: ID, model_version_id: ID, ...MEASURED },
  usage_limit: { id: ID, ...LIMIT, hard: 'true', alert_percents: "'{}'" },
  limit_counter: { id: ID, tenant_id: ID, limit_id: ID, measure: "'UNITS'", starts_at: "'2026-11-01'" },
  usage_alert: { id: ID, tenant_id: ID, limit_id: ID, counter_id: ID, percent: '1', used: '1', amount: '1' },
  outbox: { id: ID, tenant_id: ID, topic: "'t'", payload: "'{}'" },
  usage_rollup: {
    ...{ ...SIDES, grain: "'DAY'", starts_at: "'2026-11-01'", subscription_id: ID, caller_id: ID, by_key: 'true', currency: "'EUR'" },
    ...{ predictions: '1', units: '1', compute_micros: '1', amount_nanos: '1' },
  },
  idempotency_key: { tenant_id: ID, key: "'k'", digest: HASH, record_id: ID, period: "'2026-11'" },
  replay: { record_id: ID, tenant_id: ID, answer: HASH, expires_at: 'now()' },
  account: { id: ID, kind: "'WALLET'", tenant_id: ID, currency: "'EUR'" },
  transfer: { id: ID, ...POSTED, period: "'2026-11'" },
  subscription_charge: {
    subscription_id: ID,
    period: "'2026-11'",
    consumer_tenant_id: ID,
    publisher_tenant_id: ID,
    currency: "'EUR'",
    commission_bps: '1',
  },
  closed_period: { period: "'2020-11'" },
  plan_version: { id: ID, publisher_tenant_id: ID, plan_id: ID, number: '1', currency: "'EUR'", unit_price_nanos: '1', free_units: '1' },
  subscription: { id: ID, ...SIDES, plan_id: ID, plan_version_id: ID },
};

const PLATFORM = { kind: "'FUNDING'", tenant_id: 'null' };
const RESOLVES = { kind: "'PAYOUT'", phase: "'VOID_PENDING'", pending_id: ID };
const BURST = { '"window"': "'MINUTE'", burst_units: '1' };

/** What each CHECK refuses: for each of its conditions a row that breaks it alone. */
const BREACHES: Record<string, Row[]> = {
  tenant_name_check: [{ name: "'A'" }, { name: "'a--b'" }],
  app_user_email_check: [{ email: "'A@example.com'" }, { email: "' a@example.com'" }],
  api_key_hash_check: [{ hash: "'x'" }],
  mutation_key_digest_check: [{ digest: "'x'" }],
  usage_counter_bounds_check: [{ used_units: '-1' }, { leased_units: '-1' }, { used_units: '1', leased_units: '1', quota_units: '1' }],
  usage_counter_period_check: [{ period: "'2026-13'" }],
  lease_bounds_check: [{ units: '-1' }],
  lease_slots_check: [{ slots: '-1' }],
  lease_nanos_check: [{ nanos: '-1' }],
  usage_record_bounds_check: [
    ...[
      { units: '0' },
      { rows: '-1' },
      { runs: '0' },
      { compute_micros: '-1' },
      { bytes_in: '-1' },
      { bytes_out: '-1' },
      { amount_nanos: '-1' },
    ],
    ...[{ amount_nanos: '1' }, { transfer_id: ID }],
  ],
  usage_limit_amount_check: [{ amount: '-1' }],
  usage_limit_window_check: [{ '"window"': 'null' }, { measure: "'CONCURRENCY'" }],
  usage_limit_burst_check: [
    ...[
      { ...BURST, burst_units: '0' },
      { ...BURST, amount: '0' },
      { ...BURST, measure: "'SPEND'" },
    ],
    ...[
      { ...BURST, '"window"': "'HOUR'" },
      { ...BURST, hard: 'false' },
    ],
  ],
  usage_limit_hard_check: [{ hard: 'false', measure: "'CONCURRENCY'", '"window"': 'null' }],
  usage_limit_tenant_check: [{ subject_id: OTHER }],
  limit_counter_arrival_check: [{ arrival_at: 'now()' }, { arrival_amount: '1' }, { arrival_at: 'now()', arrival_amount: '0' }],
  rate_limit_rate_check: [{ requests_per_minute: '0' }],
  limit_counter_check: [{ used: '-1' }, { leased: '-1' }],
  idempotency_key_bounds_check: [{ key: "''" }, { key: "repeat('k', 256)" }, { digest: "'x'" }],
  replay_place_check: [{ answer: 'null' }, { store_key: "'k'" }],
  account_wallet_check: [{ ...PLATFORM, held_nanos: '-1' }, { ...PLATFORM, credit_limit_nanos: '-1' }, { held_nanos: '1' }],
  account_pending_check: [
    { ...PLATFORM, pending_debits_nanos: '-1' },
    { ...PLATFORM, pending_credits_nanos: '-1' },
  ],
  account_payable_check: [{ kind: "'PUBLISHER_PAYABLE'", pending_debits_nanos: '1' }],
  account_tenant_check: [{ tenant_id: 'null' }, { kind: "'FUNDING'" }],
  transfer_bounds_check: [{ amount_nanos: '0' }, { credit_account_id: ID }],
  transfer_phase_check: [
    ...[{ ...RESOLVES, pending_id: 'null' }, { pending_id: ID }, { phase: "'PENDING'" }, { expires_at: "'2100-01-01'" }],
    ...[{ kind: "'PAYOUT'", phase: "'PENDING'", expires_at: "'2000-01-01'" }, { kind: "'REVERSAL'" }, { reverses_id: ID }],
  ],
  subscription_charge_bounds_check: [
    ...[
      { commission_bps: '-1' },
      { commission_bps: '10001' },
      { amount_nanos: '-1' },
      { amount_nanos: '10000' },
      { commission_nanos: '1' },
    ],
  ],
  closed_period_period_check: [{ period: "'2020-00'" }],
  plan_version_bounds_check: [
    ...[{ unit_price_nanos: '-1' }, { free_units: '-1' }, { quota_units: '-1' }, { priority: '10' }, { priority: '-1' }],
    ...[{ requests_per_minute: '0', burst: '1' }, { requests_per_minute: '1', burst: '0' }, { requests_per_minute: '1' }, { burst: '1' }],
  ],
};

/** The columns that may be null. */
const OPTIONAL: Record<string, readonly string[]> = {
  server_process: ['hardware'],
  session: ['revoked_at'],
  refresh_token: ['used_at'],
  api_key: ['created_by_user_id', 'expires_at', 'revoked_at'],
  usage_counter: ['plan_version_id', 'quota_units'],
  usage_record: ['api_key_id', 'plan_version_id', 'subscription_id', 'transfer_id', 'user_id'],
  usage_limit: ['burst_units', 'removed_at', '"window"'],
  limit_counter: ['arrival_amount', 'arrival_at'],
  outbox: ['delivered_at'],
  replay: ['answer', 'store_key'],
  account: ['tenant_id'],
  transfer: ['consumer_tenant_id', 'expires_at', 'note', 'pending_id', 'publisher_tenant_id', 'reverses_id', 'subscription_id'],
  plan_version: ['alias', 'burst', 'quota_units', 'requests_per_minute'],
  subscription: ['cancelled_at'],
};

const KEY = { tenant_id: OTHER };
/** What else differs in a second row that each unique index refuses; a primary key is one. */
const DOUBLES: Record<string, Row> = {
  ...Object.fromEntries(Object.keys(ROWS).map((table) => [`${table}_pkey`, {}])),
  api_key_pkey: { hash: "sha256('y')" },
  limit_counter_pkey: { limit_id: OTHER },
  usage_alert_pkey: { counter_id: OTHER },
  usage_limit_pkey: { name: "'other'" },
  account_pkey: { ...KEY },
  tenant_pkey: { name: "'other'" },
  app_user_pkey: { email: "'b@example.com'" },
  subscription_pkey: { state: "'CANCELLED'" },
  plan_version_pkey: { number: '2' },
  tenant_name_key: { id: OTHER },
  app_user_email_key: { id: OTHER },
  api_key_hash_key: { id: OTHER },
  usage_limit_name_key: { id: OTHER },
  limit_counter_limit_id_starts_at_key: { id: OTHER },
  usage_alert_counter_id_percent_amount_day_key: { id: OTHER },
  usage_alert_daily_key: { id: OTHER, counter_id: OTHER },
  plan_version_plan_id_number_key: { id: OTHER },
  subscription_active_key: { id: OTHER },
  account_tenant_key: { id: OTHER },
  account_platform_key: { id: OTHER },
  transfer_pending_key: { id: OTHER },
  transfer_reverses_key: { id: OTHER },
};
/** What the first row has of an index that is of some rows only. */
const FIRST: Record<string, Row> = {
  usage_alert_daily_key: { day: "'2026-11-15'" },
  account_platform_key: PLATFORM,
  transfer_pending_key: RESOLVES,
  transfer_reverses_key: { kind: "'REVERSAL'", reverses_id: ID },
};

const tableOf = (name: string) =>
  Object.keys(ROWS)
    .filter((table) => name.startsWith(`${table}_`))
    .sort((a, b) => b.length - a.length)[0] ?? '';

const insert = (table: string, row: Row) => `insert into ${table} (${Object.keys(row).join()}) values (${Object.values(row).join()})`;

/** What the database says to rows of a table, in order, where triggers and foreign keys are silent: 'taken', or its first refusal. */
function answerTo(table: string, rows: readonly Row[]): Promise<string> {
  return undone(db, async (tx) => {
    await tx.$executeRaw`set local session_replication_role = replica`;
    return said(
      tx,
      rows.map((row) => insert(table, { ...ROWS[table], ...row })),
    );
  });
}

async function said(tx: Tx, statements: readonly string[]): Promise<string> {
  try {
    for (const statement of statements) await tx.$executeRawUnsafe(statement);
    return 'taken';
  } catch (error) {
    // Prisma shows of a unique violation the columns alone.
    return JSON.stringify(error, ['message', 'meta', 'driverAdapterError', 'cause', 'originalMessage', 'originalCode']);
  }
}

it.each(Object.keys(ROWS))('a right row of %s is taken', async (table) => {
  expect(await answerTo(table, [{}])).toBe('taken');
});

describe.each(Object.entries(BREACHES))('%s', (check, rows) => {
  it.each(rows.map((row) => [Object.entries(row).flat().join(' '), row]))('refuses %s', async (_, row) => {
    expect(await answerTo(tableOf(check), [row as Row])).toContain(`"${check}\\`);
  });
});

it.each(Object.entries(DOUBLES))('%s refuses a second row', async (index, second) => {
  const first = FIRST[index] ?? {};
  expect(await answerTo(tableOf(index), [first, { ...first, ...second }])).toContain('"23505"');
});

it.each(Object.keys(ROWS))('a column of %s is null only where that means something', async (table) => {
  const columns = await asAdmin(
    db,
    (tx) => tx.$queryRaw<{ name: string }[]>`
      select quote_ident(attname) "name" from pg_attribute
       where attrelid = ${table}::regclass and attnum > 0 and not attisdropped
         and not exists (select from pg_constraint where contype = 'p' and conrelid = attrelid and attnum = any (conkey))
       order by attname`,
  );
  const optional: string[] = [];
  for (const { name } of columns) if (!(await answerTo(table, [{ [name]: 'null' }])).includes('"23502"')) optional.push(name);
  expect(optional).toEqual(OPTIONAL[table] ?? []);
});

it('every CHECK and unique index of these tables is tried', async () => {
  const rows = await asAdmin(
    db,
    (tx) => tx.$queryRaw<{ name: string }[]>`
      select conname::text "name" from pg_constraint where contype = 'c' and conrelid::regclass::text = any (${Object.keys(ROWS)})
      union select indexrelid::regclass::text from pg_index where indisunique and indrelid::regclass::text = any (${Object.keys(ROWS)})`,
  );
  expect(rows.map(({ name }) => name).sort()).toEqual([...Object.keys(BREACHES), ...Object.keys(DOUBLES)].sort());
});

it.each([
  ['member', { user_id: OTHER }, 'member_user_id_fkey'],
  ['member', { tenant_id: OTHER }, 'member_tenant_id_fkey'],
  ['session', { user_id: OTHER }, 'session_user_id_fkey'],
  ['refresh_token', { session_id: OTHER }, 'refresh_token_session_id_fkey'],
  ['plan_version', { plan_id: OTHER, number: '2' }, 'plan_version_plan_id_fkey'],
  ['subscription', { listing_id: OTHER }, 'subscription_listing_id_fkey'],
  ['subscription', { plan_id: OTHER }, 'subscription_plan_id_fkey'],
  ['subscription', { plan_version_id: OTHER }, 'subscription_plan_version_id_fkey'],
  ['limit_counter', { limit_id: OTHER }, 'limit_counter_limit_id_fkey'],
  ['usage_alert', { limit_id: OTHER }, 'usage_alert_limit_id_fkey'],
])('no %s is of what does not exist: %o', async (table, row, key) => {
  const parents = ['tenant', 'app_user', 'session', 'usage_limit', 'model', 'listing', 'plan', 'plan_version'];
  const more: Record<string, Row> = {
    ...ROWS,
    model: { id: ID, tenant_id: ID, name: "'m'" },
    listing: { id: ID, publisher_tenant_id: ID, model_id: ID, handle: "'h'" },
    plan: { id: ID, publisher_tenant_id: ID, listing_id: ID, name: "'p'" },
  };
  const rows = parents.filter((parent) => parent !== table || table === 'plan_version').map((parent) => insert(parent, more[parent] ?? {}));
  const own = { ...ROWS[table], ...(table === 'plan_version' ? { id: OTHER } : {}), ...row };
  const answer = await undone(db, (tx) => said(tx, [...rows, insert(table, own as Row)]));
  expect(answer).toContain(key);
});

it.each([
  ['tenant_id', OTHER],
  ['subject', "'API_KEY'"],
  ['subject_id', OTHER],
  ['measure', "'SPEND'"],
  ['"window"', "'MONTH'"],
  ['burst_units', '1'],
  ['created_at', "'2000-01-01'"],
])('what a limit is about does not change: %s', async (column, value) => {
  const answer = await undone(db, (tx) =>
    said(tx, [insert('usage_limit', ROWS.usage_limit ?? {}), `update usage_limit set ${column} = ${value}`]),
  );
  expect(answer).toContain('is immutable');
});

it('a limit that was removed does not come back', async () => {
  const removed = { ...ROWS.usage_limit, removed_at: 'now()' };
  const answer = await undone(db, (tx) => said(tx, [insert('usage_limit', removed), 'update usage_limit set removed_at = null']));
  expect(answer).toContain('is immutable');
});
