import pg from 'pg';
import { CURRENCY } from '../support/core.ts';

/** What a tenant has, however many others there are. */
export const OWN_RECORDS = 10_000;
export const DAYS = 30;
/** A prime, so that no tenant's turn is always that of the measured one. */
const OTHERS = 997;
const LISTINGS = 5;
/** Records of one tenant, whose charges, one a listing, are of its fifth of them. */
const CHUNK = 250;
const BATCH = 1_000_000;

/**
 * Fills an empty marketplace's books with `records` usage records of the last 30 days in the order of time, of which every so many-th is that
 * tenant's, and with what the settlement would have written beside them. Commission is a tenth, and no amount is not a multiple of ten.
 */
export async function fillBooks(url: string, name: string, records: number, said: (line: string) => void): Promise<string> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(`set synchronous_commit = off; set work_mem = '256MB'; set maintenance_work_mem = '512MB'`);
    for (const sql of OFFERS) await client.query(sql);
    const { rows } = await client.query<{ id: string }>('select id from tenant where name = $1', [name]);
    const tenantId = rows[0]?.id ?? '';
    await client.query(TENANTS, [tenantId]);
    await client.query(SUBSCRIPTIONS);
    await client.query('analyze load_listing; analyze load_subscription');
    const startedMs = performance.now();
    for (let from = 0; from < records; from += BATCH) {
      await client.query(RECORDS, [from, Math.min(from + BATCH, records) - 1, records]);
      said(`${Math.min(from + BATCH, records)} of ${records} records after ${((performance.now() - startedMs) / 1000).toFixed(0)} s`);
    }
    await client.query('analyze usage_record, account');
    for (const sql of SUMS) await client.query(sql);
    await client.query('vacuum usage_record');
    await client.query('analyze');
    said(`books of ${records} records after ${((performance.now() - startedMs) / 1000).toFixed(0)} s`);
    return tenantId;
  } finally {
    await client.end();
  }
}

const STARTS_AT = `date_trunc('hour', now()) - interval '${DAYS - 1} days'`;

/** Publishers with a listing each, the months' partitions, and the platform's accounts. */
const OFFERS = [
  `create temp table load_start as select ${STARTS_AT} starts_at`,
  `create temp table load_listing as
     select j, gen_random_uuid() id, gen_random_uuid() publisher_id, gen_random_uuid() model_id, gen_random_uuid() version_id, gen_random_uuid() plan_id,
            gen_random_uuid() plan_version_id from generate_series(0, ${LISTINGS - 1}) j`,
  `insert into tenant (id, name, display_name) select publisher_id, 'publisher-' || j, 'Publisher' from load_listing`,
  `insert into model (id, tenant_id, name) select model_id, publisher_id, 'model' from load_listing`,
  `insert into model_version (id, tenant_id, model_id, number, sha256, size_bytes)
     select version_id, publisher_id, model_id, 1, encode(sha256(version_id::text::bytea), 'hex'), 1 from load_listing`,
  `insert into listing (id, publisher_tenant_id, model_id, handle, state)
     select id, publisher_id, model_id, 'publisher-' || j || '/model', 'PUBLISHED' from load_listing`,
  `insert into plan (id, publisher_tenant_id, listing_id, name) select plan_id, publisher_id, id, 'plan' from load_listing`,
  `insert into plan_version (id, publisher_tenant_id, plan_id, number, currency, unit_price_nanos, free_units)
     select plan_version_id, publisher_id, plan_id, 1, '${CURRENCY}', 10, 0 from load_listing`,
  `do $$
   declare
     month text := mercato_period((select starts_at from load_start));
     child text := 'usage_record_' || replace(month, '-', '_');
   begin
     if to_regclass(child) is null then
       set local role mercato_owner;
       execute format('create table %I partition of usage_record for values in (%L)', child, month);
       execute format('alter table %I enable row level security', child);
       execute format('alter table %I force row level security', child);
     end if;
   end $$`,
  `insert into account (id, kind, tenant_id, currency)
     select gen_random_uuid(), k::account_kind, null, '${CURRENCY}' from unnest('{FUNDING,PLATFORM_REVENUE}'::text[]) k on conflict do nothing`,
];

const TENANTS = `
  with made as (
    select n, case when n = 0 then $1::uuid else gen_random_uuid() end id from generate_series(0, ${OTHERS}) n
  ), kept as (
    insert into tenant (id, name, display_name) select id, 'consumer-' || n, 'Consumer' from made where n > 0
  ), opened as (
    insert into account (id, kind, tenant_id, currency)
    select gen_random_uuid(), 'WALLET'::account_kind, id, '${CURRENCY}' from made
    union all select gen_random_uuid(), 'PUBLISHER_PAYABLE', publisher_id, '${CURRENCY}' from load_listing
    on conflict do nothing
  ), subscribed as (
    insert into subscription (id, consumer_tenant_id, publisher_tenant_id, listing_id, plan_id, plan_version_id)
    select gen_random_uuid(), m.id, l.publisher_id, l.id, l.plan_id, l.plan_version_id from made m cross join load_listing l
  )
  select count(*) from made`;

const SUBSCRIPTIONS = `
  create temp table load_subscription as
  select case when t.name like 'consumer-%' then substr(t.name, 10)::int else 0 end tenant, l.j listing, s.id, t.id consumer_id, l.publisher_id,
         l.id listing_id, l.model_id, l.version_id, l.plan_version_id
    from subscription s join load_listing l on l.id = s.listing_id join tenant t on t.id = s.consumer_tenant_id`;

