import { type GrantKey, rateOf } from '../../src/prediction/grants.ts';
import type { SimLimit } from './limits.ts';
import { LEASE_MS, MARGIN_MS } from './market.ts';

/** A call that was let in: whether its request was made, and its units were used. */
export type LetIn = { key: GrantKey; counterIds: readonly string[]; atMs: number; units: number; isMade: boolean; isUsed: boolean };
type Arrival = { atMs: number; count: number };
/** What is admitted by a lease was reserved at most so long before. */
const RESERVED_MS = LEASE_MS - MARGIN_MS;

/**
 * Where more came than may: in any time, of a rate as of a burst, the burst, what runs off in that time and in what a lease is used for, and what lay
 * unused with processes, at most the burst once more. Under several plans, by the largest of their bursts and the fastest of their rates. Judged are limits that stayed
 * what they were.
 */
export function unconforming(calls: readonly LetIn[], limits: readonly SimLimit[]): string[] {
  const wrong: string[] = [];
  const listings = Map.groupBy(calls, ({ key }) => `${key.consumerTenantId}:${key.listingId}`);
  for (const [name, ofListing] of listings) {
    const rates = ofListing.flatMap(({ key }) => rateOf(key.terms) ?? []);
    if (rates.length < ofListing.length) continue;
    const [burst, perMinute] = [Math.max(...rates.map((rate) => rate.burst)), Math.max(...rates.map((rate) => rate.requestsPerMinute))];
    const made = ofListing.filter(({ isMade }) => isMade).map(({ atMs }) => ({ atMs, count: 1 }));
    if (exceeds(made, burst, 60_000 / perMinute)) wrong.push(`${name} made more requests than its rate`);
  }
  for (const { id, amount, burstUnits, isChanged } of limits) {
    if (burstUnits === null || isChanged) continue;
    const under = calls.filter(({ isUsed, counterIds }) => isUsed && counterIds.some((counterId) => counterId.startsWith(`${id}@`)));
    const used = under.map(({ atMs, units }) => ({ atMs, count: units }));
    if (exceeds(used, Number(burstUnits), 60_000 / Number(amount))) wrong.push(`${id} let in more units than its burst`);
  }
  return wrong;
}

/** By the generic cell rate algorithm, virtual scheduling. */
function exceeds(arrivals: readonly Arrival[], burst: number, cellMs: number): boolean {
  let arrivalAt = Number.NEGATIVE_INFINITY;
  return [...arrivals]
    .sort((a, b) => a.atMs - b.atMs)
    .some(({ atMs, count }) => {
      arrivalAt = Math.max(arrivalAt, atMs) + count * cellMs;
      return arrivalAt > atMs + 2 * burst * cellMs + RESERVED_MS + 1e-3;
    });
}
