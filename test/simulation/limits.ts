import { type LimitedCaller, type LockedLimit, type NextPrice, roomOf } from '../../src/usage/usage.ts';
import { concerns, PERIOD_MS } from './market.ts';
import { stillMs } from './requests.ts';

type Kind = Pick<LockedLimit, 'subject' | 'subjectId' | 'measure' | 'window' | 'burstUnits'>;
/** What can be changed of a limit. */
type Terms = { amount: bigint; hard: boolean };

export type SimLimit = Kind &
  Terms & {
    id: string;
    tenantId: string;
    isRemoved: boolean;
    isChanged: boolean;
    createdAt: number;
    /** What it was, while some process may not know yet that it has changed; null: not in force. */
    before: { terms: Terms | null; isOver(): boolean }[];
  };
type Counter = {
  id: string;
  limit: SimLimit;
  startsAt: number;
  used: bigint;
  leased: bigint;
  arrivalAt: number | null;
  /** What may be used and leased: the amount, or, where it was lowered below what was, that. */
  ceiling: bigint;
};

/** What is taken of each limit, or returned where negative. */
type Taking = { units: bigint; nanos: bigint; slots: bigint };
/** Of bursts: what a lease was granted and has not returned, and since when it runs off. */
type Held = { granted: bigint; agoMs: number };
const NEW: Held = { granted: 0n, agoMs: 0 };
const WINDOW_MS = { MINUTE: 2_500, HOUR: 4_000, DAY: 10_000, MONTH: PERIOD_MS };
const ORDER = ['TENANT', 'SUBSCRIPTION', 'MEMBER', 'API_KEY'];
const NOTHING: Taking = { units: 0n, nanos: 0n, slots: 0n };

/** `usage_limit` and `limit_counter`: windows are as short as months here, bursts as fast as they are. */
export class Limits {
  readonly all: SimLimit[] = [];
  readonly counters = new Map<string, Counter>();
  private readonly now: () => number;
  private readonly usedBefore: (limit: SimLimit, from: number) => bigint;
  private readonly windowMs: typeof WINDOW_MS;

  /** `usedBefore`: of a limit, since an instant. */
  constructor(now: () => number, usedBefore: (limit: SimLimit, from: number) => bigint, windowMs = WINDOW_MS) {
    this.now = now;
    this.usedBefore = usedBefore;
    this.windowMs = windowMs;
  }

  set(kind: Kind, terms: Terms, isOver: () => boolean): SimLimit {
    const id = `limit-${this.all.length}`;
    const before = [{ terms: null, isOver }];
    const limit = { ...kind, ...terms, id, tenantId: 'two', isRemoved: false, isChanged: false, createdAt: this.now(), before };
    this.all.push(limit);
    return limit;
  }

  /** Changes a limit, or, where `terms` is null, removes it. */
  change(limit: SimLimit, terms: Terms | null, isOver: () => boolean): void {
    limit.before.push({ terms: { amount: limit.amount, hard: limit.hard }, isOver });
    limit.isChanged = true;
    if (terms === null) limit.isRemoved = true;
    else Object.assign(limit, terms);
    for (const counter of this.counters.values()) {
      if (counter.limit === limit) counter.ceiling = larger(limit.amount, counter.used + counter.leased);
    }
  }

  concerning(caller: LimitedCaller): SimLimit[] {
    return this.all.filter((limit) => concerns(limit, caller));
  }

  limitedCallers(tenantId: string): Set<string> {
    const own = this.all.filter((limit) => limit.tenantId === tenantId && !limit.isRemoved);
    return new Set(own.filter(({ subject }) => subject === 'MEMBER' || subject === 'API_KEY').map(({ subjectId }) => subjectId));
  }

  /** As `lockLimits`. */
  lock(caller: LimitedCaller): LockedLimit[] {
    const locked = this.concerning(caller).filter((limit) => !limit.isRemoved);
    return locked
      .map((limit) => this.lockedOf(limit))
      .sort((a, b) => ORDER.indexOf(a.subject) - ORDER.indexOf(b.subject) || (a.name < b.name ? -1 : 1));
  }

  private lockedOf(limit: SimLimit): LockedLimit {
    const { subject, subjectId, measure, window, burstUnits, amount, hard } = limit;
    const { id: counterId, startsAt, used, leased, arrivalAt } = this.counterOf(limit);
    const windowMs = this.endOf(limit, startsAt) - this.now();
    return {
      ...{ counterId, limitId: limit.id, name: limit.id, subject, subjectId, measure, window, burstUnits, amount, hard, used, leased },
      ...{ aheadUnits: (Math.max(0, (arrivalAt ?? 0) - this.now()) * Number(amount)) / 60_000, windowMs },
      untold: false,
      resetsAt: Number.isFinite(windowMs) ? new Date(this.now() + windowMs) : null,
    };
  }

  private counterOf(limit: SimLimit): Counter {
    const startsAt = this.startOf(limit);
    const id = `${limit.id}@${startsAt}`;
    const known = this.counters.get(id);
    if (known) return known;
    const used = this.usedOf(limit, startsAt);
    const arrivalAt = limit.burstUnits === null ? null : this.now();
    const made = { id, limit, startsAt, used, leased: 0n, arrivalAt, ceiling: larger(limit.amount, used) };
    this.counters.set(id, made);
    return made;
  }

  private startOf({ window, burstUnits }: SimLimit): number {
    return window === null || burstUnits !== null ? 0 : Math.floor(this.now() / this.windowMs[window]) * this.windowMs[window];
  }

  private endOf({ window, burstUnits }: SimLimit, startsAt: number): number {
    return window === null || burstUnits !== null ? Number.POSITIVE_INFINITY : startsAt + this.windowMs[window];
  }

