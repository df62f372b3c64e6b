import type { Access } from '../access/access.ts';
import { MercatoError } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import type { Log } from '../base/log.ts';
import { Turns } from '../base/turns.ts';
import type { Granted, GrantKey, Short, Wish } from './grants.ts';
import { type Admission, type Block, createLeaseMemory, type Entry, runsLow, wanted } from './lease-memory.ts';
import { type Allowance, refusalOf } from './lease-refusals.ts';
import { createLeaseReturns } from './lease-returns.ts';
import { type LeaseStore, systemTime, type Time } from './lease-store.ts';

export type { Admission } from './lease-memory.ts';

export type Leases = AsyncDisposable & {
  /**
   * Takes `units` for a call, from memory where a lease has them. Checked in order: the plan's quota, limits of the tenant, the subscription, the
   * member and the key, each by name, the plan's rate, the wallet.
   * @throws QUOTA_EXCEEDED (used + in flight = quota), RATE_LIMITED, INSUFFICIENT_CREDIT, OVERLOADED (another process did not answer a recall: with
   * the data of the refusal that is due should nothing come back; calls under the former plan are in flight)
   */
  admit(key: GrantKey, units: number, deadlineMs: number): Admission | Promise<Admission>;
  /** As `Admission.allowances`, of a caller that was refused. */
  allowances(key: GrantKey): Allowance[];
  /** Returns idle units, renews leases in flight, sweeps the expired ones of any process. Runs by itself every `maintainMs`. */
  maintain(): Promise<void>;
};

const MAINTAIN_MS = 500;
/** Of so many the limited members and keys are remembered. */
const TENANTS_MAX = 10_000;
/** Between two looks at whether other processes have returned what they were asked for. */
const RECALL_POLL_MS = 15;
/** A tenant has an entry for each listing and each limited member and key: refused for all of them it takes no more of the database than this, nor half. */
const GRANTS_OF_TENANT_MAX = 2;

export type LeaseOptions = {
  store: LeaseStore;
  time?: Time;
  invalidations: Pick<Access['invalidations'], 'on' | 'isFresh'>;
  log: Log;
  maintainMs?: number | null;
  /** That the store's transactions share with those who settle and beat: grants leave one of several to them. */
  connections?: number;
};

/**
 * Admission by leases: blocks of units that this process took from the database in short transactions, about a second of its traffic each.
 * Disposing returns what is unused. `maintainMs`: null leaves maintenance to the caller.
 */
