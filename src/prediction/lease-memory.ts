import type { MercatoError } from '../base/errors.ts';
import type { ChargeAccounts } from '../billing/billing.ts';
import type { ReturnedUnits } from '../usage/usage.ts';
import { type Granted, type GrantKey, rateOf, type Short } from './grants.ts';
import { type Allowance, refusalOf } from './lease-refusals.ts';
import type { Time } from './lease-store.ts';

/** Units taken for one call. Exactly one of `giveBack` and `settled` is called, once. */
export type Admission = {
  /** Of the lease: member and key are null where they have no limits of their own. */
  key: GrantKey;
  leaseId: string;
  period: string;
  units: number;
  accounts: ChargeAccounts | null;
  /** The counters of limits that the units were also taken from. */
  counterIds: readonly string[];
  /** The call failed before the billing point: the units are free again, and so is the request unless it was `spent` on a run. */
  giveBack(spent?: boolean): void;
  /** The units were settled in the database. */
  settled(): void;
  /** They could not be settled, since what their lease held is with others: as `giveBack`, and the lease admits nothing more. */
  forfeit(): void;
  /** What is left of the plan's quota and of the limits that concern the call, as far as this process knows. */
  allowances(): Allowance[];
};

/** A lease in this process's memory. Units and requests are whole numbers; times are monotonic milliseconds. */
export type Block = Granted & { free: number; slotsFree: number; inFlight: number; requestsLeft: number; open: boolean };

/** `key`: of the caller as it came, whatever limits it has. */
type Waiter = {
  key: GrantKey;
  units: number;
  since: number;
  deadlineAt: number;
  resolve(admission: Admission): void;
  reject(error: MercatoError): void;
};

/** What this process knows of one consumer, listing, subscription and plan version, and where they have limits of their own, of one member or key. */
export type Entry = {
  key: GrantKey;
  blocks: Block[];
  waiters: Waiter[];
  refilling: boolean;
  lastGrant: number;
  lastGrantAt: number;
  /** Requests that were granted and not made, for the database. */
  owedRequests: { grant: Granted; requests: number; admitted: boolean }[];
  /** Requests on their way back to the database. */
  returning: Promise<void> | null;
  /** How often requests have gone back. */
  requestReturns: number;
  /** The units of a window are all settled: nothing but a change of the limit changes that before it ends. */
  exhausted: { until: number; short: Short } | null;
  /** Counts up when limits change: what was granted under another count is returned unused. */
  epoch: number;
  /** What the last grant, or refusal, left of the limits, and when. */
  allowances: { at: number; left: readonly Allowance[]; of: Block | null };
};

export type LeaseMemory = ReturnType<typeof createLeaseMemory>;

const FIRST_GRANT = 16;
const GRANT_MAX = 1_000_000;
const FORGET_MS = 60_000;

