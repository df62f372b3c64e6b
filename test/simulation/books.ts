import { priceOf } from '../../src/billing/billing.ts';
import type { Granted, GrantKey, Short, Wish } from '../../src/prediction/grants.ts';
import { shortOfLimit } from '../../src/prediction/lease-refusals.ts';
import type { Finished } from '../../src/prediction/settlement.ts';
import type { Outcome } from '../../src/prediction/settlement-store.ts';
import type { LeaseScope, LockedLimit, ReturnedUnits } from '../../src/usage/usage.ts';
import type { World } from './world.ts';

/** Simulated months and leases are short, so that schedules cross their ends. */
export const PERIOD_MS = 20_000;
export const LEASE_MS = 2_000;
const MARGIN_MS = 700;
export const COMMISSION_BPS = 1_500n;

type Counter = { used: bigint; leased: bigint; planVersionId: string | null; quota: bigint | null };
type Lease = {
  processId: string;
  key: GrantKey;
  period: string;
  units: bigint;
  slots: bigint;
  limitIds: string[];
  draining: boolean;
  expiresAt: number;
  returns: Set<bigint>;
};
export type SimLimit = {
  id: string;
  tenantId: string;
  measure: 'UNITS' | 'SPEND' | 'CONCURRENCY';
  amount: bigint;
  used: bigint;
  leased: bigint;
};
export type SimRecord = { id: string; tenantId: string; period: string; units: bigint; amountNanos: bigint; key: string | null };
type Account = { balance: bigint; held: bigint };

/** A refusal of the database, as its driver says it. */
const refused = (code: string) => Object.assign(new Error(`refused ${code}`), { severity: 'ERROR', code });

/**
 * The database's side of metering and money as a plain model in memory: what the SQL of usage/, billing/ and `mercato_settle` must come to. Each function is one
 * transaction. How much a grant is beyond what was asked for is left to chance: the protocol must hold for any.
 */
export class Books {
  readonly counters = new Map<string, Counter>();
  readonly leases = new Map<string, Lease>();
  readonly limits = new Map<string, SimLimit>();
  readonly records = new Map<string, SimRecord>();
  readonly keys = new Map<string, string>();
  readonly wallets = new Map<string, Account>();
  readonly charged = new Map<string, { amount: bigint; commission: bigint }>();
  payable = 0n;
  revenue = 0n;
  recall: (scope: LeaseScope) => void = () => {};
  private readonly world: World;

  constructor(world: World) {
    this.world = world;
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
    const wallet = this.wallets.get(tenantId) ?? { balance: 0n, held: 0n };
    this.wallets.set(tenantId, wallet);
    return wallet;
  }

  grant(processId: string, leaseId: string, key: GrantKey, wish: Wish, recall: boolean): Granted | Short {
    const period = this.period();
    const counter = this.counterOf(key, period);
    const planVersionId = key.terms?.planVersionId ?? null;
    if (counter.leased > 0n && counter.planVersionId !== planVersionId)
      return { short: 'BUSY', foreign: this.foreign(processId, key, true), data: {} };
    const quota = key.terms?.quotaUnits ?? null;
    const rest = quota === null ? null : quota - counter.used - counter.leased;
    if (rest !== null && rest < BigInt(wish.need)) {
      const foreign = this.foreign(processId, key, true);
      if (recall && foreign) this.recall(key);
      const windowMs = (Number(period) + 1) * PERIOD_MS - this.world.now;
      return { short: 'QUOTA', foreign, data: {}, ...(quota !== null && counter.used >= quota ? { exhaustedMs: windowMs } : {}) };
    }
    const limits = this.locked(key.consumerTenantId);
    const priceNanos = key.terms?.unitPriceNanos ?? 0n;
    const short = shortOfLimit(limits, wish.need, { unitNanos: priceNanos, free: 0n });
    if (short) {
      const holders = [...this.leases.values()].filter(
        (lease) => lease.limitIds.includes(short.limit.limitId) && (lease.units > 0n || lease.slots > 0n),
      );
      const foreign = holders.some((lease) => lease.processId !== processId && !lease.draining);
      if (foreign && recall) this.recall({ ...key, listingId: null });
      return { ...short, foreign, draining: holders.some((lease) => lease.draining) };
    }
    const units = this.sizeOf(key, counter, rest, limits, wish);
    if (units < wish.need) {
      const foreign = this.foreign(processId, key, false);
      if (foreign && recall) this.recall({ ...key, listingId: null });
      return { short: 'CREDIT', foreign, data: {} };
    }
    const bounded = limits.filter(({ measure }) => measure === 'CONCURRENCY').map((limit) => Number(limit.amount - limit.leased));
    const slots = bounded.length === 0 ? Number.POSITIVE_INFINITY : 1 + this.world.below(Math.min(...bounded));
    return this.lend(processId, leaseId, key, period, units, slots, limits);
  }

