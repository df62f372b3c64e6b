/**
 * What is counted, and how much is allowed: counters per consumer, listing and month; leases of units granted to server processes; rate
 * limits; immutable usage records. Every function is one or two SQL statements on the caller's transaction; none knows a price.
 *
 * Locks are taken in this order, by primary key within a table, by every transaction of the system: api_key, lease, usage_counter, usage_limit (where it
 * changes; an alert refers to it, and so keeps no change of it waiting), limit_counter, rate_limit, idempotency_key, subscription_charge, transfer, account.
 * Before all of these, whoever makes a usage_counter shares the advisory lock of those who close a month: that, then usage_counter, the month's partition of usage_record, transfer.
 */
import type { Readable } from 'node:stream';
import type { Database, Tx } from '../base/database.ts';
import type { PageRequest } from '../base/ids.ts';
import { type AlertView, findAlert, listAlerts } from './alerts.ts';
import { type ExportFormat, ExportPlaces, exportRecords, parseExport } from './export.ts';
import { type Announcer, createLimits, type LimitChange, type LimitView, type NewLimit, readLimits } from './limits.ts';
import { type UsageQuery, type UsageReport, usageReport } from './report.ts';

export { type AlertView, OUTBOX_DAYS } from './alerts.ts';
export { type CounterChange, type CounterState, lockCounter } from './counters.ts';
export {
  dropLeases,
  grantLease,
  hasForeignLeases,
  type LeaseScope,
  type ReturnedUnits,
  recallLeases,
  renewLeases,
  returnUnits,
  sweepLeases,
} from './leases.ts';
export {
  holdersOf,
  type LimitedCaller,
  type LockedLimit,
  lockLimits,
  type NextPrice,
  roomOf,
  settledLimitOf,
  takeFromLimits,
  tellFull,
} from './limit-counters.ts';
export type { LimitView } from './limits.ts';
export { limitedCallers, PLAN_NAMES } from './limits.ts';
export { quotasOf } from './quotas.ts';
export { type Rate, returnRequests, type TakenRequests, takeRequests, type UnmadeRequests } from './rates.ts';
export type { UsageGroup, UsageQuery, UsageReport, UsageRow } from './report.ts';
export { keepUsage } from './upkeep.ts';

/** What resolvers call. */
export type Usage = {
  /** The consumer's own use; see the SDL's `Query.usage`. @throws BAD_USER_INPUT */
  report(tx: Tx, query: UsageQuery): Promise<UsageReport>;
  /** As text, a stream of lines; `query` has `from`, `to` and `format` as text; see `GET /usage/records`. `look`: whether its reader may still have it. @throws BAD_USER_INPUT, OVERLOADED */
  exportRecords(
    tenantId: string,
    query: { from?: unknown; to?: unknown; format?: unknown },
    look: () => Promise<unknown>,
  ): { format: ExportFormat; lines: Readable };
  /** A tenant's limits in force, oldest first, with what is used of each; nothing is consumed. */
  limits(tx: Tx, tenantId: string): Promise<LimitView[]>;
  /** Of `limits`, those that a call of the caller's can meet: of the tenant, of its subscriptions, of the member and of the key. */
  limitsOf(tx: Tx, caller: { tenantId: string; memberId: string | null; apiKeyId: string | null }): Promise<LimitView[]>;
  findLimit(tx: Tx, tenantId: string, id: string): Promise<LimitView | null>;
  /** Newest first, up to one more than the page holds. */
  alerts(tx: Tx, tenantId: string, page: PageRequest): Promise<AlertView[]>;
  findAlert(tx: Tx, tenantId: string, id: string): Promise<AlertView | null>;
  /**
   * Sets a limit; returns when every live server process applies it. Checks name, amount, window, hardness, bursts, thresholds, then the
   * subject. @throws BAD_USER_INPUT, NOT_FOUND (the subject), CONFLICT (the name, or the number of limits)
   */
  createLimit(tenantId: string, limit: NewLimit): Promise<LimitView>;
  /** As `createLimit`; what the limit is about cannot change. @throws NOT_FOUND, BAD_USER_INPUT, CONFLICT */
  updateLimit(tenantId: string, id: string, change: LimitChange): Promise<LimitView>;
  /** @throws NOT_FOUND */
  deleteLimit(tenantId: string, id: string): Promise<LimitView>;
};

export function createUsage(options: { db: Database; announcer: Announcer; currency: string }): Usage {
  const limits = createLimits(options.db, options.announcer);
  const places = new ExportPlaces();
  return {
    exportRecords(tenantId, given, look) {
      const query = parseExport(given);
      return { format: query.format, lines: exportRecords(options.db, places, { ...query, tenantId, look }) };
    },
    report: (tx, query) => usageReport(tx, options.currency, query),
    limits: (tx, tenantId) => readLimits(tx, tenantId, null),
    async limitsOf(tx, { tenantId, memberId, apiKeyId }) {
      const limits = await readLimits(tx, tenantId, null);
      return limits.filter(({ subject, subjectId }) => subject === 'SUBSCRIPTION' || [tenantId, memberId, apiKeyId].includes(subjectId));
    },
    findLimit: async (tx, tenantId, id) => (await readLimits(tx, tenantId, id))[0] ?? null,
    alerts: listAlerts,
    findAlert,
    createLimit: limits.create,
    updateLimit: limits.update,
    deleteLimit: limits.remove,
  };
}