/** The leases of this process: arithmetic alone, no database. `onOwed` is called when units of a closed block came free. */
export function createLeaseMemory(time: Time, onOwed: () => void) {
  const entries = new Map<string, Entry>();
  let owed: ReturnedUnits[] = [];
  let returns = 0n;

  /** The entry of a caller; members and keys without limits of their own, which are not `limited`, share the tenant's. */
  function entryOf(key: GrantKey, limited: ReadonlySet<string>): Entry {
    const memberId = key.memberId !== null && limited.has(key.memberId) ? key.memberId : null;
    const apiKeyId = key.apiKeyId !== null && limited.has(key.apiKeyId) ? key.apiKeyId : null;
    const { consumerTenantId, listingId, subscriptionId, terms } = key;
    const name = [consumerTenantId, listingId, subscriptionId, terms?.planVersionId, memberId, apiKeyId].join(':');
    let entry = entries.get(name);
    if (!entry) {
      entry = {
        key: { ...key, memberId, apiKeyId },
        blocks: [],
        waiters: [],
        refilling: false,
        lastGrant: 0,
        lastGrantAt: 0,
        owedRequests: [],
        returning: null,
        requestReturns: 0,
        exhausted: null,
        epoch: 0,
        allowances: { at: 0, left: [], of: null },
      };
      entries.set(name, entry);
    }
    return entry;
  }

  /** Units for one call from a lease that has them; null where none has. */
  function tryTake(entry: Entry, units: number): Admission | null {
    const now = time.nowMs();
    const block = entry.blocks.find((candidate) => fits(candidate, units, now));
    return block ? take(entry, block, units) : null;
  }

  function take(entry: Entry, block: Block, units: number): Admission {
    block.free -= units;
    block.inFlight += units;
    block.requestsLeft -= 1;
    block.slotsFree -= 1;
    const giveSlotBack = (unused: number) => {
      const slots = Number.isFinite(block.slotsFree) ? 1n : 0n;
      if (block.open) block.slotsFree += 1;
      else if (unused > 0 || slots > 0n) {
        owed.push({ ...returnOf(block, unused, slots), admitted: true });
        onOwed();
      }
    };
    const admission: Admission = {
      key: entry.key,
      leaseId: block.leaseId,
      period: block.period,
      units,
      accounts: block.accounts,
      counterIds: block.counterIds,
      giveBack(spent = false) {
        block.inFlight -= units;
        if (block.open) {
          block.free += units;
          if (!spent) block.requestsLeft += 1;
        } else if (!spent && rateOf(entry.key.terms)) entry.owedRequests.push({ grant: block, requests: 1, admitted: true });
        giveSlotBack(units);
      },
      settled() {
        block.inFlight -= units;
        giveSlotBack(0);
      },
      forfeit() {
        owed.push(...close(entry, (candidate) => candidate === block));
        admission.giveBack();
      },
      allowances: () => allowancesOf(entry),
    };
    return admission;
  }

  /** What was left at the last grant or refusal, less what was taken of that grant since. */
  function allowancesOf({ allowances: { at, left, of: block }, key }: Entry): Allowance[] {
    if (left.length === 0) return [];
    const age = time.nowMs() - at;
    const [units, calls, requests] = block ? [block.units - block.free, block.inFlight, block.requests - block.requestsLeft] : [0, 0, 0];
    const goneOf = {
      units,
      nanos: units * Number(key.terms?.unitPriceNanos ?? 0n),
      'concurrent-requests': calls,
      requests: Number.isNaN(requests) ? 0 : requests,
    };
    return left.map((allowance) => {
      const { unit, resetMs } = allowance;
      return {
        ...allowance,
        left: Math.max(0, allowance.left - goneOf[unit]),
        resetMs: resetMs === null ? null : Math.max(0, resetMs - age),
      };
    });
  }

  /** A return with a number of its own, by which it can be made again where its outcome is not known. */
  function returnOf({ leaseId }: Pick<Block, 'leaseId'>, units: number | null, slots: bigint | null): ReturnedUnits {
    return { leaseId, number: ++returns, units: units === null ? null : BigInt(units), slots };
  }

  /** A granted lease serves those who wait, in their order, as far as it goes. */
  function add(entry: Entry, granted: Granted): void {
    const { units, slots, requests } = granted;
    const block: Block = { ...granted, free: units, slotsFree: slots, inFlight: 0, requestsLeft: requests, open: true };
    const now = time.nowMs();
    entry.lastGrant = granted.units;
    entry.lastGrantAt = now;
    entry.allowances = { at: now, left: granted.left, of: block };
    entry.blocks.push(block);
    let waiter = entry.waiters[0];
    while (waiter && fits(block, waiter.units, now)) {
      entry.waiters.shift();
      waiter.resolve(take(entry, block, waiter.units));
      waiter = entry.waiters[0];
    }
  }

  /**
   * Refuses everyone whom a shortage concerns that was found after `askedAt`: of those who waited then, all for a rate, otherwise who needs as much as was
   * refused. Whoever came later is asked for anew. Whether there was anyone.
   */
  function refuse(entry: Entry, need: number, short: Short, askedAt: number): boolean {
    if (short.left) entry.allowances = { at: time.nowMs(), left: short.left, of: null };
    if (short.exhaustedMs !== undefined) {
      // The answer may have come late.
      entry.exhausted = { until: askedAt + short.exhaustedMs, short };
    }
    const concerned = entry.waiters.filter((waiter) => waiter.since <= askedAt && (short.short === 'RATE' || waiter.units >= need));
    entry.waiters = entry.waiters.filter((waiter) => !concerned.includes(waiter));
    for (const waiter of concerned) waiter.reject(refusalOf(entry.key, short, waiter.units));
    return concerned.length > 0;
  }

  /** Takes an entry's blocks out of use; returns their unused units, for the database, and remembers their unused requests. */
  function close(entry: Entry, which: (block: Block) => boolean = () => true): ReturnedUnits[] {
    const closing = entry.blocks.filter((block) => block.open && which(block));
    const returned = closing.map((block) => returnOf(block, block.free, Number.isFinite(block.slotsFree) ? BigInt(block.slotsFree) : 0n));
    for (const block of closing) {
      if (Number.isFinite(block.requestsLeft) && block.requestsLeft > 0)
        entry.owedRequests.push({ grant: block, requests: block.requestsLeft, admitted: false });
      Object.assign(block, { open: false, free: 0, slotsFree: Number.isFinite(block.slotsFree) ? 0 : block.slotsFree, requestsLeft: 0 });
    }
    return returned.filter(({ units, slots }) => units !== 0n || slots !== 0n);
  }

  /** What this process knows of a consumer's listing, or of all of its listings: one entry for each subscription and plan version. */
  function entriesOf(consumerTenantId: string, listingId: string | null): Entry[] {
    return [...entries.values()].filter(
      ({ key }) => key.consumerTenantId === consumerTenantId && (listingId === null || key.listingId === listingId),
    );
  }

  /** Drops blocks that were deleted in the database, and entries that nobody has asked for in a minute. */
  function forget(leaseIds: readonly string[]): void {
    for (const [name, entry] of entries) {
      entry.blocks = entry.blocks.filter((block) => !leaseIds.includes(block.leaseId));
      const idle = entry.blocks.length === 0 && entry.waiters.length === 0 && !entry.refilling;
      if (idle && time.nowMs() - entry.lastGrantAt > FORGET_MS) entries.delete(name);
    }
  }

  return {
    entryOf,
    allowancesOf,
    entriesOf,
    all: () => [...entries.values()],
    tryTake,
    add,
    refuse,
    close,
    returnOf,
    forget,
    /** Units that came free after their block was closed, to be returned; the caller takes them over. */
    takeOwed: () => owed.splice(0),
    /** The leases whose units are still to be returned. */
    owing: () => new Set(owed.map(({ leaseId }) => leaseId)),
    owe: (returned: readonly ReturnedUnits[]) => {
      owed = [...owed, ...returned];
    },
  };
}

const fits = (block: Block, units: number, now: number) =>
  block.open && block.free >= units && block.slotsFree >= 1 && block.requestsLeft >= 1 && now < block.usableUntil;

/** Whether less than a quarter of the last grant is left: the next is fetched while this one still serves. */
export function runsLow(entry: Entry, now: number): boolean {
  if (entry.lastGrant < 4 * FIRST_GRANT) return false;
  let free = 0;
  for (const block of entry.blocks) if (block.open && now < block.usableUntil) free += block.free;
  return free < entry.lastGrant / 4;
}

/** About a second of the traffic seen: twice the last grant where it went within the second, half where it did not. */
export function wanted(entry: Entry, now: number): number {
  const waiting = entry.waiters.reduce((sum, waiter) => sum + waiter.units, 0);
  const quick = now - entry.lastGrantAt < 1000;
  const paced = entry.lastGrant === 0 ? FIRST_GRANT : quick ? entry.lastGrant * 2 : Math.ceil(entry.lastGrant / 2);
  return Math.min(GRANT_MAX, Math.max(waiting, paced, 1));
}
