import type { Tx } from '../base/database.ts';

export type LimitSubject = 'TENANT' | 'SUBSCRIPTION' | 'MEMBER' | 'API_KEY';
export type LimitMeasure = 'UNITS' | 'SPEND' | 'CONCURRENCY';
export type LimitWindow = 'MINUTE' | 'HOUR' | 'DAY' | 'MONTH';

/** Whose limits concern a call: of the tenant, of any of its subscriptions to the listing, and, where not null, of its member and its key. */
export type LimitedCaller = { consumerTenantId: string; listingId: string; memberId: string | null; apiKeyId: string | null };

/** A limit with its counter of the window that is open, locked. Amounts are units, nanos or calls in flight, by `measure`. */
export type LockedLimit = {
  counterId: string;
  limitId: string;
  name: string;
  subject: LimitSubject;
  subjectId: string;
  measure: LimitMeasure;
  /** Null: at any moment. */
  window: LimitWindow | null;
  amount: bigint;
  /** Not null: `amount` per minute on average, at most so many at once. */
  burstUnits: bigint | null;
  hard: boolean;
  used: bigint;
  leased: bigint;
  /** Of bursts: units by which the theoretical arrival is ahead, a fraction included. */
  aheadUnits: number;
  /** Null where there is no window. */
  resetsAt: Date | null;
  /** From now to `resetsAt`; Infinity where there is no window. */
  windowMs: number;
  /** Of calls in flight: that it refuses is to be told, and nobody has today. */
  untold: boolean;
};

/** What the next units of a month cost: `free` of them nothing, the others `unitNanos` each. `leasedFree` more are leased, and may come back. */
export type NextPrice = { unitNanos: bigint; free: bigint; leasedFree: bigint };

/** What one grant takes of each of its limits: units, what they cost, calls in flight. */
export type Taking = { units: bigint; nanos: bigint; slots: bigint };

/**
 * Locks and returns the counters, of the windows open now, of every limit that concerns the caller: of the tenant first, then of subscription,
 * member and key, by name. A counter that is not there yet is made with what was used of its window before the limit was set.
 */
export async function lockLimits(tx: Tx, caller: LimitedCaller): Promise<LockedLimit[]> {
  const limits = await tx.$queryRaw<{ id: string; at: Date }[]>`
    select id, mercato_now() at from usage_limit
     where tenant_id = ${caller.consumerTenantId}::uuid and removed_at is null
       and (subject = 'TENANT'
            or subject = 'SUBSCRIPTION' and (select s.listing_id from subscription s where s.id = subject_id) = ${caller.listingId}::uuid
            or subject = 'MEMBER' and subject_id = ${caller.memberId}::uuid or subject = 'API_KEY' and subject_id = ${caller.apiKeyId}::uuid)`;
  const [first] = limits;
  if (first === undefined) return [];
  const ids = limits.map(({ id }) => id);
  await openCounters(tx, ids, first.at);
  const rows = await tx.$queryRaw<(Omit<LockedLimit, 'windowMs' | 'used' | 'leased'> & Shown)[]>`
    select k.id "counterId", l.id "limitId", l.name, l.subject::text subject, l.subject_id "subjectId", l.measure::text measure, l.window::text "window", l.amount,
           l.burst_units "burstUnits", l.hard, k.used::text used, k.leased::text leased,
           (greatest(0, extract(epoch from k.arrival_at - mercato_now())) * k.arrival_amount / 60)::float8 "aheadUnits",
           mercato_window_end(l.window, l.burst_units is not null, ${first.at}::timestamptz) "resetsAt",
           (extract(epoch from mercato_window_end(l.window, l.burst_units is not null, ${first.at}::timestamptz) - mercato_now()) * 1000)::float8 "windowMs",
           l.measure = 'CONCURRENCY' and 100 = any(l.alert_percents)
             and not exists (select from usage_alert a where (a.counter_id, a.percent, a.amount) = (k.id, 100, l.amount)
                                and a.day = to_char(mercato_now() at time zone 'UTC', 'YYYY-MM-DD')) untold
      from limit_counter k join usage_limit l on l.id = k.limit_id
     where l.id = any(${ids}::uuid[]) and k.starts_at = mercato_window_start(l.window, l.burst_units is not null, ${first.at}::timestamptz)
     order by k.id for update of k`;
  return rows
    .map(({ used, leased, windowMs, aheadUnits, ...row }) => ({
      ...row,
      used: BigInt(used),
      leased: BigInt(leased),
      aheadUnits: aheadUnits ?? 0,
      windowMs: windowMs ?? Number.POSITIVE_INFINITY,
    }))
    .sort((a, b) => ORDER.indexOf(a.subject) - ORDER.indexOf(b.subject) || (a.name < b.name ? -1 : 1));
}

