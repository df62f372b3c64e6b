/**
 * What is counted, and how much is allowed: counters per consumer, listing and month; leases of units granted to server processes; rate
 * limits; immutable usage records. Every function is one or two SQL statements on the caller's transaction; none knows a price.
 *
 * Locks are taken in this order, by primary key within a table, by every transaction of the system: api_key, lease, usage_counter,
 * rate_limit, idempotency_key, subscription_charge, transfer, account. Closing a month: usage_counter, its partition of usage_record, transfer.
 */
import type { Tx } from '../base/database.ts';
import { type UsageQuery, type UsageReport, usageReport } from './report.ts';

export { type CounterChange, type CounterState, lockCounter } from './counters.ts';
export {
  dropLeases,
  grantLease,
  hasForeignLeases,
  type ReturnedUnits,
  recallLeases,
  renewLeases,
  returnUnits,
  sweepLeases,
} from './leases.ts';
export { ensurePartitions } from './partitions.ts';
export { returnRequests, takeRequests } from './rates.ts';
export type { UsageGroup, UsageQuery, UsageReport, UsageRow } from './report.ts';

/** The reading side that resolvers call. */
export type Usage = {
  /** The consumer's own use; see the SDL's `Query.usage`. @throws BAD_USER_INPUT */
  report(tx: Tx, query: UsageQuery): Promise<UsageReport>;
};

export function createUsage(options: { currency: string }): Usage {
  return { report: (tx, query) => usageReport(tx, options.currency, query) };
}
