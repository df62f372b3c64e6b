import type { Tx } from '../base/database.ts';
import { LIMITS } from '../base/limits.ts';
import { type CounterChange, type CounterKey, lockCounters } from './counters.ts';
import { returnToLimits } from './limit-counters.ts';

export type GrantRequest = {
  leaseId: string;
  processId: string;
  planVersionId: string | null;
  quotaUnits: bigint | null;
  units: bigint;
  /** Calls in flight that it may have, of the concurrency limits among `counterIds`; 0 where there is none. */
  slots: bigint;
  /** What its units cost, of the spend limits among `counterIds`. */
  nanos: bigint;
  /** The counters of limits that the caller takes it from as well. */
  counterIds: readonly string[];
};

/** Writes a lease on a counter that the caller has locked and found to have room. It lives `LIMITS.leaseMs` unless renewed. */
export async function grantLease(tx: Tx, counter: CounterKey, grant: GrantRequest): Promise<void> {
  await tx.$executeRaw`
    with counter as (
      update usage_counter
         set leased_units = leased_units + ${grant.units}, plan_version_id = ${grant.planVersionId}::uuid, quota_units = ${grant.quotaUnits}
       where consumer_tenant_id = ${counter.consumerTenantId}::uuid and listing_id = ${counter.listingId}::uuid and period = ${counter.period}
    )
    insert into lease (id, process_id, consumer_tenant_id, listing_id, period, units, granted_units, slots, nanos, counters, expires_at)
    values (${grant.leaseId}::uuid, ${grant.processId}::uuid, ${counter.consumerTenantId}::uuid, ${counter.listingId}::uuid,
            ${counter.period}, ${grant.units}, ${grant.units}, ${grant.slots}, ${(grant.counterIds.length === 0 ? 0n : grant.nanos).toString()}::numeric, ${[...grant.counterIds]}::uuid[],
            mercato_now() + make_interval(secs => ${LIMITS.leaseMs / 1000}))`;
}

/**
 * What a lease does not need any more: units that nobody used, and calls in flight that it may have; null: whatever it has. `number` is the return's own
 * within the lease: what has been returned under it is not returned again. `admitted`: calls were let in with the units, and failed.
 */
export type ReturnedUnits = { leaseId: string; number: bigint; units: bigint | null; slots: bigint | null; admitted?: boolean };

/**
 * Puts unused units of leases back to their counters; what a sweep has taken, or was returned, already is skipped. With `drain`, what the leases still hold
 * is marked as in flight. Returns each counter before and after, for the caller to release what was held for the units.
 */
export async function returnUnits(tx: Tx, returned: readonly ReturnedUnits[], drain = false): Promise<CounterChange[]> {
  const leases = await tx.$queryRaw<(Held & { returns: bigint[]; units: bigint; slots: bigint })[]>`
    select id "leaseId", consumer_tenant_id "consumerTenantId", listing_id "listingId", period, cardinality(counters) > 0 limited, returns, units, slots
      from lease where id = any(${returned.map((r) => r.leaseId)}::uuid[]) order by id for update`;
  const known = new Map(leases.map((lease) => [lease.leaseId, lease]));
  const present = returned.flatMap((part) => {
    const lease = known.get(part.leaseId);
    if (!lease || lease.returns.includes(part.number)) return [];
    return [{ ...lease, ...part, units: part.units ?? lease.units, slots: part.slots ?? lease.slots, admitted: part.admitted ?? false }];
  });
  await tx.$executeRaw`
    update lease l set units = l.units - r.units, slots = l.slots - r.slots, draining = l.draining or ${drain}, returns = l.returns || r.numbers
      from (select id, sum(units) units, sum(slots) slots, array_agg(number) numbers
              from unnest(${present.map((l) => l.leaseId)}::uuid[], ${present.map((l) => l.units)}::bigint[], ${present.map((l) => l.slots)}::bigint[],
                          ${present.map((l) => l.number)}::bigint[]) x (id, units, slots, number) group by 1) r
     where l.id = r.id`;
  return less(tx, present);
}

