import type { Tx } from '../base/database.ts';
import { Prisma } from '../generated/prisma/client.ts';

/** The rate of a plan: `requestsPerMinute` on average, at most `burst` at once. */
export type Rate = { requestsPerMinute: number; burst: number };
/** `takenAt`: seconds since 1970, by the database. */
export type TakenRequests = { granted: number; takenAt: number; left: number; used: number; resetMs: number; retryAfterMs: number };
/** Cells: timestamps are of microseconds, and the last request of a full burst would be lost to that. */
const ROUNDING = 1e-6;
type Key = { consumerTenantId: string; listingId: string };

/**
 * Takes up to `wanted` requests from the generic cell rate algorithm (ITU-T I.371, virtual scheduling): with T = 60 s / rate, a request at t
 * conforms while max(arrival, t) + T ≤ t + burst × T, and moves the theoretical arrival time by T. Returns how many of those wanted conform now, and, where
 * none does, after how many milliseconds one will; `left`: how many conformed before; `used`: those, of any plan, that had not run off; `resetMs`: until all of the burst
 * conform again.
 *
 * Of another rate than the last one, what was taken counts as so many requests of this one; until the first of these is granted they run off at the faster of
 * both. So a faster plan lifts what a slower one refuses, and going from plan to plan gives nobody more than their fastest rate and largest burst.
 */
export async function takeRequests(tx: Tx, key: Key, rate: Rate, wanted: number): Promise<TakenRequests> {
  // Whether or not it is changed, the row is locked.
  await tx.$executeRaw`
    insert into rate_limit as known (consumer_tenant_id, listing_id, arrival_at, requests_per_minute)
    values (${key.consumerTenantId}::uuid, ${key.listingId}::uuid, mercato_now(), ${rate.requestsPerMinute}::int)
        on conflict (consumer_tenant_id, listing_id) do update set arrival_at = ${arrivalAt(rate)}, requests_per_minute = excluded.requests_per_minute
     where known.requests_per_minute < excluded.requests_per_minute`;
  const [row] = await tx.$queryRaw<{ ahead: number; now: number; secs: number }[]>`
    select greatest(0, extract(epoch from arrival_at - mercato_now()))::float8 ahead, extract(epoch from mercato_now())::float8 now,
           60::float8 / requests_per_minute secs from rate_limit
     where consumer_tenant_id = ${key.consumerTenantId}::uuid and listing_id = ${key.listingId}::uuid`;
  const { ahead, now: takenAt, secs } = row ?? { ahead: 0, now: 0, secs: 60 / rate.requestsPerMinute };
  const left = Math.max(0, Math.floor(rate.burst - ahead / secs + ROUNDING));
  const used = Math.max(0, Math.ceil(ahead / secs - ROUNDING));
  const granted = Math.min(wanted, left);
  if (granted === 0) {
    const retryAfterMs = Math.max(1, Math.ceil((ahead - (rate.burst - 1 + ROUNDING) * secs) * 1000));
    return { granted, takenAt, left, used, resetMs: ahead * 1000, retryAfterMs };
  }
  await moveArrival(tx, key, rate, granted);
  return { granted, takenAt, left, used, resetMs: ((ahead / secs + granted) * 60_000) / rate.requestsPerMinute, retryAfterMs: 0 };
}

/** When what is ahead of now of the row `known` has run off, at this rate. */
const arrivalAt = ({ requestsPerMinute }: Rate) => Prisma.sql`greatest(known.arrival_at, mercato_now()) + make_interval(secs =>
  greatest(0, extract(epoch from known.arrival_at - mercato_now()))::float8 * (known.requests_per_minute / ${requestsPerMinute}::float8 - 1))`;

/**
 * `requests` that were not made, of those `granted` at `takenAt`, less what was returned of them before. `admitted`: calls were let in with them, and did not run.
 */
export type UnmadeRequests = { requests: number; granted: number; takenAt: number; admitted?: boolean };

/**
 * Puts requests back that were taken at this rate and not made: those of calls that were admitted less what has run off since, from the first one on, whatever was
 * ahead of them then. Where another rate has taken some since, as if the faster of both had held all the time.
 */
export async function returnRequests(tx: Tx, key: Key, rate: Rate, unmade: readonly UnmadeRequests[]): Promise<void> {
  await tx.$executeRaw`
    update rate_limit set arrival_at = arrival_at - make_interval(secs => 60::float8 / requests_per_minute * (
             select sum(case when admitted then least(requests, greatest(0, granted - (extract(epoch from mercato_now())::float8 - taken_at)
                                                                            * greatest(requests_per_minute, ${rate.requestsPerMinute}::float8) / 60))
                             else requests end)
               from unnest(${unmade.map((one) => one.requests)}::float8[], ${unmade.map((one) => one.granted)}::float8[],
                           ${unmade.map((one) => one.takenAt)}::float8[], ${unmade.map((one) => one.admitted ?? false)}::boolean[])
                    x (requests, granted, taken_at, admitted)))
     where consumer_tenant_id = ${key.consumerTenantId}::uuid and listing_id = ${key.listingId}::uuid`;
}

async function moveArrival(tx: Tx, key: Key, rate: Rate, requests: number): Promise<void> {
  await tx.$executeRaw`
    update rate_limit known set arrival_at = ${arrivalAt(rate)} + make_interval(secs => ${(requests * 60) / rate.requestsPerMinute}::float8),
           requests_per_minute = ${rate.requestsPerMinute}::int
     where consumer_tenant_id = ${key.consumerTenantId}::uuid and listing_id = ${key.listingId}::uuid`;
}