/** The limit that a settlement was refused for (MC002), and, of spend, the free units that are left, as the database says them in the error's DETAIL. */
export function settledLimitOf(detail: string): { limit: LockedLimit } & Omit<NextPrice, 'unitNanos'> {
  const { amount, used, leased, resetsAt, free = 0, leasedFree = 0, ...row } = JSON.parse(detail);
  const amounts = { amount: BigInt(amount), used: BigInt(used), leased: BigInt(leased) };
  const limit = { ...row, ...amounts, burstUnits: null, hard: true, aheadUnits: 0, resetsAt: new Date(resetsAt), untold: false };
  return { limit, free: BigInt(free), leasedFree: BigInt(leasedFree) };
}

/** Makes the counters, of the windows that are open at `at`, of limits that have none yet, and tells of thresholds that those are past already. */
export async function openCounters(tx: Tx, limitIds: readonly string[], at: Date): Promise<void> {
  const made = await tx.$queryRaw<{ id: string }[]>`
    insert into limit_counter (tenant_id, limit_id, measure, starts_at, used, arrival_at, arrival_amount)
    select l.tenant_id, l.id, l.measure, s.at, mercato_used_before(l, s.at),
           case when l.burst_units is not null then mercato_now() end, case when l.burst_units is not null then l.amount end
      from usage_limit l
     cross join lateral (select mercato_window_start(l.window, l.burst_units is not null, ${at}::timestamptz) at) s
     where l.id = any(${[...limitIds]}::uuid[]) and not exists (select from limit_counter k where k.limit_id = l.id and k.starts_at = s.at)
     order by l.id
        on conflict do nothing returning id`;
  if (made.length > 0) await tx.$executeRaw`select mercato_tell_thresholds(${made.map(({ id }) => id)}::uuid[])`;
}

/** Tells that a limit of calls in flight let one more in no more, where it is to be told: once for each amount and day, UTC. */
export async function tellFull(tx: Tx, { counterId }: Pick<LockedLimit, 'counterId'>): Promise<void> {
  await tx.$executeRaw`select mercato_tell_thresholds(array[${counterId}::uuid], true)`;
}

type Shown = { used: string; leased: string; windowMs: number | null };
const ORDER: readonly LimitSubject[] = ['TENANT', 'SUBSCRIPTION', 'MEMBER', 'API_KEY'];

/** How many units and calls a hard limit still admits; Infinity: any number. A soft one admits all. */
export function roomOf(limit: LockedLimit, { unitNanos, free }: Pick<NextPrice, 'unitNanos' | 'free'>): { units: number; slots: number } {
  const any = { units: Number.POSITIVE_INFINITY, slots: Number.POSITIVE_INFINITY };
  if (!limit.hard) return any;
  if (limit.burstUnits !== null) {
    // Microsecond timestamps: without the millionth of a cell, the last unit of a full burst would be lost to rounding.
    const units = Math.floor(Number(limit.burstUnits) - limit.aheadUnits + 1e-6);
    return { ...any, units: Math.max(0, units) };
  }
  const rest = limit.amount - limit.used - limit.leased;
  const left = rest > 0n ? rest : 0n;
  if (limit.measure === 'CONCURRENCY') return { ...any, slots: Number(left) };
  if (limit.measure === 'UNITS') return { ...any, units: Number(left) };
  return unitNanos === 0n ? any : { ...any, units: Number(free + left / unitNanos) };
}

