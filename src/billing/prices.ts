/** What a price needs of a plan's immutable version. */
export type PriceTerms = { unitPriceNanos: bigint; freeUnits: bigint };

/**
 * The cumulative price f of the first `units` of a period, in nanos: f(n) = unitPrice × max(0, n − free). A call of k units after n costs
 * f(n + k) − f(n), so that however calls are cut and ordered, their sum is f of their sum. Null terms: the publisher's own calls, free.
 */
export function priceOf(terms: PriceTerms | null, units: bigint): bigint {
  if (terms === null || units <= terms.freeUnits) return 0n;
  return (units - terms.freeUnits) * terms.unitPriceNanos;
}

/**
 * What must be held for leased units while `used` are settled: f(used + leased) − f(used), the most that they can come to. Settling k of
 * them lowers it by exactly their price, so a hold always covers its settlement, whatever the order of settling.
 */
export function holdOf(terms: PriceTerms | null, counter: { usedUnits: bigint; leasedUnits: bigint }): bigint {
  return priceOf(terms, counter.usedUnits + counter.leasedUnits) - priceOf(terms, counter.usedUnits);
}
