import type { Tx } from '../base/database.ts';

/** One consumer's month with one listing. */
export type CounterKey = { consumerTenantId: string; listingId: string; period: string };

export type CounterState = CounterKey & {
  usedUnits: bigint;
  leasedUnits: bigint;
  /** The plan version of the outstanding leases; null: own calls. */
  planVersionId: string | null;
  quotaUnits: bigint | null;
};

/** A counter before and after a change of its leases. */
export type CounterChange = { before: CounterState; after: CounterState };

/** Locks and returns this month's counter, made where absent, and when the month ends (`windowMs` from now). */
export async function lockCounter(
  tx: Tx,
  key: { consumerTenantId: string; publisherTenantId: string; listingId: string },
): Promise<CounterState & { windowEndsAt: Date; windowMs: number }> {
  const select = () => tx.$queryRaw<(CounterState & { windowEndsAt: Date; windowMs: number })[]>`
    select consumer_tenant_id "consumerTenantId", listing_id "listingId", period, used_units "usedUnits", leased_units "leasedUnits",
           plan_version_id "planVersionId", quota_units "quotaUnits",
           (date_trunc('month', mercato_now() at time zone 'UTC') + interval '1 month') at time zone 'UTC' "windowEndsAt",
           (extract(epoch from date_trunc('month', mercato_now() at time zone 'UTC') + interval '1 month'
                               - (mercato_now() at time zone 'UTC')) * 1000)::float8 "windowMs"
      from usage_counter
     where consumer_tenant_id = ${key.consumerTenantId}::uuid and listing_id = ${key.listingId}::uuid
       and period = mercato_period(mercato_now())
       for update`;
  const [found] = await select();
  if (found) return found;
  // Closing a month locks the counters that it sees. Until whoever makes another has committed, none closes; nor is one made while a month is being closed.
  await tx.$executeRaw`select pg_advisory_xact_lock_shared(hashtext('mercato.close_period'))`;
  await tx.$executeRaw`
    insert into usage_counter (consumer_tenant_id, publisher_tenant_id, listing_id, period)
    values (${key.consumerTenantId}::uuid, ${key.publisherTenantId}::uuid, ${key.listingId}::uuid, mercato_period(mercato_now()))
        on conflict do nothing`;
  const [made] = await select();
  if (!made) throw new Error('the month ended between two statements'); // the caller's transaction is retried by its next attempt
  return made;
}

/** Locks and returns counters in key order; those that do not exist are missing. */
export function lockCounters(tx: Tx, keys: readonly CounterKey[]): Promise<CounterState[]> {
  return tx.$queryRaw<CounterState[]>`
    select c.consumer_tenant_id "consumerTenantId", c.listing_id "listingId", c.period, c.used_units "usedUnits",
           c.leased_units "leasedUnits", c.plan_version_id "planVersionId", c.quota_units "quotaUnits"
      from usage_counter c
     where (c.consumer_tenant_id, c.listing_id, c.period) in (
       select * from unnest(${keys.map((k) => k.consumerTenantId)}::uuid[], ${keys.map((k) => k.listingId)}::uuid[],
                            ${keys.map((k) => k.period)}::text[]))
     order by c.consumer_tenant_id, c.listing_id, c.period
       for update of c`;
}
