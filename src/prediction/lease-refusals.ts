import { type ErrorCode, type ErrorData, MercatoError } from '../base/errors.ts';
import { globalId, type NodeType } from '../base/ids.ts';
import {
  type CounterState,
  type LimitedCaller,
  type LockedLimit,
  type NextPrice,
  PLAN_NAMES,
  type Rate,
  roomOf,
  type TakenRequests,
} from '../usage/usage.ts';
import type { GrantKey, Short } from './grants.ts';

/** What is left of one limit: the facts of the IETF draft's `RateLimit` fields. Calls in flight, requests, units or nanos, by `unit`. */
export type Allowance = {
  name: string;
  unit: 'units' | 'nanos' | 'concurrent-requests' | 'requests';
  limit: number;
  left: number;
  /** Seconds; null: at any moment. */
  windowS: number | null;
  /** Until all of it is there again; null: at any moment. */
  resetMs: number | null;
};

const WINDOW_S = { MINUTE: 60, HOUR: 3_600, DAY: 86_400 };
/** Of the month that ends then. */
const monthS = (end: Date) => (end.getTime() - Date.UTC(end.getUTCFullYear(), end.getUTCMonth() - 1)) / 1000;
const SUBJECT: Record<LockedLimit['subject'], { type: NodeType; text: string }> = {
  TENANT: { type: 'Tenant', text: 'the tenant' },
  SUBSCRIPTION: { type: 'Subscription', text: 'the subscription' },
  MEMBER: { type: 'User', text: 'the member' },
  API_KEY: { type: 'ApiKey', text: 'the API key' },
};
/** For a place among the calls in flight: about a short call. */
const CONCURRENCY_RETRY_MS = 50;

/** What a caller of `units` is told of a shortage, which may have been found for another call: which limit, whose, how much, until when, and what would lift it. */
export function refusalOf(key: GrantKey, short: Short, units: number): MercatoError {
  const isOfUnits = short.short === 'QUOTA' || (short.short === 'LIMIT' && short.limit.measure !== 'CONCURRENCY');
  const data = { ...short.data, ...(isOfUnits ? { given: unitsOf(units) } : {}) };
  if (short.short === 'LIMIT') return new MercatoError(short.code, short.message, data);
  const whose: ErrorData = {
    ...(key.subscriptionId === null
      ? { limitName: PLAN_NAMES.ownCalls, subject: 'TENANT', subjectId: globalId('Tenant', key.consumerTenantId) }
      : {
          limitName: short.short === 'RATE' ? PLAN_NAMES.requests : PLAN_NAMES.units,
          ...{ subject: 'SUBSCRIPTION', subjectId: globalId('Subscription', key.subscriptionId) },
        }),
    ...data,
  };
  if (short.short === 'QUOTA') {
    const message = `The call needs ${data.given}; of the plan's ${data.limit} units of this month for ${key.handle}, ${data.expected} are left. A larger plan would lift it.`;
    return new MercatoError('QUOTA_EXCEEDED', message, whose);
  }
  if (short.short === 'RATE') {
    const used = `per minute in bursts of ${short.burst}; of these, ${data.used} are used`;
    const text =
      key.terms === null
        ? `A publisher may call its own ${key.handle}, free of charge, ${data.limit} times ${used}. Nothing but waiting lifts that.`
        : `The plan allows ${data.limit} calls of ${key.handle} ${used}. A larger plan would lift it.`;
    return new MercatoError('RATE_LIMITED', text, whose);
  }
  if (short.short === 'CREDIT') {
    const neededNanos = short.neededNanosOf(units).toString();
    const message = `A call of ${key.handle} may cost ${neededNanos} nanos of ${data.currency}; the wallet, less what is held for calls in flight, has ${data.availableNanos}. Ask the operator for credit.`;
    return new MercatoError('INSUFFICIENT_CREDIT', message, {
      subject: 'TENANT',
      subjectId: globalId('Tenant', key.consumerTenantId),
      ...data,
      neededNanos,
    });
  }
  if (short.of === undefined) {
    const message = `Calls of ${key.handle} under the former plan are still in flight; those under the new one begin once they are billed.`;
    return new MercatoError('OVERLOADED', message, whose);
  }
  const refusal = refusalOf(key, short.of, units);
  return new MercatoError('OVERLOADED', `${HELD} ${refusal.message}`, { ...refusal.data, ...data });
}

const HELD = 'Another server has not yet returned what it holds unused of what this call needs; try again.';

const unitsOf = (count: number) => `${count} unit${count === 1 ? '' : 's'}`;

/** A limit that refuses; `exhaustedMs` as in `Short`. */
export type LimitShort = { short: 'LIMIT'; limit: LockedLimit; code: ErrorCode; message: string; data: ErrorData; exhaustedMs?: number };

/** The first limit, in their order, that has no room for one call of `need` units; null where all have. */
export function shortOfLimit(limits: readonly LockedLimit[], need: number, price: NextPrice): LimitShort | null {
  for (const limit of limits) {
    const room = roomOf(limit, price);
    if (room.units < need || room.slots < 1) return { short: 'LIMIT', limit, ...refusedBy(limit, need, price) };
  }
  return null;
}

