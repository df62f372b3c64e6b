import type { Database } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import type { Log } from '../base/log.ts';
import type { Billing } from '../billing/billing.ts';
import { createGrants, type Granted, type GrantKey, type Short } from './grants.ts';
import { type Admission, createLeaseMemory, type Entry, runsLow, wanted } from './lease-memory.ts';
import { createLeaseReturns } from './lease-returns.ts';

export type { Admission } from './lease-memory.ts';

export type Leases = AsyncDisposable & {
  /**
   * Takes `units` for a call, from memory where a lease has them. Checked in order.
   * @throws QUOTA_EXCEEDED (used + in flight = quota), RATE_LIMITED, INSUFFICIENT_CREDIT, OVERLOADED (another process did not answer a recall)
   */
  admit(key: GrantKey, units: number, deadlineMs: number): Admission | Promise<Admission>;
  /** Returns idle units, renews leases in flight, sweeps the expired ones of any process. Runs by itself every `maintainMs`. */
  maintain(): Promise<void>;
};

const MAINTAIN_MS = 500;
/** Between two looks at whether other processes have returned what they were asked for. */
const RECALL_POLL_MS = 15;

export type LeaseOptions = { db: Database; billing: Billing; processId: string; log: Log; maintainMs?: number | null };

/**
 * Admission by leases: blocks of units that this process took from the database in short transactions, about a second of its traffic each.
 * Disposing returns what is unused. `maintainMs`: null leaves maintenance to the caller.
 */
export async function createLeases(options: LeaseOptions): Promise<Leases> {
  const { db, log, maintainMs = MAINTAIN_MS } = options;
  const grants = createGrants(options);
  const memory = createLeaseMemory(() => returns.putBackOwed());
  const returns = createLeaseReturns({ ...options, grants, memory });

  function admit(key: GrantKey, units: number, deadlineMs: number): Admission | Promise<Admission> {
    const entry = memory.entryOf(key);
    const now = performance.now();
    if (entry.exhausted && now < entry.exhausted.until) throw entry.exhausted.error;
    const admission = entry.waiters.length === 0 ? memory.tryTake(entry, units) : null;
    if (admission) {
      if (runsLow(entry)) void refill(entry);
      return admission;
    }
    return new Promise<Admission>((resolve, reject) => {
      entry.waiters.push({ units, deadlineAt: now + deadlineMs, resolve, reject });
      void refill(entry);
    });
  }

  /** Grants leases until no caller of this entry waits; one at a time, for all of them. */
  async function refill(entry: Entry): Promise<void> {
    if (entry.refilling) return;
    entry.refilling = true;
    try {
      do await grantFor(entry);
      while (entry.waiters.length > 0);
    } catch (error) {
      log.error({ err: error }, 'a lease could not be granted');
      const refusal = new MercatoError('OVERLOADED', 'The quota could not be read; try again shortly.', { retryAfterMs: 1000 });
      for (const waiter of entry.waiters.splice(0)) waiter.reject(refusal);
    } finally {
      entry.refilling = false;
      if (entry.waiters.length > 0) void refill(entry);
    }
  }

  async function grantFor(entry: Entry): Promise<void> {
    const need = entry.waiters[0]?.units ?? 1;
    const requests = Math.max(1, entry.waiters.length);
    let outcome = await grants.attempt(entry.key, need, Math.max(need, wanted(entry)), requests);
    // A refill ahead of need takes nothing from anyone.
    if ('short' in outcome && entry.waiters.length > 0) {
      outcome = outcome.short === 'RATE' ? await grantAfterReturn(entry, need, outcome) : await grantAfterRecall(entry, need, outcome);
    }
    if ('short' in outcome) memory.refuse(entry, need, outcome);
    else memory.add(entry, outcome);
  }

  /** Puts back what lies unused, here and, asked to, in other processes, and tries again until that is all in. */
  async function grantAfterRecall(entry: Entry, need: number, first: Short): Promise<Granted | Short> {
    const giveUpAt = Math.min(performance.now() + LIMITS.leaseMs, entry.waiters[0]?.deadlineAt ?? Number.POSITIVE_INFINITY);
    let outcome: Granted | Short = first;
    for (let round = 0; 'short' in outcome && outcome.short !== 'RATE'; round++) {
      const { consumerTenantId, listingId } = entry.key;
      const scope = memory.entriesOf(consumerTenantId, outcome.short === 'CREDIT' ? null : listingId);
      const unused = [...memory.takeOwed(), ...scope.flatMap((other) => memory.close(other))];
      if (unused.length === 0 && !outcome.foreign && outcome.short !== 'BUSY') return outcome;
      if (performance.now() > giveUpAt) return { short: 'BUSY', foreign: true, data: { retryAfterMs: LIMITS.leaseMs } };
      if (round > 1) await new Promise((resolve) => setTimeout(resolve, RECALL_POLL_MS));
      // In a transaction of its own: the grant's would lock its counter after these wallets, out of the system's order.
      await returns.putBack(unused, false);
      outcome = await grants.attempt(entry.key, need, need, Math.max(1, entry.waiters.length), outcome.foreign && round > 0);
    }
    return outcome;
  }

  /** Puts back the requests of blocks that have too few units for the next call, and tries again. */
  async function grantAfterReturn(entry: Entry, need: number, short: Short): Promise<Granted | Short> {
    const unused = memory.close(entry);
    const { returning } = entry;
    if (entry.owedRequests === 0 && returning === null) return short;
    await returns.putBack(unused, false);
    await Promise.all([returning, returns.putBackRequests(entry)]);
    return grants.attempt(entry.key, need, Math.max(need, wanted(entry)), Math.max(1, entry.waiters.length));
  }

  await db.listen('mercato_recall', (payload) => {
    returns
      .answerRecall(payload)
      .catch((error: unknown) => log.warn({ err: error }, 'a recall could not be answered; the leases will expire'));
  });
  const timer = maintainMs === null ? undefined : setInterval(() => void returns.maintainInTurn(), maintainMs);
  timer?.unref();

  return {
    admit,
    maintain: returns.maintain,
    async [Symbol.asyncDispose]() {
      clearInterval(timer);
      for (const entry of memory.all()) memory.owe(memory.close(entry));
      await returns.maintainInTurn();
    },
  };
}
