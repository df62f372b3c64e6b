import { asSystem, type Database, type Tx } from '../base/database.ts';
import type { ErrorData } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import { type Billing, type ChargeAccounts, holdOf } from '../billing/billing.ts';
import type { PlanTerms } from '../catalog/catalog.ts';
import {
  type CounterChange,
  type CounterState,
  grantLease,
  hasForeignLeases,
  holdersOf,
  type LimitedCaller,
  type LockedLimit,
  lockCounter,
  lockLimits,
  type NextPrice,
  type Rate,
  recallLeases,
  returnRequests,
  roomOf,
  type TakenRequests,
  takeFromLimits,
  takeRequests,
} from '../usage/usage.ts';
import type { Admission } from './lease-memory.ts';
import { type Allowance, allowancesOf, type LimitShort, rateAllowance, shortOfLimit } from './lease-refusals.ts';

/**
 * Whose units, of which listing, under which terms; null terms: the publisher's own calls, free and without quota. Member and key are null
 * where they have no limits of their own.
 */
export type GrantKey = LimitedCaller & {
  publisherTenantId: string;
  subscriptionId: string | null;
  handle: string;
  terms: PlanTerms | null;
};

export type Granted = {
  leaseId: string;
  period: string;
  units: number;
  /** Infinity without a rate limit. */
  requests: number;
  /** Calls in flight at once; Infinity without a limit of concurrency. */
  slots: number;
  counterIds: readonly string[];
  /** What there was of the limits, what is granted here included. */
  left: readonly Allowance[];
  /** Seconds since 1970, by the database. */
  requestsTakenAt: number;
  /** Monotonic ms after which the block admits nothing more. */
  usableUntil: number;
  accounts: ChargeAccounts | null;
};

/** Why nothing was granted. `foreign`: another process may hold unused units; `exhaustedMs`: nothing changes that for so long. */
export type Short = (PlanShort | LimitShort) & {
  foreign: boolean;
  /** A place among the calls in flight may just be on its way back. */
  draining?: boolean;
  left?: readonly Allowance[];
};

/**
 * Of CREDIT, `neededNanosOf` is what the wallet has to cover for a call of so many units. BUSY: others hold what they do not need `of` what
 * there is too little of, or, without that, calls in flight hold units of another plan version, which end first.
 */
type PlanShort = { data: ErrorData; exhaustedMs?: number } & (
  | { short: 'QUOTA' }
  | { short: 'RATE'; burst: number }
  | { short: 'CREDIT'; neededNanosOf(units: number): bigint }
  | { short: 'BUSY'; of?: Short }
);

/** What a grant is asked for: units at least and at most, and requests at most. */
export type Wish = { need: number; want: number; requests: number };

/** A block stops admitting early enough for the next upkeep, twice a second, to renew its lease for the calls in flight. */
const MARGIN_MS = 700;

export type GrantsOptions = { db: Database; billing: Billing; processId: string; nowMs?: () => number };