/** A limit that had no room for what a call of `need` units cost when it was to be settled. */
export function shortOfSettled(limit: LockedLimit, need: number, price: NextPrice): LimitShort {
  return { short: 'LIMIT', limit, ...refusedBy(limit, need, price) };
}

function refusedBy(limit: LockedLimit, need: number, price: NextPrice): Omit<LimitShort, 'short' | 'limit'> {
  const { name, subject, subjectId, measure, window, amount, leased, burstUnits } = limit;
  const used = burstUnits === null ? limit.used : BigInt(Math.ceil(limit.aheadUnits - 1e-6));
  const { type, text } = SUBJECT[subject];
  const room = roomOf(limit, price);
  const most = measure === 'CONCURRENCY' ? 0 : room.units;
  const fits =
    burstUnits ?? (measure === 'SPEND' && price.unitNanos > 0n ? price.free + price.leasedFree + amount / price.unitNanos : amount);
  const can = measure === 'CONCURRENCY' ? amount > 0n : BigInt(need) <= fits;
  const data: ErrorData = {
    limitName: name,
    subject,
    subjectId: globalId(type, subjectId),
    limit: amount.toString(),
    used: (used + leased).toString(),
    given: measure === 'CONCURRENCY' ? '1 call' : unitsOf(need),
    expected: can ? `at most ${most} now` : `at most ${measure === 'CONCURRENCY' ? 0 : fits} a call`,
    ...(limit.resetsAt === null ? {} : { resetsAt: limit.resetsAt.toISOString() }),
  };
  const what = { UNITS: 'units', SPEND: 'nanos', CONCURRENCY: 'calls in flight' }[measure];
  const per = burstUnits === null ? (window ? ` per ${window.toLowerCase()}` : '') : ` per minute in bursts of ${burstUnits}`;
  const message = `The limit "${name}" of ${text} is ${amount} ${what}${per}; of these, ${used} are used and ${leased} in flight. Who may write billing can raise it with updateUsageLimit.`;
  const retryAfterMs = can ? retryMsOf(limit, need) : null;
  if (retryAfterMs !== null) return { code: 'RATE_LIMITED', message, data: { ...data, retryAfterMs } };
  const mayComeBack = measure === 'SPEND' && price.leasedFree > 0n;
  const settled = most === 0 && !mayComeBack && measure !== 'CONCURRENCY' && window !== 'MINUTE' && used >= amount;
  return { code: 'QUOTA_EXCEEDED', message, data, ...(settled ? { exhaustedMs: limit.windowMs } : {}) };
}

/** When the same call may be admitted, where that is soon. */
function retryMsOf({ measure, window, burstUnits, amount, aheadUnits, windowMs }: LockedLimit, need: number): number | null {
  if (measure === 'CONCURRENCY') return CONCURRENCY_RETRY_MS;
  if (burstUnits !== null) return Math.max(1, Math.ceil((aheadUnits - Number(burstUnits) + need) * (60_000 / Number(amount))));
  return window === 'MINUTE' ? Math.max(1, Math.ceil(windowMs)) : null;
}

/** What is left of the plan's quota and of each limit, with what is leased counted as used. */
export function allowancesOf(
  key: Pick<GrantKey, 'terms'> & LimitedCaller,
  counter: CounterState & { windowEndsAt: Date; windowMs: number },
  limits: readonly LockedLimit[],
): Allowance[] {
  const quota = key.terms?.quotaUnits ?? null;
  const left = (amount: bigint, gone: bigint) => Math.max(0, Number(amount - gone));
  const ofPlan: Allowance[] =
    quota === null
      ? []
      : [
          {
            name: PLAN_NAMES.units,
            unit: 'units',
            limit: Number(quota),
            left: left(quota, counter.usedUnits + counter.leasedUnits),
            windowS: monthS(counter.windowEndsAt),
            resetMs: counter.windowMs,
          },
        ];
  const ofLimits = limits.map((limit): Allowance => {
    const { name, measure, window, amount, burstUnits } = limit;
    const unit = measure === 'CONCURRENCY' ? 'concurrent-requests' : measure === 'SPEND' ? 'nanos' : 'units';
    const windowS = window === 'MONTH' ? limit.resetsAt && monthS(limit.resetsAt) : window && WINDOW_S[window];
    if (burstUnits !== null) {
      return {
        name,
        unit,
        limit: Number(burstUnits),
        left: roomOf(limit, { unitNanos: 0n, free: 0n }).units,
        windowS,
        resetMs: (limit.aheadUnits * 60_000) / Number(amount),
      };
    }
    const resetMs = Number.isFinite(limit.windowMs) ? limit.windowMs : null;
    return { name, unit, limit: Number(amount), left: left(amount, limit.used + limit.leased), windowS, resetMs };
  });
  return [...ofPlan, ...ofLimits];
}

/** The plan's rate as what is left of it; none where it sets none. */
export function rateAllowance({ terms }: Pick<GrantKey, 'terms'>, rate: Rate | null, taken: TakenRequests | null): Allowance[] {
  if (rate === null || taken === null) return [];
  const name = terms === null ? PLAN_NAMES.ownCalls : PLAN_NAMES.requests;
  return [{ name, unit: 'requests', limit: rate.burst, left: taken.left, windowS: 60, resetMs: taken.resetMs }];
}