  private sizeOf(key: GrantKey, counter: Counter, rest: bigint | null, limits: readonly LockedLimit[], wish: Wish): number {
    const price = key.terms?.unitPriceNanos ?? 0n;
    let most = Math.min(wish.want, rest === null ? wish.want : Number(rest));
    for (const limit of limits) {
      if (limit.measure === 'UNITS') most = Math.min(most, Number(limit.amount - limit.used - limit.leased));
      if (limit.measure === 'SPEND' && price > 0n) most = Math.min(most, Number((limit.amount - limit.used - limit.leased) / price));
    }
    const wallet = this.walletOf(key.consumerTenantId);
    const fits = (units: number) =>
      this.holdOf(key, { ...counter, leased: counter.leased + BigInt(units) }) - this.holdOf(key, counter) <= wallet.balance - wallet.held;
    const units = wish.need + this.world.below(Math.max(0, most - wish.need) + 1);
    return fits(units) ? units : fits(wish.need) ? wish.need : 0;
  }

  private lend(
    processId: string,
    leaseId: string,
    key: GrantKey,
    period: string,
    units: number,
    slots: number,
    limits: readonly LockedLimit[],
  ): Granted {
    const counter = this.counterOf(key, period);
    const before = this.holdOf(key, counter);
    Object.assign(counter, {
      leased: counter.leased + BigInt(units),
      planVersionId: key.terms?.planVersionId ?? null,
      quota: key.terms?.quotaUnits ?? null,
    });
    this.walletOf(key.consumerTenantId).held += this.holdOf(key, counter) - before;
    const lease: Lease = {
      ...{ processId, key, period, units: BigInt(units), slots: Number.isFinite(slots) ? BigInt(slots) : 0n },
      ...{ limitIds: limits.map(({ limitId }) => limitId), draining: false, expiresAt: this.world.now + LEASE_MS, returns: new Set() },
    };
    this.leases.set(leaseId, lease);
    this.moveLimits(lease, lease.units, lease.slots);
    const windowMs = (Number(period) + 1) * PERIOD_MS - this.world.now;
    const usableUntil = this.world.now + Math.min(LEASE_MS - MARGIN_MS, windowMs);
    return {
      leaseId,
      period,
      units,
      requests: Number.POSITIVE_INFINITY,
      slots,
      counterIds: lease.limitIds,
      left: [],
      usableUntil,
      accounts: null,
    };
  }

  /** Adds what a lease takes of its limits; negative: returns. */
  private moveLimits({ limitIds, key }: Lease, units: bigint, slots: bigint): void {
    for (const id of limitIds) {
      const limit = this.limits.get(id);
      if (limit?.measure === 'UNITS') limit.leased += units;
      if (limit?.measure === 'SPEND') limit.leased += units * (key.terms?.unitPriceNanos ?? 0n);
      if (limit?.measure === 'CONCURRENCY') limit.leased += slots;
    }
  }

