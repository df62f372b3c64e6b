import { priceOf } from '../../src/billing/billing.ts';
import { type Granted, type GrantKey, rateOf, type Short, type Wish } from '../../src/prediction/grants.ts';
import { shortOfLimit } from '../../src/prediction/lease-refusals.ts';
import type { LeaseScope, LockedLimit, NextPrice, ReturnedUnits } from '../../src/usage/usage.ts';
import { type Account, Ledger, walletId } from './ledger.ts';
import { Limits, most } from './limits.ts';
import { concerns, LEASE_MS, MARGIN_MS, type Market, PERIOD_MS } from './market.ts';
import { Requests } from './requests.ts';
import type { World } from './world.ts';

export type Counter = { used: bigint; leased: bigint; planVersionId: string | null; quota: bigint | null };
export type Lease = {
  processId: string;
  key: GrantKey;
  period: string;
  units: bigint;
  /** Of spend limits. */
  nanos: bigint;
  slots: bigint;
  /** Without a limit of calls in flight. */
  isUnbound: boolean;
  counterIds: readonly string[];
  draining: boolean;
  /** Less what was returned. */
  granted: bigint;
  grantedAt: number;
  expiresAt: number;
  returns: Set<bigint>;
};
/** A usage record. */
export type SimRecord = {
  id: string;
  key: GrantKey;
  period: string;
  units: bigint;
  amountNanos: bigint;
  keyed: string | null;
  createdAt: number;
};

/**
 * The database's side of metering as a plain model in memory: what the SQL of usage/ must come to. Each function is one transaction. How much a grant is
 * beyond what was asked for is left to chance: the protocol must hold for any.
 */
export class Books {
  readonly counters = new Map<string, Counter>();
  readonly leases = new Map<string, Lease>();
  /** Who each lease was granted to, whatever became of it. */
  readonly lessees = new Map<string, GrantKey>();
  readonly records = new Map<string, SimRecord>();
  readonly keys = new Map<string, string>();
  readonly wrong: string[] = [];
  readonly limits: Limits;
  readonly requests: Requests;
  readonly ledger: Ledger;
  readonly market: Market;
  readonly world: World;
  recall: (scope: LeaseScope) => void = () => {};

  constructor(world: World, market: Market) {
    [this.world, this.market] = [world, market];
    const now = () => world.now;
    this.ledger = new Ledger(now, () => this.period());
    this.requests = new Requests(now);
    this.limits = new Limits(now, (limit, from) => {
      const own = [...this.records.values()].filter(({ key, createdAt }) => createdAt >= from && concerns(limit, key));
      return own.reduce((sum, { units, amountNanos }) => sum + (limit.measure === 'UNITS' ? units : amountNanos), 0n);
    });
  }

  period(): string {
    return String(Math.floor(this.world.now / PERIOD_MS));
  }

  counterOf(key: Pick<GrantKey, 'consumerTenantId' | 'listingId'>, period: string): Counter {
    const name = `${key.consumerTenantId}:${key.listingId}:${period}`;
    const counter = this.counters.get(name) ?? { used: 0n, leased: 0n, planVersionId: null, quota: null };
    this.counters.set(name, counter);
    return counter;
  }

  walletOf(tenantId: string): Account {
    return this.ledger.account(walletId(tenantId));
  }

  grant(processId: string, leaseId: string, key: GrantKey, wish: Wish, recall: boolean): Granted | Short {
    const period = this.period();
    const counter = this.counterOf(key, period);
    const short = this.shortOfUnits(processId, key, counter, wish);
    if (short) {
      if (recall && short.foreign && short.short === 'QUOTA') this.recall(key);
      return short;
    }
    const limits = this.limits.lock(key);
    const granted = this.grantWithin(processId, leaseId, key, counter, limits, wish);
    if ('short' in granted && granted.short !== 'RATE' && granted.foreign && recall) this.recall({ ...key, listingId: null });
    return granted;
  }

  private shortOfUnits(processId: string, key: GrantKey, counter: Counter, { need }: Wish): Short | null {
    const foreign = () => this.foreign(processId, key, true);
    const planVersionId = key.terms?.planVersionId ?? null;
    if (counter.leased > 0n && counter.planVersionId !== planVersionId) return { short: 'BUSY', foreign: foreign(), data: {} };
    const quota = key.terms?.quotaUnits ?? null;
    if (quota === null || counter.used + counter.leased + BigInt(need) <= quota) return null;
    const isUsed = counter.used >= quota;
    return { short: 'QUOTA', foreign: foreign(), data: {}, ...(isUsed ? { exhaustedMs: this.leftOfPeriod() } : {}) };
  }

  private leftOfPeriod(): number {
    return (Number(this.period()) + 1) * PERIOD_MS - this.world.now;
  }