const RECORDS = `
  insert into usage_record (period, id, consumer_tenant_id, publisher_tenant_id, listing_id, model_id, model_version_id, subscription_id, plan_version_id,
                            units, rows, runs, compute_micros, bytes_in, bytes_out, amount_nanos, currency, transfer_id, created_at)
  select mercato_period(r.instant), ('019a0000-0000-7000-8000-' || lpad(to_hex(r.n), 12, '0'))::uuid, s.consumer_id, s.publisher_id, s.listing_id, s.model_id,
         s.version_id, s.id, s.plan_version_id, 1, 1, 1, 100, 1000, 100, 10, '${CURRENCY}',
         ('019b' || to_char(r.instant, 'YYMM') || '-0000-7000-8000-' || lpad(to_hex(r.m / ${CHUNK}), 6, '0') || lpad(to_hex(r.tenant * ${LISTINGS} + r.m % ${LISTINGS}), 6, '0'))::uuid,
         r.instant
    from (select n, case when own then 0 else 1 + n % ${OTHERS} end tenant, case when own then n / step else n / ${OTHERS} end m, instant
            from (select n, step, n % step = 0 own, (select starts_at from load_start) + n * (interval '${DAYS - 1} days' / $3::int) instant
                    from generate_series($1::int, $2::int) n, (select greatest(1, $3::int / ${OWN_RECORDS}) step) x) g) r
    join load_subscription s on s.tenant = r.tenant and s.listing = r.m % ${LISTINGS}`;

/** What follows from the records. */
const SUMS = [
  `insert into usage_counter (consumer_tenant_id, listing_id, period, publisher_tenant_id, used_units, plan_version_id)
     select consumer_tenant_id, listing_id, period, publisher_tenant_id, sum(units), (array_agg(plan_version_id))[1] from usage_record group by 1, 2, 3, 4`,
  `insert into usage_rollup (consumer_tenant_id, grain, starts_at, listing_id, subscription_id, caller_id, by_key, currency, publisher_tenant_id,
                             predictions, units, compute_micros, amount_nanos)
     select consumer_tenant_id, 'HOUR', date_trunc('hour', created_at, 'UTC'), listing_id, subscription_id, mercato_nobody(), false, currency,
            publisher_tenant_id, count(*), sum(units), sum(compute_micros), sum(amount_nanos) from usage_record group by 1, 3, 4, 5, 8, 9`,
  `insert into usage_rollup (consumer_tenant_id, grain, starts_at, listing_id, subscription_id, caller_id, by_key, currency, publisher_tenant_id,
                             predictions, units, compute_micros, amount_nanos)
     select consumer_tenant_id, 'DAY', date_trunc('day', starts_at, 'UTC'), listing_id, subscription_id, caller_id, by_key, currency,
            publisher_tenant_id, sum(predictions), sum(units), sum(compute_micros), sum(amount_nanos) from usage_rollup
      where grain = 'HOUR' group by 1, 3, 4, 5, 6, 7, 8, 9`,
  `insert into transfer (id, batch_id, kind, debit_account_id, credit_account_id, amount_nanos, currency, period, consumer_tenant_id, publisher_tenant_id,
                         subscription_id, created_at)
     select r.transfer_id, r.transfer_id, 'CHARGE', w.id, p.id, sum(r.amount_nanos), r.currency, r.period, r.consumer_tenant_id, r.publisher_tenant_id,
            r.subscription_id, max(r.created_at)
       from usage_record r join account w on w.tenant_id = r.consumer_tenant_id and w.kind = 'WALLET'
       join account p on p.tenant_id = r.publisher_tenant_id and p.kind = 'PUBLISHER_PAYABLE'
      group by r.transfer_id, w.id, p.id, r.currency, r.period, r.consumer_tenant_id, r.publisher_tenant_id, r.subscription_id`,
  `insert into transfer (id, batch_id, kind, debit_account_id, credit_account_id, amount_nanos, currency, period, publisher_tenant_id, subscription_id, created_at)
     select gen_random_uuid(), t.id, 'COMMISSION', t.credit_account_id, v.id, t.amount_nanos / 10, t.currency, t.period, t.publisher_tenant_id,
            t.subscription_id, t.created_at
       from transfer t join account v on v.kind = 'PLATFORM_REVENUE' where t.kind = 'CHARGE'`,
  `insert into transfer (id, batch_id, kind, debit_account_id, credit_account_id, amount_nanos, currency, period, consumer_tenant_id)
     select x.id, x.id, 'CREDIT', f.id, x.wallet_id, 1000000000, '${CURRENCY}', mercato_period(now()), x.tenant_id
       from (select gen_random_uuid() id, a.id wallet_id, a.tenant_id from account a join (select distinct consumer_id from load_subscription) s
                 on s.consumer_id = a.tenant_id where a.kind = 'WALLET') x, account f where f.kind = 'FUNDING'`,
  `insert into subscription_charge (subscription_id, period, consumer_tenant_id, publisher_tenant_id, currency, commission_bps, amount_nanos, commission_nanos)
     select subscription_id, period, consumer_tenant_id, publisher_tenant_id, currency, 1000, sum(amount_nanos), sum(amount_nanos / 10)
       from transfer where kind = 'CHARGE' group by 1, 2, 3, 4, 5`,
  `update account a set balance_nanos = m.balance
     from (select id, sum(amount) balance from (
             select credit_account_id id, amount_nanos::numeric amount from transfer
             union all select debit_account_id, -amount_nanos::numeric from transfer) x group by 1) m where m.id = a.id`,
];