  private holdOf(key: GrantKey, { used, leased }: Counter): bigint {
    return priceOf(key.terms, used + leased) - priceOf(key.terms, used);
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

  private locked(tenantId: string): LockedLimit[] {
    return [...this.limits.values()]
      .filter((limit) => limit.tenantId === tenantId)
      .map(({ id, measure, amount, used, leased }) => ({
        ...{
          counterId: id,
          limitId: id,
          name: id,
          subject: 'TENANT',
          subjectId: tenantId,
          measure,
          window: measure === 'CONCURRENCY' ? null : 'MONTH',
        },
        ...{ amount, burstUnits: null, hard: true, used, leased, aheadUnits: 0, resetsAt: null, windowMs: Number.POSITIVE_INFINITY },
      }));
  }

  putBack(returned: readonly ReturnedUnits[], drain: boolean): void {
    for (const { leaseId, number, ...part } of returned) {
      const lease = this.leases.get(leaseId);
      if (!lease || lease.returns.has(number)) continue;
      const [units, slots] = [part.units ?? lease.units, part.slots ?? lease.slots];
      lease.returns.add(number);
      if (drain) lease.draining = true;
      this.release(lease, units, slots);
      lease.units -= units;
      lease.slots -= slots;
      if (lease.units < 0n || lease.slots < 0n) throw new Error('more was returned than was leased');
    }
  }

  private release(lease: Lease, units: bigint, slots: bigint): void {
    const counter = this.counterOf(lease.key, lease.period);
    const before = this.holdOf(lease.key, counter);
    counter.leased -= units;
    this.walletOf(lease.key.consumerTenantId).held += this.holdOf(lease.key, counter) - before;
    this.moveLimits(lease, -units, -slots);
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
      this.release(lease, lease.units, lease.slots);
      this.leases.delete(id);
    }
  }

  /** As `mercato_settle`: the whole group or nothing. */
  settle(group: readonly (Finished & { key: GrantKey })[]): Outcome[] {
    const claimed = new Set(this.keys.keys());
    const billed: (typeof group)[number][] = [];
    for (const call of group) {
      const name = call.keyed && `${call.keyed.tenantId}:${call.keyed.key}`;
      if (name !== null && claimed.has(name)) continue;
      if (name !== null) claimed.add(name);
      billed.push(call);
    }
    this.admitSwept(group);
    const outcomes = new Map(billed.map((call) => [call.metered.id, this.bill(call)]));
    return group.map(({ metered: { id } }) => {
      const amountNanos = outcomes.get(id);
      return amountNanos === undefined ? { id, outcome: 'LOST', amountNanos: 0n } : { id, outcome: 'BILLED', amountNanos };
    });
  }

  /** Calls whose lease was swept need room of their own. */
  private admitSwept(group: readonly (Finished & { key: GrantKey })[]): void {
    const swept = group.filter(({ admission }) => !this.leases.has(admission.leaseId));
    const sums = new Map<Counter, bigint>();
    const limits = new Map<SimLimit, bigint>();
    const wallets = new Map<string, bigint>();
    for (const { admission, metered, key } of swept) {
      const counter = this.counterOf(key, admission.period);
      const after = (sums.get(counter) ?? 0n) + BigInt(metered.units);
      sums.set(counter, after);
      if (counter.quota !== null && counter.used + counter.leased + after > counter.quota) throw refused('MC001');
      for (const id of admission.counterIds) {
        const limit = this.limits.get(id);
        if (!limit || limit.measure === 'CONCURRENCY') continue;
        const more = BigInt(metered.units) * (limit.measure === 'UNITS' ? 1n : (key.terms?.unitPriceNanos ?? 0n));
        limits.set(limit, (limits.get(limit) ?? 0n) + more);
        if (limit.used + limit.leased + (limits.get(limit) ?? 0n) > limit.amount) throw refused('MC002');
      }
      const { consumerTenantId } = key;
      const hold = { ...counter, leased: counter.leased + after };
      wallets.set(`${consumerTenantId} ${key.listingId} ${admission.period}`, this.holdOf(key, hold) - this.holdOf(key, counter));
      const wallet = this.walletOf(consumerTenantId);
      const sum = [...wallets].filter(([name]) => name.startsWith(`${consumerTenantId} `)).reduce((total, [, nanos]) => total + nanos, 0n);
      if (wallet.balance - wallet.held < sum) throw refused('23514');
    }
  }