/** Ends leases past their expiry, whose process is dead or late, and puts their units back; to bursts none, since their calls may still be billed. At most 500 at once. */
export async function sweepLeases(tx: Tx): Promise<CounterChange[]> {
  const dead = await tx.$queryRaw<Freed[]>`
    select id "leaseId", consumer_tenant_id "consumerTenantId", listing_id "listingId", period, units, slots, cardinality(counters) > 0 limited, true admitted
      from lease where expires_at < mercato_now() order by id limit 500 for update skip locked`;
  if (dead.length === 0) return [];
  const ids = dead.map(({ leaseId }) => leaseId);
  await tx.$executeRaw`update lease set units = 0, slots = 0, granted_units = 0 where id = any(${ids}::uuid[])`;
  const changes = await less(tx, dead);
  await tx.$executeRaw`delete from lease where id = any(${ids}::uuid[])`;
  return changes;
}

type Held = CounterKey & { leaseId: string; limited: boolean };
type Freed = Held & { units: bigint; slots: bigint; admitted: boolean };

/** What is returned, and has left the leases, leaves the counters: first the leases' own, then those of limits. */
async function less(tx: Tx, returned: readonly Freed[]): Promise<CounterChange[]> {
  const changes = await lessLeased(tx, returned);
  await returnToLimits(
    tx,
    returned.filter(({ limited }) => limited),
  );
  return changes;
}

async function lessLeased(tx: Tx, returned: readonly (CounterKey & { units: bigint })[]): Promise<CounterChange[]> {
  const total = new Map<string, bigint>();
  for (const r of returned) if (r.units > 0n) total.set(keyOf(r), (total.get(keyOf(r)) ?? 0n) + r.units);
  if (total.size === 0) return [];
  const counters = await lockCounters(
    tx,
    returned.filter((r) => total.has(keyOf(r))),
  );
  const changes = counters.map((before) => ({
    before,
    after: { ...before, leasedUnits: before.leasedUnits - (total.get(keyOf(before)) ?? 0n) },
  }));
  await tx.$executeRaw`
    update usage_counter c set leased_units = k.leased
      from unnest(${changes.map((c) => c.after.consumerTenantId)}::uuid[], ${changes.map((c) => c.after.listingId)}::uuid[],
                  ${changes.map((c) => c.after.period)}::text[], ${changes.map((c) => c.after.leasedUnits)}::bigint[])
           k (consumer, listing, period, leased)
     where c.consumer_tenant_id = k.consumer and c.listing_id = k.listing and c.period = k.period`;
  return changes;
}

/** A consumer's leases of one listing, or of all. */
export type LeaseScope = { consumerTenantId: string; listingId: string | null };

/** Asks every process for the units of this scope that are not in flight there; their listeners hear `mercato_recall`. */
export async function recallLeases(tx: Tx, scope: LeaseScope): Promise<void> {
  await tx.$executeRaw`select pg_notify('mercato_recall', ${`${scope.consumerTenantId}:${scope.listingId ?? ''}`})`;
}

/** Whether another process may still hold units of this scope that are not in flight. */
export async function hasForeignLeases(tx: Tx, scope: LeaseScope, processId: string): Promise<boolean> {
  const [row] = await tx.$queryRaw<{ found: boolean }[]>`
    select exists (
      select from lease
       where consumer_tenant_id = ${scope.consumerTenantId}::uuid
         and (${scope.listingId}::uuid is null or listing_id = ${scope.listingId}::uuid)
         and process_id <> ${processId}::uuid and not draining and units > 0) found`;
  return row?.found ?? false;
}

/** Lets leases with calls in flight live `LIMITS.leaseMs` from now; an expired one that no sweep has taken lives again. */
export async function renewLeases(tx: Tx, leaseIds: readonly string[]): Promise<void> {
  await tx.$executeRaw`
    with mine as (select id from lease where id = any(${leaseIds}::uuid[]) order by id for update)
    update lease l set expires_at = mercato_now() + make_interval(secs => ${LIMITS.leaseMs / 1000}) from mine where l.id = mine.id`;
}

/** Deletes leases that hold nothing any more. */
export async function dropLeases(tx: Tx, leaseIds: readonly string[]): Promise<void> {
  await tx.$executeRaw`
    with mine as (select id from lease where id = any(${leaseIds}::uuid[]) and units = 0 and slots = 0 order by id for update)
    delete from lease l using mine where l.id = mine.id`;
}

const keyOf = (key: CounterKey) => `${key.consumerTenantId}:${key.listingId}:${key.period}`;
