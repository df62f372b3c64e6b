import { asSystem, type Database } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { OUTBOX_DAYS } from '../usage/usage.ts';
import { TENANT_SCOPE } from './audit-scope.ts';

/** An invariant and the query that must return no row; the rows say what is wrong. */
export type Finding = { invariant: string; rows: Record<string, unknown>[] };

/** Units that a counter holds money for: f(used + leased) − f(used), with f(n) = unit price × max(0, n − free). */
const HOLD = `coalesce(v.unit_price_nanos, 0)::numeric * (greatest(0, c.used_units + c.leased_units - v.free_units) - greatest(0, c.used_units - v.free_units))`;

const BALANCES = 'the sum of all balances is zero per currency';

/** Of the rows that the audit is about; `named` has those that one of them names besides. */
const invariantsOf = (named: { account: string; transfer: string }): Record<string, string> => ({
  [BALANCES]: `
    select currency, sum(balance_nanos)::text sum from account group by currency having sum(balance_nanos) <> 0`,
  'a stored balance is the sum of its transfers': `
    with moved as (
      select credit_account_id id, amount_nanos::numeric amount from transfer where phase in ('POSTED', 'POST_PENDING')
      union all select debit_account_id, -amount_nanos::numeric from transfer where phase in ('POSTED', 'POST_PENDING'))
    select a.id::text, a.kind::text, a.balance_nanos::text stored, coalesce(sum(m.amount), 0)::text transfers
      from account a left join moved m using (id) group by a.id, a.kind, a.balance_nanos having a.balance_nanos <> coalesce(sum(m.amount), 0)`,
  'what an account has pending is the sum of its unresolved transfers': `
    with reserved as (
      select debit_account_id debit, credit_account_id credit, amount_nanos::numeric amount from transfer t
       where phase = 'PENDING' and not exists (select from ${named.transfer} r where r.pending_id = t.id)),
    due as (
      select id, sum(debits) debits, sum(credits) credits
        from (select debit, amount, 0 from reserved union all select credit, 0, amount from reserved) x (id, debits, credits) group by 1)
    select a.id::text, a.kind::text, a.pending_debits_nanos::text debits, a.pending_credits_nanos::text credits,
           coalesce(due.debits, 0)::text "dueDebits", coalesce(due.credits, 0)::text "dueCredits"
      from account a left join due using (id)
     where (a.pending_debits_nanos, a.pending_credits_nanos) <> (coalesce(due.debits, 0), coalesce(due.credits, 0))`,
  'a pending transfer is resolved once, between its accounts, by no more than it reserves': `
    select r.id::text, r.phase::text, r.pending_id::text from transfer r left join ${named.transfer} p on p.id = r.pending_id and p.phase = 'PENDING'
     where (r.phase in ('POST_PENDING', 'VOID_PENDING', 'EXPIRE_PENDING') or r.pending_id is not null)
       and ((p.kind, p.debit_account_id, p.credit_account_id, p.currency)
              is distinct from (r.kind, r.debit_account_id, r.credit_account_id, r.currency)
            or r.amount_nanos > p.amount_nanos or (r.phase <> 'POST_PENDING' and r.amount_nanos <> p.amount_nanos)
            or exists (select from ${named.transfer} other where other.pending_id = r.pending_id and other.id <> r.id))`,
  'a transfer is reversed once, between its accounts, by no more than it posted': `
    select r.id::text, r.reverses_id::text from transfer r
      left join ${named.transfer} o on o.id = r.reverses_id and o.phase in ('POSTED', 'POST_PENDING') and o.kind <> 'REVERSAL'
     where (r.kind = 'REVERSAL' or r.reverses_id is not null)
       and (r.phase <> 'POSTED' or (o.debit_account_id, o.credit_account_id, o.currency)
              is distinct from (r.credit_account_id, r.debit_account_id, r.currency)
            or r.amount_nanos > o.amount_nanos
            or exists (select from ${named.transfer} other where other.reverses_id = r.reverses_id and other.id <> r.id))`,
  'nothing is written to a period after its closing': `
    select p.period, e.id::text, e.created_at::text from closed_period p
      join (select period, id, created_at from transfer union all select period, id, created_at from usage_record) e using (period)
     where e.created_at > p.closed_at limit 100`,
  'the transfers of a batch sum to zero per currency': `
    select t.batch_id::text, t.currency from transfer t
      left join ${named.account} d on d.id = t.debit_account_id and d.currency = t.currency
      left join ${named.account} c on c.id = t.credit_account_id and c.currency = t.currency
     group by 1, 2 having count(*) <> count(d.id) or count(*) <> count(c.id)`,
  'a wallet less its holds and what is pending is within its credit limit': `
    select id::text, balance_nanos::text, held_nanos::text, pending_debits_nanos::text from account
     where kind = 'WALLET' and balance_nanos - held_nanos - pending_debits_nanos < -credit_limit_nanos`,
  'a publisher is paid no more than it earned': `
    select id::text, balance_nanos::text, pending_debits_nanos::text from account
     where kind = 'PUBLISHER_PAYABLE' and balance_nanos < pending_debits_nanos`,
  'a wallet holds what its leases can cost': `
    with due as (
      select c.consumer_tenant_id tenant_id, sum(${HOLD}) nanos
        from usage_counter c left join plan_version v on v.id = c.plan_version_id group by 1)
    select a.id::text, a.held_nanos::text held, coalesce(due.nanos, 0)::text due
      from account a left join due using (tenant_id) where a.kind = 'WALLET' and a.held_nanos <> coalesce(due.nanos, 0)`,
  'used and leased units are within the quota': `
    select consumer_tenant_id::text, listing_id::text, period, used_units::text, leased_units::text, quota_units::text from usage_counter
     where used_units < 0 or leased_units < 0 or used_units + leased_units > quota_units`,
  'a counter is the sum of its usage records': `
    select c.consumer_tenant_id::text, c.listing_id::text, c.period, c.used_units::text used, coalesce(sum(r.units), 0)::text recorded
      from usage_counter c
      left join usage_record r on (r.consumer_tenant_id, r.listing_id, r.period) = (c.consumer_tenant_id, c.listing_id, c.period)
     group by c.consumer_tenant_id, c.listing_id, c.period, c.used_units having c.used_units <> coalesce(sum(r.units), 0)`,
  'the calls of a month under one plan version cost what it says': `
    with billed as (
      select c.consumer_tenant_id, c.listing_id, c.period, c.plan_version_id, sum(r.units) units, sum(r.amount_nanos) amount
        from usage_counter c join usage_record r using (consumer_tenant_id, listing_id, period)
       group by c.consumer_tenant_id, c.listing_id, c.period, c.plan_version_id having bool_and(r.plan_version_id is not distinct from c.plan_version_id)),
    due as (
      select b.*, coalesce(v.unit_price_nanos, 0)::numeric * greatest(0, b.units - coalesce(v.free_units, 0)) due
        from billed b left join plan_version v on v.id = b.plan_version_id)
    select consumer_tenant_id::text, listing_id::text, period, amount::text billed, due::text from due where amount <> due`,
  'every usage record has its counter': `
    select r.id::text, r.period from usage_record r
      left join usage_counter c using (consumer_tenant_id, listing_id, period) where c.period is null limit 100`,
  'leased units are the sum of the leases': `
    select c.consumer_tenant_id::text, c.listing_id::text, c.period, c.leased_units::text leased, coalesce(sum(l.units), 0)::text leases
      from usage_counter c left join lease l using (consumer_tenant_id, listing_id, period)
     group by c.consumer_tenant_id, c.listing_id, c.period, c.leased_units having c.leased_units <> coalesce(sum(l.units), 0)`,
  'every lease has its counter': `
    select l.id::text, l.period from lease l
      left join usage_counter c using (consumer_tenant_id, listing_id, period) where c.period is null`,
  'no lease outlives its expiry by more than a sweep': `
    select id::text, process_id::text, expires_at::text from lease where units > 0 and expires_at < mercato_now() - interval '5 seconds'`,
  'a limit has leased what its leases hold': `
    with due as (
      select n.counter_id id, sum(case k.measure when 'UNITS' then l.units when 'SPEND' then l.nanos else l.slots end) amount
        from lease l cross join unnest(l.counters) n (counter_id) join limit_counter k on k.id = n.counter_id and k.arrival_at is null group by 1)
    select k.id::text, k.measure::text, k.leased::text, coalesce(d.amount, 0)::text leases
      from limit_counter k full join due d using (id) where coalesce(k.leased, 0) <> coalesce(d.amount, 0)`,
  'a limit past a threshold has told of it': `
    select k.id::text, p.percent::text, k.used::text, l.amount::text
      from limit_counter k join usage_limit l on l.id = k.limit_id and l.removed_at is null cross join unnest(l.alert_percents) p (percent)
     where k.arrival_at is null and k.measure <> 'CONCURRENCY' and k.starts_at = mercato_window_start(l.window, false, mercato_now())
       and k.used > 0 and k.used * 100 >= l.amount::numeric * p.percent
       and not exists (select from usage_alert a where (a.counter_id, a.percent, a.amount) = (k.id, p.percent, l.amount))
       and not exists (select from usage_alert a
                        where (a.limit_id, a.percent, a.amount, a.day) = (l.id, p.percent, l.amount, to_char(k.starts_at at time zone 'UTC', 'YYYY-MM-DD')))`,
  'every alert has one message in the outbox, for as long as that is kept': `
    select a.id::text, count(o.id)::text messages
      from usage_alert a left join outbox o on o.topic = 'usage.alert' and o.payload ->> 'alertId' = a.id::text
     where a.created_at > mercato_now() - interval '${OUTBOX_DAYS} days' group by a.id having count(o.id) <> 1`,
  'a rollup is the sum of its usage records': `
    with recorded as (
      select consumer_tenant_id, g.grain, date_trunc(g.field, created_at, 'UTC') starts_at, listing_id,
             coalesce(subscription_id, mercato_nobody()) subscription_id, coalesce(api_key_id, user_id, mercato_nobody()) caller_id,
             count(*) predictions, sum(units) units, sum(compute_micros) compute_micros, sum(amount_nanos) amount_nanos
        from usage_record, (values ('HOUR'::rollup_grain, 'hour'), ('DAY', 'day')) g (grain, field) group by 1, 2, 3, 4, 5, 6)
    select coalesce(r.consumer_tenant_id, u.consumer_tenant_id)::text tenant, coalesce(r.grain, u.grain)::text grain, coalesce(r.starts_at, u.starts_at)::text starts_at,
           u.units::text rolled, r.units::text recorded
      from usage_rollup u full join recorded r using (consumer_tenant_id, grain, starts_at, listing_id, subscription_id, caller_id)
     where (u.predictions, u.units, u.compute_micros, u.amount_nanos) is distinct from (r.predictions, r.units, r.compute_micros, r.amount_nanos) limit 100`,
  'one usage record per prediction': `
    select id::text, count(*)::text records from usage_record group by id having count(*) > 1`,
  'every idempotency key has its usage record': `
    select i.tenant_id::text, i.key, i.record_id::text from idempotency_key i
      left join usage_record r on r.period = i.period and r.id = i.record_id where r.id is null limit 100`,
  'a charge is the sum of its usage records': `
    with recorded as (select transfer_id id, sum(amount_nanos) amount from usage_record where transfer_id is not null group by 1)
    select t.id::text, t.amount_nanos::text charged, coalesce(r.amount, 0)::text recorded
      from transfer t left join recorded r using (id) where t.kind = 'CHARGE' and t.amount_nanos <> coalesce(r.amount, 0)`,
  'every priced usage record has its charge': `
    select r.id::text, r.transfer_id::text from usage_record r
      left join transfer t on t.id = r.transfer_id and t.kind = 'CHARGE' where r.transfer_id is not null and t.id is null limit 100`,
  'the consumer pays what publisher and platform receive': `
    with ends (kind, debit, debtor_side, credit, creditor_side) as (values
      ('CREDIT', 'FUNDING', 'platform', 'WALLET', 'consumer'),
      ('CHARGE', 'WALLET', 'consumer', 'PUBLISHER_PAYABLE', 'publisher'),
      ('COMMISSION', 'PUBLISHER_PAYABLE', 'publisher', 'PLATFORM_REVENUE', 'platform'),
      ('ADJUSTMENT', 'FUNDING', 'platform', 'WALLET', 'consumer'),
      ('ADJUSTMENT', 'WALLET', 'consumer', 'FUNDING', 'platform'),
      ('PAYOUT', 'PUBLISHER_PAYABLE', 'publisher', 'PAYOUT_CLEARING', 'platform')),
    sided as (
      select t.*, jsonb_build_object('consumer', t.consumer_tenant_id, 'publisher', t.publisher_tenant_id) side from transfer t)
    select t.id::text, t.kind::text from sided t
      left join ${named.account} d on d.id = t.debit_account_id
      left join ${named.account} c on c.id = t.credit_account_id
     where t.kind <> 'REVERSAL' and not exists (
       select from ends e
        where e.kind = t.kind::text
          and (d.kind::text, d.tenant_id::text) is not distinct from (e.debit, t.side ->> e.debtor_side)
          and (c.kind::text, c.tenant_id::text) is not distinct from (e.credit, t.side ->> e.creditor_side)) limit 100`,
  'commission is the rate of what was charged, rounded down once': `
    with posted as (
      select subscription_id, period, sum(amount_nanos) filter (where kind = 'CHARGE') charged,
             coalesce(sum(amount_nanos) filter (where kind = 'COMMISSION'), 0) commission
        from transfer where subscription_id is not null group by 1, 2)
    select s.subscription_id::text, s.period, s.amount_nanos::text, s.commission_nanos::text, p.charged::text, p.commission::text
      from subscription_charge s full join posted p using (subscription_id, period)
     where s.amount_nanos is distinct from p.charged or s.commission_nanos is distinct from p.commission
        or s.commission_nanos <> div(s.amount_nanos * s.commission_bps, 10000)`,
});