/** The database side of leases: one short transaction per grant. `nowMs`: what the process measures a block's age with. */
export function createGrants({ db, billing, processId, nowMs = () => performance.now() }: GrantsOptions) {
  const knownTerms = new Map<string, PlanTerms>();

  /** As `LeaseStore.grant`. */
  async function attempt(leaseId: string, key: GrantKey, { need, want, requests }: Wish, recall = false): Promise<Granted | Short> {
    if (key.terms) knownTerms.set(key.terms.planVersionId, key.terms);
    return asSystem(db, async (tx) => {
      const startedAt = nowMs();
      const counter = await lockCounter(tx, key);
      const short = shortOfUnits(key, counter, need);
      if (short) {
        const foreign = await hasForeignLeases(tx, counter, processId);
        if (recall && foreign) await recallLeases(tx, counter);
        return { ...short, foreign, left: allowancesOf(key, counter, await lockLimits(tx, key)) };
      }
      const limits = await lockLimits(tx, key);
      const granted = await grant(tx, leaseId, key, counter, limits, { need, want, requests });
      if ('short' in granted) {
        // What a limit or the wallet lacks may lie unused with any listing.
        if (granted.short !== 'RATE' && granted.foreign && recall) await recallLeases(tx, { ...counter, listingId: null });
        return granted;
      }
      const windowMs = Math.min(counter.windowMs, ...limits.map((limit) => limit.windowMs));
      return { ...granted, usableUntil: startedAt + Math.min(LIMITS.leaseMs - MARGIN_MS, windowMs) };
    });
  }

  async function grant(
    tx: Tx,
    leaseId: string,
    key: GrantKey,
    counter: CounterState & { windowEndsAt: Date; windowMs: number },
    limits: readonly LockedLimit[],
    given: Wish,
  ): Promise<Omit<Granted, 'usableUntil'> | Short> {
    const { terms } = key;
    const price = nextPriceOf(terms, counter);
    // Free units may be had by others before they are settled, so that only a call for which there is no room otherwise counts on them.
    const full = { ...price, free: 0n };
    const dear = shortOfLimit(limits, given.need, full);
    const onFree = dear?.limit.measure === 'SPEND' && price.free > 0n;
    const short = onFree ? shortOfLimit(limits, given.need, price) : dear;
    if (short) {
      const holders = await holdersOf(tx, short.limit.counterId, processId);
      // Free units may lie unused with a lease that is not under this limit.
      const mayBeFree = short.limit.measure === 'SPEND' && price.leasedFree > 0n && (await hasForeignLeases(tx, counter, processId));
      return { ...short, ...holders, foreign: holders.foreign || mayBeFree, left: allowancesOf(key, counter, limits) };
    }
    const rooms = limits.map((limit) => roomOf(limit, onFree ? price : full));
    const quarter = (room: number, need: number) => Math.max(need, Math.ceil(room / 4));
    // The nearer the end of a limit, the smaller the grant, as with a quota.
    const most = onFree ? given.need : given.want;
    const wish = { ...given, want: Math.min(most, ...rooms.map((room) => quarter(room.units, given.need))) };
    const rate = rateOf(terms);
    const taken = rate
      ? await takeRequests(tx, key, rate, Math.max(wish.requests, Math.min(wish.want, Math.ceil(rate.requestsPerMinute / 120))))
      : null;
    const left = [...allowancesOf(key, counter, limits), ...rateAllowance(key, rate, taken)];
    if (rate && taken?.granted === 0) return { ...shortOfRate(rate, taken), foreign: false, left };
    const accounts = terms === null ? null : await billing.accounts(tx, key.consumerTenantId, key.publisherTenantId);
    const units = accounts === null ? wish.want : await affordable(tx, terms, accounts.walletId, counter, wish);
    if (units < wish.need) {
      if (rate && taken) await returnRequests(tx, key, rate, [{ ...taken, requests: taken.granted }]);
      const foreign = await hasForeignLeases(tx, { ...counter, listingId: null }, processId);
      const availableNanos = accounts === null ? 0n : await billing.lockAvailable(tx, accounts.walletId);
      return { ...shortOfCredit(billing, terms, counter, availableNanos), foreign, left };
    }
    const slots = Math.min(...rooms.map((room) => room.slots), Number.POSITIVE_INFINITY);
    const calls = Number.isFinite(slots) ? Math.min(slots, quarter(slots, Math.max(1, given.requests))) : slots;
    const quotaUnits = terms?.quotaUnits ?? null;
    const counterIds = limits.map(({ counterId }) => counterId);
    const nanos = onFree ? moreHeld(terms, counter, units) : BigInt(units) * price.unitNanos;
    const taking = { units: BigInt(units), nanos, slots: Number.isFinite(calls) ? BigInt(calls) : 0n };
    await takeFromLimits(tx, limits, taking);
    await grantLease(tx, counter, { leaseId, processId, planVersionId: terms?.planVersionId ?? null, quotaUnits, counterIds, ...taking });
    if (accounts) await billing.holdIn(tx, accounts.walletId, moreHeld(terms, counter, units));
    const { period } = counter;
    const requests = { requests: taken?.granted ?? Number.POSITIVE_INFINITY, requestsTakenAt: taken?.takenAt ?? 0 };
    return { leaseId, period, units, ...requests, slots: calls, counterIds, left, accounts };
  }

  /** The most units, up to what is wanted and a quarter of the quota's rest, whose hold the wallet covers; 0 where not even the need. */
  async function affordable(tx: Tx, terms: PlanTerms | null, walletId: string, counter: CounterState, wish: Wish): Promise<number> {
    const rest = terms?.quotaUnits == null ? Number.POSITIVE_INFINITY : Number(terms.quotaUnits - counter.usedUnits - counter.leasedUnits);
    let most = Math.max(wish.need, Math.min(wish.want, Math.ceil(rest / 4)));
    if (moreHeld(terms, counter, most) === 0n) return most;
    const available = await billing.lockAvailable(tx, walletId);
    // Near the end of the credit as near the end of the quota: leave something for the other processes.
    if (moreHeld(terms, counter, most) * 4n > available) most = Math.max(wish.need, Math.ceil(most / 4));
    if (moreHeld(terms, counter, most) <= available) return most;
    return moreHeld(terms, counter, wish.need) <= available ? wish.need : 0;
  }

  /** The plan version's immutable terms, from memory where known; null for the publisher's own calls. */
  async function termsOf(tx: Tx, planVersionId: string | null): Promise<PlanTerms | null> {
    if (planVersionId === null) return null;
    const known = knownTerms.get(planVersionId);
    if (known) return known;
    const row = await tx.planVersion.findUniqueOrThrow({ where: { id: planVersionId } });
    const terms: PlanTerms = { ...row, planVersionId: row.id };
    knownTerms.set(planVersionId, terms);
    return terms;
  }

  /** By how much each consumer's hold changes with its counters. */
  async function holdsOf(tx: Tx, changes: readonly CounterChange[]): Promise<{ consumerTenantId: string; heldNanos: bigint }[]> {
    const holds = new Map<string, bigint>();
    for (const { before, after } of changes) {
      const terms = await termsOf(tx, before.planVersionId);
      const delta = holdOf(terms, after) - holdOf(terms, before);
      holds.set(before.consumerTenantId, (holds.get(before.consumerTenantId) ?? 0n) + delta);
    }
    return [...holds].map(([consumerTenantId, heldNanos]) => ({ consumerTenantId, heldNanos }));
  }

  return { attempt, holdsOf };
}