  private grantWithin(
    processId: string,
    leaseId: string,
    key: GrantKey,
    counter: Counter,
    limits: readonly LockedLimit[],
    wish: Wish,
  ): Granted | Short {
    const price = nextPriceOf(key.terms, counter);
    const full = { ...price, free: 0n };
    const dear = shortOfLimit(limits, wish.need, full);
    const onFree = dear?.limit.measure === 'SPEND' && price.free > 0n;
    const short = onFree ? shortOfLimit(limits, wish.need, price) : dear;
    if (short) {
      const holders = [...this.leases.values()].filter(
        (lease) => lease.counterIds.includes(short.limit.counterId) && (lease.units > 0n || lease.slots > 0n),
      );
      const mayBeFree = short.limit.measure === 'SPEND' && price.leasedFree > 0n && this.foreign(processId, key, true);
      const foreign = mayBeFree || holders.some((lease) => lease.processId !== processId && !lease.draining);
      return { ...short, foreign, draining: holders.some((lease) => lease.draining) };
    }
    const rate = rateOf(key.terms);
    this.requests.ask(key);
    const conforming = this.requests.roomOf(key);
    if (conforming === 0) return { short: 'RATE', foreign: false, burst: rate?.burst ?? 0, data: {} };
    const room = most(limits, onFree ? price : full);
    const units = this.sizeOf(key, counter, room.units, onFree ? { ...wish, want: wish.need } : wish);
    if (units < wish.need) {
      const price = key.terms?.unitPriceNanos ?? 0n;
      return { short: 'CREDIT', foreign: this.foreign(processId, key, false), data: {}, neededNanosOf: (needed) => BigInt(needed) * price };
    }
    const slots = Number.isFinite(room.slots) ? 1 + this.world.below(room.slots) : room.slots;
    const ahead = Math.min(conforming, Math.max(wish.requests, Math.ceil((rate?.requestsPerMinute ?? 0) / 120)));
    const requests = rate ? 1 + this.world.below(ahead) : Number.POSITIVE_INFINITY;
    if (rate) this.requests.take(processId, key, requests);
    const unitNanos = onFree ? null : price.unitNanos;
    return { ...this.lend(processId, leaseId, key, units, slots, limits, unitNanos), requests };
  }

  private sizeOf(key: GrantKey, counter: Counter, room: number, wish: Wish): number {
    const quota = key.terms?.quotaUnits ?? null;
    const upTo = Math.min(wish.want, room, quota === null ? wish.want : Number(quota - counter.used - counter.leased));
    const fits = (units: number) => {
      const leased = counter.leased + BigInt(units);
      const more = holdOf(key.terms, { ...counter, leased }) - holdOf(key.terms, counter);
      return more === 0n || more <= (this.ledger.available(walletId(key.consumerTenantId)) ?? 0n);
    };
    const units = wish.need + this.world.below(Math.max(0, upTo - wish.need) + 1);
    return fits(units) ? units : fits(wish.need) ? wish.need : 0;
  }

  private lend(
    processId: string,
    leaseId: string,
    key: GrantKey,
    units: number,
    slots: number,
    limits: readonly LockedLimit[],
    unitNanos: bigint | null,
  ): Omit<Granted, 'requests'> {
    const period = this.period();
    const cost = this.moveCounter(key, period, BigInt(units), {
      planVersionId: key.terms?.planVersionId ?? null,
      quota: key.terms?.quotaUnits ?? null,
    });
    const isUnbound = !Number.isFinite(slots);
    const nanos = unitNanos === null ? cost : BigInt(units) * unitNanos;
    const lease: Lease = {
      ...{ processId, key, period, units: BigInt(units), nanos, slots: isUnbound ? 0n : BigInt(slots), isUnbound },
      counterIds: limits.map(({ counterId }) => counterId),
      ...{
        draining: false,
        granted: BigInt(units),
        grantedAt: this.world.now,
        expiresAt: this.world.now + LEASE_MS,
        returns: new Set<bigint>(),
      },
    };
    this.leases.set(leaseId, lease);
    this.lessees.set(leaseId, key);
    this.limits.move(lease.counterIds, { units: lease.units, nanos, slots: lease.slots });
    const windowMs = Math.min(this.leftOfPeriod(), ...limits.map((limit) => limit.windowMs));
    const usableUntil = this.world.now + Math.min(LEASE_MS - MARGIN_MS, windowMs);
    return {
      leaseId,
      period,
      units,
      slots,
      counterIds: lease.counterIds,
      left: [],
      requestsTakenAt: this.world.now / 1000,
      usableUntil,
      accounts: null,
    };
  }

  /** Leases more of a counter, or less, with what the wallet holds for it; by how much that changes. */
  moveCounter(key: GrantKey, period: string, units: bigint, terms: Partial<Counter> = {}): bigint {
    const counter = this.counterOf(key, period);
    const before = holdOf(this.market.termsOf(counter.planVersionId), counter);
    Object.assign(counter, { leased: counter.leased + units, ...terms });
    const more = holdOf(this.market.termsOf(counter.planVersionId), counter) - before;
    this.walletOf(key.consumerTenantId).held += more;
    return more;
  }

