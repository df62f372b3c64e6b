import { asSystem, sqlState } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import {
  type CounterChange,
  dropLeases,
  type LeaseScope,
  type LockedLimit,
  limitedCallers,
  type Rate,
  type ReturnedUnits,
  renewLeases,
  returnRequests,
  returnUnits,
  sweepLeases,
  tellFull,
  type UnmadeRequests,
} from '../usage/usage.ts';
import { createGrants, type Granted, type GrantKey, type GrantsOptions, type Short, type Wish } from './grants.ts';

/** What a process measures durations with, and waits by. */
export type Time = { nowMs(): number; sleep(ms: number): Promise<void> };

export const systemTime: Time = {
  nowMs: () => performance.now(),
  sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
};

/** Where leases are kept, which all processes share. Each function is one transaction: done as a whole, or rejected and not done, or not known. */
export type LeaseStore = {
  /**
   * Grants, under an id of the caller's, at least `need` and at most `want` units with at most `requests` requests. With `recall`, a shortage asks other processes for
   * what they do not use. The nearer the end of a quota or limit, the smaller the grant: a quarter of the rest.
   * @throws OVERLOADED where the month is closed already, by a clock that was ahead
   */
  grant(leaseId: string, key: GrantKey, wish: Wish, recall?: boolean): Promise<Granted | Short>;
  /** Returns units, and what was held for them; of a lease that was swept nothing. `drain`: what is left of the leases is in flight. */
  putBack(returned: readonly ReturnedUnits[], drain: boolean): Promise<void>;
  putBackRequests(key: GrantKey, rate: Rate, unmade: readonly UnmadeRequests[]): Promise<void>;
  /** Lets leases live on, unless they were swept. */
  renew(leaseIds: readonly string[]): Promise<void>;
  /** Forgets leases that hold nothing. */
  drop(leaseIds: readonly string[]): Promise<void>;
  /** Ends the leases of any process that are past their expiry. */
  sweep(): Promise<void>;
  /** Tells, once a day, that a limit of calls in flight refused one. */
  tellFull(limit: Pick<LockedLimit, 'counterId'>): Promise<void>;
  /** Who of a tenant's members and keys has limits of its own. */
  limitedCallers(tenantId: string): Promise<ReadonlySet<string>>;
  /** Hears that some process needs what lies unused in this scope. */
  onRecall(heard: (scope: LeaseScope) => void): Promise<void>;
};

const CLOSED =
  'The books of this month are closed, though it is not over by the clock of the database. The operator must set that clock right; nothing is billed until then.';

/** Leases in the database. */
export function createLeaseStore(options: GrantsOptions): LeaseStore {
  const { db, billing } = options;
  const grants = createGrants(options);

  /** Releases in the wallets what was held for units that are leased no more. */
  async function releasing(change: (tx: Parameters<typeof sweepLeases>[0]) => Promise<CounterChange[]>): Promise<void> {
    await asSystem(db, async (tx) => billing.hold(tx, await grants.holdsOf(tx, await change(tx))));
  }

  return {
    async grant(...given) {
      try {
        return await grants.attempt(...given);
      } catch (error) {
        throw sqlState(error) === 'MC003' ? new MercatoError('OVERLOADED', CLOSED, { retryAfterMs: 60_000 }) : error;
      }
    },
    putBack: (returned, drain) => releasing((tx) => returnUnits(tx, returned, drain)),
    putBackRequests: (key, rate, unmade) => asSystem(db, (tx) => returnRequests(tx, key, rate, unmade)),
    renew: (leaseIds) => asSystem(db, (tx) => renewLeases(tx, leaseIds)),
    drop: (leaseIds) => asSystem(db, (tx) => dropLeases(tx, leaseIds)),
    sweep: () => releasing(sweepLeases),
    tellFull: (limit) => asSystem(db, (tx) => tellFull(tx, limit)),
    limitedCallers: (tenantId) => asSystem(db, (tx) => limitedCallers(tx, tenantId)),
    onRecall: (heard) =>
      db.listen('mercato_recall', (payload) => {
        const [consumerTenantId = '', listingId = ''] = payload.split(':');
        heard({ consumerTenantId, listingId: listingId === '' ? null : listingId });
      }),
  };
}