  private bill({ admission, metered, keyed, key }: Finished & { key: GrantKey }): bigint {
    const counter = this.counterOf(key, admission.period);
    const wallet = this.walletOf(key.consumerTenantId);
    const units = BigInt(metered.units);
    const lease = this.leases.get(admission.leaseId);
    const amountNanos = priceOf(key.terms, counter.used + units) - priceOf(key.terms, counter.used);
    const before = this.holdOf(key, counter);
    counter.used += units;
    if (lease) {
      counter.leased -= units;
      lease.units -= units;
      if (lease.units < 0n) throw new Error('more was settled than was leased');
    }
    wallet.held += this.holdOf(key, counter) - before;
    for (const id of admission.counterIds) this.count(id, units, amountNanos, lease ? (key.terms?.unitPriceNanos ?? 0n) : null);
    this.charge(key, admission.period, amountNanos);
    this.records.set(metered.id, {
      id: metered.id,
      tenantId: key.consumerTenantId,
      period: admission.period,
      units,
      amountNanos,
      key: keyed?.key ?? null,
    });
    if (keyed) this.keys.set(`${keyed.tenantId}:${keyed.key}`, metered.id);
    return amountNanos;
  }

  private count(limitId: string, units: bigint, nanos: bigint, leasedAtNanos: bigint | null): void {
    const limit = this.limits.get(limitId);
    if (!limit || limit.measure === 'CONCURRENCY') return;
    limit.used += limit.measure === 'UNITS' ? units : nanos;
    if (leasedAtNanos !== null) limit.leased -= limit.measure === 'UNITS' ? units : units * leasedAtNanos;
  }

  private charge(key: GrantKey, period: string, amountNanos: bigint): void {
    const name = `${key.subscriptionId}:${period}`;
    const known = this.charged.get(name) ?? { amount: 0n, commission: 0n };
    const amount = known.amount + amountNanos;
    const commission = (amount * COMMISSION_BPS) / 10_000n;
    this.charged.set(name, { amount, commission });
    this.walletOf(key.consumerTenantId).balance -= amountNanos;
    this.payable += amountNanos - (commission - known.commission);
    this.revenue += commission - known.commission;
  }

  /** What is wrong at this moment; nothing while the books hold. */
  broken(): string[] {
    const wrong: string[] = [];
    for (const [name, { used, leased, quota }] of this.counters) {
      if (used < 0n || leased < 0n || (quota !== null && used + leased > quota))
        wrong.push(`counter ${name}: ${used} used, ${leased} leased of ${quota}`);
      const ofLeases = [...this.leases.values()].filter(({ key, period }) => `${key.consumerTenantId}:${key.listingId}:${period}` === name);
      if (ofLeases.reduce((sum, { units }) => sum + units, 0n) !== leased)
        wrong.push(`counter ${name}: leases hold another sum than ${leased}`);
    }
    for (const { id, used, leased, amount } of this.limits.values()) {
      if (used < 0n || leased < 0n || used + leased > amount) wrong.push(`limit ${id}: ${used} used, ${leased} leased of ${amount}`);
    }
    for (const [tenant, { balance, held }] of this.wallets) {
      if (held < 0n || balance < held) wrong.push(`wallet of ${tenant}: ${balance}, ${held} held`);
    }
    return wrong;
  }
}