/** A publisher's own calls are free, and limited all the same. */
const OWN_RATE = { requestsPerMinute: 6000, burst: 600 };

/** The rate that these terms set; null where they set none. */
export function rateOf(terms: PlanTerms | null): Rate | null {
  if (terms === null) return OWN_RATE;
  return terms.requestsPerMinute === null ? null : { requestsPerMinute: terms.requestsPerMinute, burst: terms.burst ?? 1 };
}

/**
 * What quota or wallet lack for the units of a call whose lease was swept, locked until the transaction ends; null where there is room, or the month of the lease is over.
 */
export async function shortOfSwept(tx: Tx, billing: Billing, { key, period, units, accounts }: Admission): Promise<Short | null> {
  const counter = await lockCounter(tx, key);
  if (counter.period !== period) return null;
  const short = shortOfUnits(key, counter, units);
  if (short) return short.short === 'QUOTA' ? { ...short, foreign: false } : null;
  const neededNanos = moreHeld(key.terms, counter, units);
  const availableNanos = accounts === null ? neededNanos : await billing.lockAvailable(tx, accounts.walletId);
  return availableNanos < neededNanos ? { ...shortOfCredit(billing, key.terms, counter, availableNanos), foreign: false } : null;
}

function shortOfRate({ requestsPerMinute, burst }: Rate, { used, retryAfterMs }: TakenRequests): PlanShort {
  const data = { limit: String(requestsPerMinute), used: String(used), given: '1 call', expected: 'at most 0 now', retryAfterMs };
  return { short: 'RATE', burst, data };
}

function shortOfCredit({ currency }: Billing, terms: PlanTerms | null, counter: CounterState, availableNanos: bigint): PlanShort {
  const data = { availableNanos: String(availableNanos), currency };
  return { short: 'CREDIT', data, neededNanosOf: (units) => moreHeld(terms, counter, units) };
}

function moreHeld(terms: PlanTerms | null, counter: CounterState, units: number): bigint {
  return holdOf(terms, { ...counter, leasedUnits: counter.leasedUnits + BigInt(units) }) - holdOf(terms, counter);
}

const above0 = (units: bigint) => (units > 0n ? units : 0n);

/** Of the units after those used and leased. */
function nextPriceOf(terms: PlanTerms | null, { usedUnits, leasedUnits }: CounterState): NextPrice {
  const unused = above0((terms?.freeUnits ?? 0n) - usedUnits);
  const free = above0(unused - leasedUnits);
  return { unitNanos: terms?.unitPriceNanos ?? 0n, free, leasedFree: unused - free };
}

/** The quota's shortage, if any; also where leases of another plan version are still out, since a counter's leases share their terms. */
function shortOfUnits(key: GrantKey, counter: CounterState & { windowEndsAt: Date; windowMs: number }, need: number): PlanShort | null {
  const { terms } = key;
  if (counter.leasedUnits > 0n && counter.planVersionId !== (terms?.planVersionId ?? null)) {
    return { short: 'BUSY', data: { retryAfterMs: LIMITS.leaseMs } };
  }
  const quota = terms?.quotaUnits ?? null;
  if (quota === null || counter.usedUnits + counter.leasedUnits + BigInt(need) <= quota) return null;
  const left = quota - counter.usedUnits - counter.leasedUnits;
  const data = {
    limit: quota.toString(),
    used: counter.usedUnits.toString(),
    resetsAt: counter.windowEndsAt.toISOString(),
    given: `${need} unit${need === 1 ? '' : 's'}`,
    expected: `at most ${left > 0n ? left : 0n}`,
  };
  return { short: 'QUOTA', data, ...(counter.usedUnits >= quota ? { exhaustedMs: counter.windowMs } : {}) };
}
