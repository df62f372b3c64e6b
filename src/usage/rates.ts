import type { Tx } from '../base/database.ts';

/** The rate of a plan: `requestsPerMinute` on average, at most `burst` at once. */
export type Rate = { requestsPerMinute: number; burst: number };
/** `takenAt`: seconds since 1970, by the database. */
export type TakenRequests = { granted: number; takenAt: number; left: number; resetMs: number; retryAfterMs: number };
type Key = { consumerTenantId: string; listingId: string };

/**
 * Takes up to `wanted` requests from the generic cell rate algorithm (ITU-T I.371, virtual scheduling): with T = 60 s / rate, a request at t
 * conforms while max(arrival, t) + T ≤ t + burst × T, and moves the theoretical arrival time by T. Returns how many of those wanted conform now, and, where
 * none does, after how many milliseconds one will; `left`: how many conformed before; `resetMs`: until all of the burst do again.
 */
export async function takeRequests(tx: Tx, key: Key, rate: Rate, wanted: number): Promise<TakenRequests> {
  const secs = 60 / rate.requestsPerMinute;
  await tx.$executeRaw`
    insert into rate_limit (consumer_tenant_id, listing_id, arrival_at)
    values (${key.consumerTenantId}::uuid, ${key.listingId}::uuid, mercato_now()) on conflict do nothing`;
  const [row] = await tx.$queryRaw<{ ahead: number; now: number }[]>`
    select greatest(0, extract(epoch from arrival_at - mercato_now()))::float8 ahead, extract(epoch from mercato_now())::float8 now from rate_limit
     where consumer_tenant_id = ${key.consumerTenantId}::uuid and listing_id = ${key.listingId}::uuid for update`;
  const { ahead, now: takenAt } = row ?? { ahead: 0, now: 0 };
  // Microsecond timestamps: without the millionth of a cell, the last request of a full burst would be lost to rounding.
  const left = Math.max(0, Math.floor(rate.burst - ahead / secs + 1e-6));
  const granted = Math.min(wanted, left);
  const resetMs = (ahead + granted * secs) * 1000;
  if (granted === 0)
    return { granted, takenAt, left, resetMs, retryAfterMs: Math.max(1, Math.ceil((ahead - (rate.burst - 1) * secs) * 1000)) };
  await moveArrival(tx, key, granted * secs);
  return { granted, takenAt, left, resetMs, retryAfterMs: 0 };
}

/**
 * `requests` that were not made, of those `granted` at `takenAt`, less what was returned of them before. `admitted`: calls were let in with them, and did not run.
 */
export type UnmadeRequests = { requests: number; granted: number; takenAt: number; admitted?: boolean };

/**
 * Puts requests back that were taken and not made: those of calls that were admitted less what has run off since, from the first one on, whatever was ahead of
 * them then.
 */
export async function returnRequests(tx: Tx, key: Key, rate: Rate, unmade: readonly UnmadeRequests[]): Promise<void> {
  const secs = 60 / rate.requestsPerMinute;
  await tx.$executeRaw`
    update rate_limit set arrival_at = arrival_at - make_interval(secs => (
             select sum(case when admitted then least(requests * ${secs}::float8, greatest(0, granted * ${secs}::float8 - (extract(epoch from mercato_now())::float8 - taken_at)))
                             else requests * ${secs}::float8 end)
               from unnest(${unmade.map((one) => one.requests)}::float8[], ${unmade.map((one) => one.granted)}::float8[],
                           ${unmade.map((one) => one.takenAt)}::float8[], ${unmade.map((one) => one.admitted ?? false)}::boolean[])
                    x (requests, granted, taken_at, admitted)))
     where consumer_tenant_id = ${key.consumerTenantId}::uuid and listing_id = ${key.listingId}::uuid`;
}

async function moveArrival(tx: Tx, key: Key, secs: number): Promise<void> {
  await tx.$executeRaw`
    update rate_limit set arrival_at = greatest(arrival_at, mercato_now()) + make_interval(secs => ${secs}::float8)
     where consumer_tenant_id = ${key.consumerTenantId}::uuid and listing_id = ${key.listingId}::uuid`;
}