const OF_ALL = Object.entries(invariantsOf({ account: 'account', transfer: 'transfer' }));
const OF_TENANT = Object.entries(invariantsOf({ account: 'named_account', transfer: 'named_transfer' })).filter(
  ([invariant]) => invariant !== BALANCES,
);
/** One statement, so that it reads the tenant's rows once. */
const TENANT_QUERY = `${TENANT_SCOPE}
  ${OF_TENANT.map(([, sql], index) => `select ${index} index, to_jsonb(x) "row" from (${sql}) x`).join(' union all ')}`;

/**
 * Runs every invariant; the clean ones have no rows. Of all tenants each is a transaction of its own, as one statement sees one state. Of one it is what
 * concerns that tenant as a consumer or a publisher, read by indexes, so that it costs what the tenant's own books cost; without the sum of all
 * balances, which is nobody's.
 */
export async function runAudit(db: Database, tenantId: string | null = null): Promise<Finding[]> {
  if (tenantId !== null) {
    const found = await asSystem(db, (tx) => tx.$queryRawUnsafe<{ index: number; row: Finding['rows'][number] }[]>(TENANT_QUERY, tenantId));
    return OF_TENANT.map(([invariant], at) => ({ invariant, rows: found.flatMap(({ index, row }) => (index === at ? [row] : [])) }));
  }
  const findings: Finding[] = [];
  for (const [invariant, sql] of OF_ALL) {
    const rows = await asSystem(db, (tx) => tx.$queryRawUnsafe<Finding['rows']>(sql));
    findings.push({ invariant, rows });
  }
  return findings;
}

/** As `runAudit`, of the tenant of this name; null: of all. @throws NOT_FOUND */
export async function runAuditOf(db: Database, tenantName: string | null): Promise<Finding[]> {
  if (tenantName === null) return runAudit(db);
  const tenant = await asSystem(db, (tx) => tx.tenant.findUnique({ where: { name: tenantName }, select: { id: true } }));
  if (!tenant) throw new MercatoError('NOT_FOUND', 'There is no tenant of this name.', { given: tenantName });
  return runAudit(db, tenant.id);
}