export async function createLeases(options: LeaseOptions): Promise<Leases> {
  const { store, time = systemTime, invalidations, log, maintainMs = MAINTAIN_MS, connections = Number.POSITIVE_INFINITY } = options;
  const memory = createLeaseMemory(time, () => returns.putBackOwed());
  const returns = createLeaseReturns({ store, time, memory, log });
  const grantsMax = Math.max(1, connections - 1);
  const turns = new Turns({ all: grantsMax, each: Math.max(1, Math.min(GRANTS_OF_TENANT_MAX, Math.floor(grantsMax / 2))) });

  /** By tenant, who of its members and keys has limits of its own; absent: not known. */
  const limited = new Map<string, ReadonlySet<string>>();
  let limitChanges = 0;
  const learning = new Map<string, Promise<ReadonlySet<string>>>();
  let closed = false;

  invalidations.on('usage_limit', (tenantId) => {
    limited.delete(tenantId);
    limitChanges++;
    for (const entry of memory.entriesOf(tenantId, null)) {
      entry.epoch++;
      distrust(entry);
      // Who waits may be under a limit of its own now.
      for (const { key, units, deadlineAt, resolve, reject } of entry.waiters.splice(0)) {
        Promise.resolve()
          .then(() => admit(key, units, deadlineAt - time.nowMs()))
          .then(resolve, reject);
      }
    }
    returns.putBackOwed();
  });

  function admit(key: GrantKey, units: number, deadlineMs: number): Admission | Promise<Admission> {
    // Out of touch with the database, memory may lack a limit that was set meanwhile.
    const isFresh = invalidations.isFresh();
    const known = isFresh ? limited.get(key.consumerTenantId) : undefined;
    if (known) return admitTo(memory.entryOf(key, known), key, units, deadlineMs);
    const startedAt = time.nowMs();
    return learnShared(key.consumerTenantId).then((found) => {
      const entry = memory.entryOf(key, found);
      if (!isFresh) {
        distrust(entry);
        returns.putBackOwed();
      }
      return admitTo(entry, key, units, deadlineMs - (time.nowMs() - startedAt));
    });
  }

  /** What was granted or refused before may be so under other limits than there are now. */
  function distrust(entry: Entry): void {
    entry.exhausted = null;
    // What comes next may be closed as soon: it grows by what is used, not by what is granted.
    entry.lastGrant = 0;
    memory.owe(memory.close(entry));
  }

  /** One look for all who ask meanwhile. Out of touch, a look that began before is not joined: what was set since it may lack. */
  function learnShared(tenantId: string): Promise<ReadonlySet<string>> {
    const running = invalidations.isFresh() ? learning.get(tenantId) : undefined;
    if (running) return running;
    const look = learnLimited(tenantId).finally(() => {
      if (learning.get(tenantId) === look) learning.delete(tenantId);
    });
    learning.set(tenantId, look);
    return look;
  }

  async function learnLimited(tenantId: string): Promise<ReadonlySet<string>> {
    const before = limitChanges;
    const found = await store.limitedCallers(tenantId).catch((error: unknown) => {
      log.error({ err: error }, 'limits could not be read');
      throw new MercatoError('OVERLOADED', 'The limits could not be read; try again shortly.', { retryAfterMs: 1000 });
    });
    if (before !== limitChanges) return learnLimited(tenantId);
    if (limited.size >= TENANTS_MAX) limited.clear();
    limited.set(tenantId, found);
    return found;
  }

  function admitTo(entry: Entry, key: GrantKey, units: number, deadlineMs: number): Admission | Promise<Admission> {
    const now = time.nowMs();
    if (entry.exhausted && now < entry.exhausted.until) throw refusalOf(entry.key, entry.exhausted.short, units);
    const admission = entry.waiters.length === 0 ? memory.tryTake(entry, units) : null;
    if (admission) {
      if (runsLow(entry, now)) void refill(entry);
      return admission;
    }
    return new Promise<Admission>((resolve, reject) => {
      entry.waiters.push({ key, units, since: now, deadlineAt: now + deadlineMs, resolve, reject });
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
      const unread = new MercatoError('OVERLOADED', 'The quota could not be read; try again shortly.', { retryAfterMs: 1000 });
      const refusal = error instanceof MercatoError ? error : unread;
      for (const waiter of entry.waiters.splice(0)) waiter.reject(refusal);
    } finally {
      entry.refilling = false;
      if (entry.waiters.length > 0) void refill(entry);
    }
  }

  async function grantFor(entry: Entry): Promise<void> {
    const need = entry.waiters[0]?.units ?? 1;
    const { epoch } = entry;
    const first = await ask(entry, need, () => Math.max(need, wanted(entry, time.nowMs())), { again: false });
    // A refill ahead of need takes nothing from anyone.
    const { outcome, askedAt } = entry.waiters.length > 0 ? await askAfterAll(entry, need, first) : first;
    if (epoch !== entry.epoch) {
      // A limit was set meanwhile: these units are under none.
      if (!('short' in outcome)) {
        if (Number.isFinite(outcome.requests)) entry.owedRequests.push({ grant: outcome, requests: outcome.requests, admitted: false });
        await returns.putBack(
          [memory.returnOf(outcome, outcome.units, Number.isFinite(outcome.slots) ? BigInt(outcome.slots) : 0n)],
          false,
        );
      }
    } else if ('short' in outcome) {
      if (memory.refuse(entry, need, outcome, askedAt)) tell(outcome);
    } else memory.add(entry, outcome);
  }

  function tell(refused: Short): void {
    if (refused.short !== 'LIMIT' || !refused.limit.untold || refused.limit.amount === 0n) return;
    store.tellFull(refused.limit).catch((error: unknown) => log.warn({ err: error }, 'a full limit could not be told of'));
  }

  /** In its turn: what is wanted, and who has asked, is looked at then. `again`: before those of its tenant who have not asked yet, since its time runs. */
  function ask(entry: Entry, need: number, wantOf: () => number, { recall = false, again = true } = {}): Promise<Asked> {
    const inTurn = async () => {
      if (closed) throw new MercatoError('OVERLOADED', 'The server is shutting down.', { retryAfterMs: 1_000 });
      const [askedAt, watched] = [time.nowMs(), returns.watch(entry)];
      const wish: Wish = { need, want: wantOf(), requests: Math.max(1, entry.waiters.length) };
      return { askedAt, watched, outcome: await returns.grant(entry.key, wish, recall) };
    };
    return turns.run(entry.key.consumerTenantId, inTurn, again);
  }

  /** Asks again until nothing is left that would end the shortage if it were put back. */
  async function askAfterAll(entry: Entry, need: number, first: Asked): Promise<Asked> {
    for (let asked = first; ; ) {
      if ('short' in asked.outcome && asked.outcome.short !== 'RATE') asked = await askAfterRecall(entry, need, asked);
      if (!('short' in asked.outcome) || asked.outcome.short !== 'RATE') return asked;
      const again = await askAfterReturn(entry, need, asked);
      if (again === asked) return asked;
      asked = again;
    }
  }

  /** Puts back what lies unused, here and, asked to, in other processes, and tries again until that is all in. */
  async function askAfterRecall(entry: Entry, need: number, first: Asked): Promise<Asked> {
    const giveUpAt = Math.min(time.nowMs() + LIMITS.leaseMs, entry.waiters[0]?.deadlineAt ?? Number.POSITIVE_INFINITY);
    let asked = first;
    for (let round = 0; ; round++) {
      const { outcome, watched } = asked;
      if (!('short' in outcome) || outcome.short === 'RATE') return asked;
      const { consumerTenantId, listingId } = entry.key;
      const scope = memory.entriesOf(consumerTenantId, outcome.short === 'CREDIT' || outcome.short === 'LIMIT' ? null : listingId);
      // Where calls in flight are limited, blocks whose own are all in flight have nothing to give.
      const idle = outcome.short === 'LIMIT' && outcome.limit.measure === 'CONCURRENCY' ? holdsPlaces : undefined;
      memory.owe(scope.flatMap((other) => memory.close(other, idle)));
      const mayEnd = idle !== undefined && outcome.draining && round === 0;
      // What was on its way back while the grant was asked for, the grant may not have seen.
      await watched.settled();
      if (time.nowMs() > giveUpAt) {
        returns.putBackOwed();
        if (outcome.short === 'BUSY') return asked;
        const busy = { short: 'BUSY', of: outcome, data: { retryAfterMs: LIMITS.leaseMs }, foreign: true } as const;
        return { ...asked, outcome: { ...busy, ...(outcome.left && { left: outcome.left }) } };
      }
      const unused = memory.takeOwed();
      if (unused.length === 0 && !outcome.foreign && outcome.short !== 'BUSY' && !mayEnd && !watched.moved()) return asked;
      // In a transaction of its own: the grant's would lock its counter after these wallets, out of the system's order.
      await returns.putBack(unused, false);
      if (round > 1 || mayEnd) await time.sleep(RECALL_POLL_MS);
      asked = await ask(entry, need, () => need, { recall: outcome.foreign && round > 0 });
    }
  }

  /** Puts back the requests of blocks that have too few units for the next call, and asks again; where there are none, what was asked. */
  async function askAfterReturn(entry: Entry, need: number, asked: Asked): Promise<Asked> {
    memory.owe(memory.close(entry));
    if (!asked.watched.requestsMoved()) {
      returns.putBackOwed();
      return asked;
    }
    await returns.putBack(memory.takeOwed(), false);
    await Promise.all([entry.returning, returns.putBackRequests(entry)]);
    return ask(entry, need, () => Math.max(need, wanted(entry, time.nowMs())));
  }

  await store.onRecall((scope) => {
    returns
      .answerRecall(scope)
      .catch((error: unknown) => log.warn({ err: error }, 'a recall could not be answered; the leases will expire'));
  });
  const timer = maintainMs === null ? undefined : setInterval(() => void returns.maintainInTurn(), maintainMs);
  timer?.unref();

  return {
    admit,
    allowances: (key) => memory.allowancesOf(memory.entryOf(key, limited.get(key.consumerTenantId) ?? new Set())),
    maintain: returns.maintain,
    async [Symbol.asyncDispose]() {
      clearInterval(timer);
      closed = true;
      for (const entry of memory.all()) memory.owe(memory.close(entry));
      await returns.maintainInTurn();
    },
  };
}

/** What a grant came to, when it was asked for, and what was on the move meanwhile. */
type Asked = { outcome: Granted | Short; askedAt: number; watched: ReturnType<ReturnType<typeof createLeaseReturns>['watch']> };

const holdsPlaces = (block: Block) => Number.isFinite(block.slotsFree) && block.slotsFree > 0;
