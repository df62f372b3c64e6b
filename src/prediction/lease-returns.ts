import { wasRefused } from '../base/database.ts';
import { newId } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import type { LeaseScope, ReturnedUnits } from '../usage/usage.ts';
import { type Granted, type GrantKey, rateOf, type Short, type Wish } from './grants.ts';
import type { Block, Entry, LeaseMemory } from './lease-memory.ts';
import type { LeaseStore, Time } from './lease-store.ts';

/** The way of units and requests back to the database, and the upkeep of leases there. */
export function createLeaseReturns(options: { store: LeaseStore; time: Time; memory: LeaseMemory; log: Log }) {
  const { store, time, memory, log } = options;
  let running: Promise<void> = Promise.resolve();

  const underWay = new Set<Promise<unknown>>();
  /** Of these, what is put back. */
  const comingBack = new Set<Promise<unknown>>();
  let ended = 0;

  /** What the database refuses of several is put back one by one: no lease keeps another's. */
  async function putBack(returned: readonly ReturnedUnits[], drain: boolean): Promise<void> {
    if (returned.length === 0) return;
    try {
      await moving(store.putBack(returned, drain), () => true, comingBack);
    } catch (error) {
      if (returned.length > 1 && wasRefused(error)) return await putBackEach(returned, drain);
      memory.owe(returned);
      throw error;
    }
  }

  async function putBackEach(returned: readonly ReturnedUnits[], drain: boolean): Promise<void> {
    const failures: unknown[] = [];
    for (const one of returned) await putBack([one], drain).catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw failures[0];
  }

  /** A grant; one whose outcome is not known is returned whole. */
  async function grant(key: GrantKey, wish: Wish, recall = false): Promise<Granted | Short> {
    const leaseId = newId();
    try {
      return await moving(store.grant(leaseId, key, wish, recall), (outcome) => !('short' in outcome));
    } catch (error) {
      memory.owe([memory.returnOf({ leaseId }, null, null)]);
      throw error;
    }
  }

  /** A transaction that moves units between the database and this process, where it `did`. */
  async function moving<T>(transaction: Promise<T>, did: (result: T) => boolean, among?: Set<Promise<unknown>>): Promise<T> {
    const counted = transaction.then(
      (result) => {
        if (did(result)) ended++;
      },
      () => {
        ended++;
      },
    );
    for (const set of [underWay, among]) set?.add(counted);
    try {
      return await transaction;
    } finally {
      for (const set of [underWay, among]) set?.delete(counted);
    }
  }

  /**
   * Watches what is on the move: `settled` waits for the units that are; `moved`: some have since, or are coming back now: what was asked for later has taken nothing
   * that this one lacked; `requestsMoved`: requests of this entry have, do now or are about to.
   */
  function watch(entry: Entry): { settled(): Promise<unknown>; moved(): boolean; requestsMoved(): boolean } {
    const before = ended;
    const { requestReturns } = entry;
    return {
      settled: () => Promise.all(underWay),
      moved: () => ended > before || comingBack.size > 0,
      requestsMoved: () => entry.requestReturns > requestReturns || entry.returning !== null || entry.owedRequests.length > 0,
    };
  }

  /** One after the other, so that no two maintain the same lease. */
  function inTurn(work: () => Promise<void>, failure: string): Promise<void> {
    running = running.then(work).catch((error: unknown) => log.warn({ err: error }, failure));
    return running;
  }

  /** At once, not at the next maintenance: to other processes these units are in flight, and their callers are refused meanwhile. */
  function putBackOwed(): void {
    void inTurn(() => putBack(memory.takeOwed(), false), 'units could not be returned yet');
  }

  async function putBackRequests(entry: Entry): Promise<void> {
    const rate = rateOf(entry.key.terms);
    if (entry.owedRequests.length === 0 || rate === null) return;
    const unmade = entry.owedRequests.splice(0).map(({ grant, requests, admitted }) => {
      const granted = grant.requests;
      grant.requests -= requests;
      return { requests, granted, takenAt: grant.requestsTakenAt, admitted };
    });
    entry.returning = store.putBackRequests(entry.key, rate, unmade).finally(() => {
      entry.returning = null;
      entry.requestReturns++;
    });
    await entry.returning;
  }

  /** Renews leases in flight, before whatever else may take its time; returns idle units, drops the finished, sweeps the expired ones of any process. */
  async function maintain(): Promise<void> {
    const busy = memory.all().flatMap(({ blocks }) => blocks.flatMap(({ leaseId, inFlight }) => (inFlight > 0 ? [leaseId] : [])));
    if (busy.length > 0) await store.renew(busy);
    const now = time.nowMs();
    const spent = (block: Block) => now >= block.usableUntil || block.free === 0;
    const unused = memory.all().flatMap((entry) => memory.close(entry, spent));
    const failures: unknown[] = [];
    const attempt = (work: Promise<void>) => work.catch((error: unknown) => failures.push(error));
    await attempt(putBack([...memory.takeOwed(), ...unused], false));
    await attempt(dropDone());
    await attempt(store.sweep());
    if (failures.length > 0) throw failures[0];
  }

  async function dropDone(): Promise<void> {
    for (const entry of memory.all()) await putBackRequests(entry);
    const owing = memory.owing();
    const isDone = ({ leaseId, open, inFlight }: Block) => !open && inFlight === 0 && !owing.has(leaseId);
    const done = memory.all().flatMap(({ blocks }) => blocks.filter(isDone).map(({ leaseId }) => leaseId));
    if (done.length > 0) await store.drop(done);
    memory.forget(done);
  }

  /**
   * Another process needs what lies unused here; what stays is marked as in flight. Not while units of the same leases are on their way back: marked, those
   * would count as in flight too.
   */
  async function answerRecall({ consumerTenantId, listingId }: LeaseScope): Promise<void> {
    const concerned = memory.entriesOf(consumerTenantId, listingId);
    const leases = concerned.flatMap((entry) => entry.blocks);
    memory.owe(concerned.flatMap((entry) => memory.close(entry)));
    while (comingBack.size > 0) await Promise.all(comingBack);
    await putBack([...memory.takeOwed(), ...leases.map((block) => memory.returnOf(block, 0, 0n))], true);
  }

  return {
    putBack,
    grant,
    watch,
    putBackOwed,
    putBackRequests,
    answerRecall,
    maintain,
    maintainInTurn: () => inTurn(maintain, 'lease maintenance failed'),
  };
}
