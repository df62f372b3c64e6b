import type { Tx } from '../base/database.ts';

/** What the tenant of the transaction used of a listing in this month, and has leased. */
export type Quota = { used: bigint; inFlight: bigint; resetsAt: Date };

/** By listing; every listing that is asked for has one. */
export async function quotasOf(tx: Tx, listingIds: readonly string[]): Promise<ReadonlyMap<string, Quota>> {
  const rows = await tx.$queryRaw<(Quota & { listingId: string })[]>`
    select l.id "listingId", coalesce(c.used_units, 0) used, coalesce(c.leased_units, 0) "inFlight",
           mercato_window_end('MONTH', false, mercato_now()) "resetsAt"
      from unnest(${[...listingIds]}::uuid[]) l (id)
      left join usage_counter c on c.consumer_tenant_id = mercato_tenant_id() and c.listing_id = l.id and c.period = mercato_period(mercato_now())`;
  return new Map(rows.map(({ listingId, ...quota }) => [listingId, quota]));
}
