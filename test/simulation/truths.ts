import { priceOf } from '../../src/billing/billing.ts';
import type { GrantKey } from '../../src/prediction/grants.ts';
import type { Admission } from '../../src/prediction/leases.ts';
import type { Books } from './books.ts';
import type { Call } from './calls.ts';
import { walletId } from './ledger.ts';
import type { SimLimit } from './limits.ts';
import type { Servers } from './servers.ts';

/** `isRunning`: neither given back nor settled. */
export type Watched = Admission & { isRunning: boolean };
/** A call that holds units, or whose end its process does not know; its record, once there is to be one. */
export type Open = { key: GrantKey; units: bigint; admission: Watched; recordId: string | null };

/** Judges what processes say and do by the books and by what is in flight, which no process knows as a whole. */
export class Truths {
  private readonly books: Books;
  private readonly servers: Servers;
  private readonly open: ReadonlySet<Open>;

  constructor(books: Books, servers: Servers, open: ReadonlySet<Open>) {
    [this.books, this.servers, this.open] = [books, servers, open];
  }

  /** Adds what would rightly refuse a call now. */
  note({ key, units, server, truths }: Call): void {
    const { limits, requests, ledger } = this.books;
    const add = (name: string, isTrue: () => boolean) => {
      if (!truths.has(name) && isTrue()) truths.add(name);
    };
    if (key.terms?.quotaUnits != null) add('plan', () => this.isQuotaFull(key, units));
    for (const limit of limits.concerning(key)) {
      const flying = (counterId: string) => this.flyingUnder(counterId);
      add(limit.id, () => limits.refuses(limit, units, this.costOf(key, units), flying));
    }
    add('rate', () => !this.servers.isQuiet || requests.refuses(server.process.id, key));
    if (key.terms && key.terms.unitPriceNanos > 0n)
      add(
        'credit',
        () =>
          this.dueOf(key, units) >
          ledger.account(walletId(key.consumerTenantId)).held + (ledger.available(walletId(key.consumerTenantId)) ?? 0n),
      );
  }

  private flying(isMeant: (open: Open) => boolean): bigint {
    let sum = 0n;
    for (const open of this.open) if (isMeant(open)) sum += open.units;
    return sum;
  }

  /** Of a call after all that are in flight. */
  private costOf(key: GrantKey, units: number): bigint {
    const period = this.books.period();
    const flying = this.flying((open) => open.admission.period === period && isSameListing(open.key, key));
    const from = this.books.counterOf(key, period).used + flying;
    return priceOf(key.terms, from + BigInt(units)) - priceOf(key.terms, from);
  }

  private isQuotaFull(key: GrantKey, units: number): boolean {
    const period = this.books.period();
    const flying = this.flying((open) => open.admission.period === period && isSameListing(open.key, key));
    return this.books.counterOf(key, period).used + flying + BigInt(units) > (key.terms?.quotaUnits ?? 0n);
  }

  /** What calls in flight take of a limit's counter, and what leases hold of it that no call has taken. */
  private flyingUnder(counterId: string) {
    const taken = { units: 0n, nanos: 0n, slots: 0n, idleUnits: 0n };
    const ofLeases = new Map<string, bigint>();
    const calls = new Map<string, bigint>();
    for (const { key, units, admission, recordId } of this.open) {
      if (!admission.counterIds.includes(counterId)) continue;
      taken.units += units;
      taken.nanos += units * (key.terms?.unitPriceNanos ?? 0n);
      taken.slots += 1n;
      calls.set(admission.leaseId, (calls.get(admission.leaseId) ?? 0n) + 1n);
      if (recordId === null || !this.books.records.has(recordId))
        ofLeases.set(admission.leaseId, (ofLeases.get(admission.leaseId) ?? 0n) + units);
    }
    for (const [id, { units, slots, draining, counterIds }] of this.books.leases) {
      if (!counterIds.includes(counterId)) continue;
      const idle = units - (ofLeases.get(id) ?? 0n);
      if (idle > 0n) taken.idleUnits += idle;
      // What a lease keeps that was asked for the rest is in flight, until its process says otherwise.
      const kept = slots - (calls.get(id) ?? 0n);
      if (draining && kept > 0n) taken.slots += kept;
    }
    return taken;
  }

  /** What a tenant's wallet owes when all that is in flight, and a call of `units`, is settled, in nanos. */
  private dueOf(key: GrantKey, units: number): bigint {
    const { books } = this;
    const flying = new Map<string, { key: GrantKey; period: string; units: bigint }>();
    const add = (of: GrantKey, period: string, more: bigint) => {
      const name = `${of.listingId}:${period}`;
      flying.set(name, { key: of, period, units: (flying.get(name)?.units ?? 0n) + more });
    };
    for (const open of this.open) if (open.key.consumerTenantId === key.consumerTenantId) add(open.key, open.admission.period, open.units);
    add(key, books.period(), BigInt(units));
    let due = 0n;
    for (const { key: of, period, units: sum } of flying.values()) {
      const { used } = books.counterOf(of, period);
      due += priceOf(of.terms, used + sum) - priceOf(of.terms, used);
    }
    return due;
  }

  /** The limits that every process in touch has heard of. */
  inForce(key: GrantKey): SimLimit[] {
    return this.books.limits.concerning(key).filter(({ isRemoved, before }) => !isRemoved && before.every(({ isOver }) => isOver()));
  }

  /**
   * What is wrong where a call is let in: past a limit that is in force, or was when the call came to a process out of touch, or on account of a window that
   * has ended.
   */
  letIn({ id: callId, key, server }: Call, { counterIds, period }: Admission, before: readonly SimLimit[]): string[] {
    const { limits } = this.books;
    const inForce = server.isFresh() ? this.inForce(key) : before.filter(({ isRemoved }) => !isRemoved);
    const missing = inForce.filter(({ id }) => !counterIds.some((one) => one.startsWith(`${id}@`)));
    const ended = [...counterIds.filter((id) => !limits.isOpen(id)), ...(period === this.books.period() ? [] : [period])];
    return [
      ...missing.map(({ id }) => `${callId} was let in past ${id}`),
      ...ended.map((id) => `${callId} was let in after the end of ${id}`),
    ];
  }

  /** Leases that have more calls running, or more units in flight, than they hold. */
  overdrawn(): string[] {
    const running = new Map<string, { units: bigint; calls: bigint }>();
    for (const { units, admission, recordId } of this.open) {
      if (!admission.isRunning) continue;
      const known = running.get(admission.leaseId) ?? { units: 0n, calls: 0n };
      const isBilled = recordId !== null && this.books.records.has(recordId);
      running.set(admission.leaseId, { units: known.units + (isBilled ? 0n : units), calls: known.calls + 1n });
    }
    return [...running].flatMap(([id, { units, calls }]) => {
      const lease = this.books.leases.get(id);
      if (!lease) return this.servers.isQuiet && this.servers.keepsPace ? [`${id} was ended while it had calls in flight`] : [];
      const isOver = units > lease.units || (!lease.isUnbound && calls > lease.slots);
      return isOver ? [`${id} has ${calls} calls of ${units} units in flight, and ${lease.slots} places and ${lease.units} units`] : [];
    });
  }
}

const isSameListing = (a: GrantKey, b: GrantKey) => a.consumerTenantId === b.consumerTenantId && a.listingId === b.listingId;