  private foreign(processId: string, { consumerTenantId, listingId }: GrantKey, ofListing: boolean): boolean {
    return [...this.leases.values()].some(
      (lease) =>
        lease.key.consumerTenantId === consumerTenantId &&
        (!ofListing || lease.key.listingId === listingId) &&
        lease.processId !== processId &&
        !lease.draining &&
        lease.units > 0n,
    );
  }

  putBack(returned: readonly ReturnedUnits[], drain: boolean): void {
    for (const { leaseId, number, ...part } of returned) {
      const lease = this.leases.get(leaseId);
      if (!lease || lease.returns.has(number)) continue;
      const [units, slots] = [part.units ?? lease.units, part.slots ?? lease.slots];
      lease.returns.add(number);
      if (drain) lease.draining = true;
      this.release(lease, units, slots, part.admitted ? this.world.now - lease.grantedAt : 0);
      lease.units -= units;
      lease.slots -= slots;
      if (lease.units < 0n || lease.slots < 0n) this.wrong.push(`more of ${leaseId} was returned than was leased`);
    }
  }

  /** `agoMs`: since when, of bursts, what comes back has run off. */
  private release(lease: Lease, units: bigint, slots: bigint, agoMs: number): void {
    const kept = this.keptNanos(lease, lease.nanos, lease.units - units);
    const taking = { units: -units, nanos: kept - lease.nanos, slots: -slots };
    this.limits.move(lease.counterIds, taking, { granted: lease.granted, agoMs });
    lease.granted -= units;
    lease.nanos = kept;
    this.moveCounter(lease.key, lease.period, -units);
  }

  /** Of `nanos`, what the units that a lease has left can cost. */
  keptNanos({ key, period }: Lease, nanos: bigint, units: bigint): bigint {
    const most = units * (this.market.termsOf(this.counterOf(key, period).planVersionId)?.unitPriceNanos ?? 0n);
    return nanos < 0n ? 0n : nanos < most ? nanos : most;
  }

  renew(leaseIds: readonly string[]): void {
    for (const id of leaseIds) {
      const lease = this.leases.get(id);
      if (lease) lease.expiresAt = this.world.now + LEASE_MS;
    }
  }

  drop(leaseIds: readonly string[]): void {
    for (const id of leaseIds) {
      const lease = this.leases.get(id);
      if (lease && lease.units === 0n && lease.slots === 0n) this.leases.delete(id);
    }
  }

  sweep(): void {
    for (const [id, lease] of this.leases) {
      if (lease.expiresAt >= this.world.now) continue;
      this.release(lease, lease.units, lease.slots, Number.POSITIVE_INFINITY);
      this.leases.delete(id);
    }
  }

  /** As `mercato_close_period`, of every period that is over; what is in use is left for the next time. */
  closeDue(): void {
    const over = new Set([...this.counters.keys()].map((name) => name.split(':')[2] ?? ''));
    for (const period of over) {
      if (period === this.period() || this.ledger.closed.has(period)) continue;
      const isLeased = [...this.counters].some(([name, { leased }]) => name.endsWith(`:${period}`) && leased > 0n);
      if (!isLeased) this.ledger.close(period);
    }
  }

  /** What is wrong at this moment; nothing while the books hold. */
  broken(): string[] {
    const wrong = [...this.wrong, ...this.requests.wrong, ...this.limits.broken(), ...this.ledger.broken()];
    const sums = new Map<string, bigint>();
    for (const { key, period, units } of this.leases.values()) {
      const name = `${key.consumerTenantId}:${key.listingId}:${period}`;
      sums.set(name, (sums.get(name) ?? 0n) + units);
      if (units > 0n && this.ledger.closed.has(period)) wrong.push(`${period} was closed while units of it were leased`);
    }
    for (const [name, { used, leased, quota }] of this.counters) {
      if (used < 0n || leased < 0n || (quota !== null && used + leased > quota))
        wrong.push(`counter ${name}: ${used} used, ${leased} leased of ${quota}`);
      if ((sums.get(name) ?? 0n) !== leased) wrong.push(`counter ${name}: leases hold another sum than ${leased}`);
    }
    for (const record of this.records.values())
      if (record.createdAt > (this.ledger.closed.get(record.period)?.at ?? Number.POSITIVE_INFINITY))
        wrong.push(`${record.id} was recorded in the closed ${record.period}`);
    return wrong;
  }
}

/** As grants.ts: what the units after those used and leased cost. */
export function nextPriceOf(terms: GrantKey['terms'], { used, leased }: Pick<Counter, 'used' | 'leased'>): NextPrice {
  const unused = (terms?.freeUnits ?? 0n) > used ? (terms?.freeUnits ?? 0n) - used : 0n;
  const free = unused > leased ? unused - leased : 0n;
  return { unitNanos: terms?.unitPriceNanos ?? 0n, free, leasedFree: unused - free };
}

/** What must be held for leased units while `used` are settled. */
export function holdOf(terms: GrantKey['terms'], { used, leased }: Pick<Counter, 'used' | 'leased'>): bigint {
  return priceOf(terms, used + leased) - priceOf(terms, used);
}