  /** Of the window that is open: what is counted, or would be as of now. */
  private usedOf(limit: SimLimit, startsAt: number): bigint {
    const isCounted = limit.measure !== 'CONCURRENCY' && limit.burstUnits === null && limit.createdAt >= startsAt;
    return isCounted ? this.usedBefore(limit, startsAt) : 0n;
  }

  /** Whether a counter's window is the one that is open. */
  isOpen(counterId: string): boolean {
    const counter = this.counters.get(counterId);
    return counter !== undefined && counter.startsAt === this.startOf(counter.limit);
  }

  /** What a lease takes, or, where negative, returns, `granted` units of which it has had for so long. */
  move(counterIds: readonly string[], { units, nanos, slots }: Taking, { granted, agoMs }: Held = NEW): void {
    for (const id of counterIds) {
      const counter = this.counters.get(id);
      if (!counter) continue;
      const { measure, amount } = counter.limit;
      if (counter.arrivalAt === null) counter.leased += measure === 'UNITS' ? units : measure === 'SPEND' ? nanos : slots;
      else {
        const cellMs = 60_000 / Number(amount);
        if (units > 0n) counter.arrivalAt = Math.max(counter.arrivalAt, this.now()) + Number(units) * cellMs;
        else counter.arrivalAt -= stillMs(-Number(units), Number(granted), agoMs, cellMs);
      }
    }
  }

  /** As `mercato_count_limits`; `heldNanos`: what its lease holds less of spend now; null where that was swept. */
  count(counterIds: readonly string[], units: bigint, amountNanos: bigint, heldNanos: bigint | null): void {
    const counted = counterIds.filter((id) => this.isCounted(id));
    if (heldNanos !== null) this.move(counted, { ...NOTHING, units: -units, nanos: -heldNanos });
    for (const id of counted) {
      const counter = this.counters.get(id) as Counter;
      counter.used += counter.limit.measure === 'UNITS' ? units : amountNanos;
    }
  }

  private isCounted(counterId: string): boolean {
    const counter = this.counters.get(counterId);
    return counter !== undefined && counter.arrivalAt === null && counter.limit.measure !== 'CONCURRENCY';
  }

  /** Whether limits of a measure have room for what calls take beyond what their leases held. */
  hasRoomFor(measure: 'UNITS' | 'SPEND', calls: readonly { counterIds: readonly string[]; more: bigint }[]): boolean {
    const sums = new Map<Counter, bigint>();
    for (const { counterIds, more } of calls) {
      for (const id of counterIds.filter((one) => this.isCounted(one))) {
        const counter = this.counters.get(id) as Counter;
        if (counter.limit.measure === measure) sums.set(counter, (sums.get(counter) ?? 0n) + more);
      }
    }
    return [...sums].every(
      ([{ limit, used, leased }, sum]) => !limit.hard || limit.isRemoved || sum <= 0n || used + leased + sum <= limit.amount,
    );
  }

  /**
   * Whether a limit, as it is or as some process may still know it, has no room for a call of `need` units while only `flying` is in flight under it; of
   * bursts, `idleUnits` lie unused.
   */
  refuses(limit: SimLimit, need: number, costNanos: bigint, flying: (counterId: string) => Taking & { idleUnits: bigint }): boolean {
    const startsAt = this.startOf(limit);
    const id = `${limit.id}@${startsAt}`;
    const counter = this.counters.get(id);
    const { units, nanos, slots, idleUnits } = flying(id);
    const leased = limit.measure === 'UNITS' ? units : limit.measure === 'SPEND' ? nanos : slots;
    const used = counter?.used ?? this.usedOf(limit, startsAt);
    const aheadMs = Math.max(0, (counter?.arrivalAt ?? 0) - this.now()) - (Number(idleUnits) * 60_000) / Number(limit.amount || 1n);
    limit.before = limit.before.filter(({ isOver }) => !isOver());
    const known = [...(limit.isRemoved ? [] : [limit]), ...limit.before.flatMap(({ terms }) => terms ?? [])];
    // Said here once more, and not by what it is to judge.
    const more = { UNITS: BigInt(need), SPEND: costNanos, CONCURRENCY: 1n }[limit.measure];
    return known.some(({ amount, hard }) => {
      if (!hard || more === 0n) return false;
      if (limit.burstUnits === null) return used + leased + more > amount;
      return Math.max(0, aheadMs) + (need * 60_000) / Number(amount) > (Number(limit.burstUnits) * 60_000) / Number(amount) + 1e-3;
    });
  }

  broken(): string[] {
    const wrong: string[] = [];
    for (const counter of this.counters.values()) {
      const { id, limit, used, leased } = counter;
      if (used < 0n || leased < 0n) wrong.push(`counter ${id}: ${used} used, ${leased} leased`);
      if (limit.isRemoved || !limit.hard) continue;
      if (used + leased > counter.ceiling) wrong.push(`counter ${id}: ${used} used, ${leased} leased of ${limit.amount}`);
      if (used + leased < counter.ceiling) counter.ceiling = larger(limit.amount, used + leased);
    }
    return wrong;
  }
}

/** What one lease may have of its limits at most: units and calls in flight. */
export function most(limits: readonly LockedLimit[], price: NextPrice): { units: number; slots: number } {
  const rooms = limits.map((limit) => roomOf(limit, price));
  const least = (of: 'units' | 'slots') => Math.min(...rooms.map((room) => room[of]), Number.POSITIVE_INFINITY);
  return { units: least('units'), slots: least('slots') };
}

const larger = (a: bigint, b: bigint) => (a > b ? a : b);