/** Takes from counters that the caller has locked and found to have room. */
export async function takeFromLimits(tx: Tx, limits: readonly LockedLimit[], taking: Taking): Promise<void> {
  if (limits.length === 0) return;
  await tx.$executeRaw`
    update limit_counter k
       set leased = k.leased + case when k.arrival_at is not null then 0 when k.measure = 'UNITS' then ${taking.units.toString()}::numeric
                                    when k.measure = 'SPEND' then ${taking.nanos.toString()}::numeric else ${taking.slots.toString()}::numeric end,
           arrival_at = case when k.arrival_at is not null
                             then greatest(k.arrival_at, mercato_now()) + make_interval(secs => ${Number(taking.units)}::float8 * 60 / k.arrival_amount) end
     where k.id = any(${limits.map(({ counterId }) => counterId)}::uuid[])`;
}

/** Deletes counters of windows that ended a day ago, or that have no end and whose limit was removed then, and that no lease is taken from; nothing locks those any more. Their alerts stay. */
export async function dropEndedCounters(tx: Tx): Promise<void> {
  await tx.$executeRaw`
    delete from limit_counter k using usage_limit l
     where l.id = k.limit_id and k.leased = 0
       and coalesce(mercato_window_end(l.window, l.burst_units is not null, k.starts_at), l.removed_at) < mercato_now() - interval '1 day'`;
}

/**
 * Puts back what leases, whose rows are still there, no longer have. Of spend a lease keeps at most what its rest can cost. Of a burst the units of calls
 * that were `admitted` come back less what has run off since the grant, from the first one on, whatever was ahead of them then.
 */
export async function returnToLimits(
  tx: Tx,
  returned: readonly { leaseId: string; units: bigint; slots: bigint; admitted?: boolean }[],
): Promise<void> {
  if (returned.length === 0) return;
  await tx.$executeRaw`
    with back as (
      select l.id, l.counters, r.units, r.slots, r.idle, l.granted_units - r.idle granted, extract(epoch from mercato_now() - l.granted_at) / 60 minutes,
             l.nanos - least(l.nanos, l.units::numeric * coalesce(v.unit_price_nanos, 0)) nanos
        from (select id, sum(units) units, sum(slots) slots, coalesce(sum(units) filter (where not admitted), 0) idle
                from unnest(${returned.map((r) => r.leaseId)}::uuid[], ${returned.map((r) => r.units)}::bigint[], ${returned.map((r) => r.slots)}::bigint[],
                            ${returned.map((r) => r.admitted ?? false)}::boolean[]) x (id, units, slots, admitted) group by 1) r
        join lease l using (id) join usage_counter c using (consumer_tenant_id, listing_id, period)
        left join plan_version v on v.id = c.plan_version_id),
    kept as (update lease l set nanos = l.nanos - b.nanos, granted_units = l.granted_units - b.units from back b where l.id = b.id),
    locked as (select k.id, k.arrival_amount from limit_counter k where k.id in (select unnest(counters) from back) order by k.id for update),
    given as (
      select k.id, sum(b.units) units, sum(b.nanos) nanos, sum(b.slots) slots,
             sum(b.idle + least(b.units - b.idle, greatest(0, b.granted - b.minutes * k.arrival_amount))) still
        from back b cross join unnest(b.counters) n (counter_id) join locked k on k.id = n.counter_id group by 1)
    update limit_counter k
       set leased = k.leased - case when k.arrival_at is not null then 0 when k.measure = 'UNITS' then g.units
                                    when k.measure = 'SPEND' then g.nanos else g.slots end,
           arrival_at = k.arrival_at - make_interval(secs => g.still::float8 * 60 / k.arrival_amount)
      from given g where k.id = g.id`;
}

/**
 * Who may still give of this counter: `foreign`, another process holds what is not in flight there; `draining`, a process was asked for what it
 * does not use and has calls in flight, which end.
 */
export async function holdersOf(tx: Tx, counterId: string, processId: string): Promise<{ foreign: boolean; draining: boolean }> {
  const [row] = await tx.$queryRaw<{ foreign: boolean; draining: boolean }[]>`
    select coalesce(bool_or(l.process_id <> ${processId}::uuid and not l.draining), false) "foreign", coalesce(bool_or(l.draining), false) draining
      from lease l join limit_counter k on k.id = ${counterId}::uuid
     where l.consumer_tenant_id = k.tenant_id and k.id = any(l.counters) and (l.units > 0 or l.slots > 0)`;
  return row ?? { foreign: false, draining: false };
}
