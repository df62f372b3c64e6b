import type { Log } from '../base/log.ts';
import type { LeaseScope, ReturnedUnits } from '../usage/usage.ts';
import { rateOf } from './grants.ts';
import type { Block, Entry, LeaseMemory } from './lease-memory.ts';
import type { LeaseStore, Time } from './lease-store.ts';

/** The way of units and requests back to the database, and the upkeep of leases there. */
export function createLeaseReturns(options: { store: LeaseStore; time: Time; memory: LeaseMemory; log: Log }) {
  const { store, time, memory, log } = options;
  let running: Promise<void> = Promise.resolve();

  const underWay = new Set<Promise<void>>();
  let ended = 0;

  async function putBack(returned: readonly ReturnedUnits[], drain: boolean): Promise<void> {
    if (returned.length === 0) return;
    const put = store.putBack(returned, drain);
    underWay.add(put);
    try {
      await put;
    } catch (error) {
      memory.owe(returned);
      throw error;
    } finally {
      underWay.delete(put);
      ended++;
    }
  }

  /** Starts to watch what is on its way back: `passed` resolves when all of it is, and to whether anything was since. */
  function watch(): { passed(): Promise<boolean> } {
    const before = ended;
    return {
      async passed() {
        const waited = underWay.size > 0;
        await Promise.allSettled(underWay);
        return waited || ended > before;
      },
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
    const requests = entry.owedRequests;
    if (requests === 0 || rate === null) return;
    entry.owedRequests = 0;
    entry.returning = store.putBackRequests(entry.key, rate, requests).finally(() => {
      entry.returning = null;
    });
    await entry.returning;
  }

  /** Returns idle units, renews leases in flight, drops the finished, sweeps the expired ones of any process. */
  async function maintain(): Promise<void> {
    const now = time.nowMs();
    const spent = (block: Block) => now >= block.usableUntil || block.free === 0;
    const unused = memory.all().flatMap((entry) => memory.close(entry, spent));
    await putBack([...memory.takeOwed(), ...unused], false);
    for (const entry of memory.all()) await putBackRequests(entry);
    const blocks = memory.all().flatMap((entry) => entry.blocks);
    const busy = blocks.filter((block) => block.inFlight > 0).map((block) => block.leaseId);
    const done = blocks.filter((block) => !block.open && block.inFlight === 0).map((block) => block.leaseId);
    if (busy.length > 0) await store.renew(busy);
    if (done.length > 0) await store.drop(done);
    memory.forget(done);
    await store.sweep();
  }

  /** Another process needs what lies unused here; what stays is marked as in flight. */
  async function answerRecall({ consumerTenantId, listingId }: LeaseScope): Promise<void> {
    const concerned = memory.entriesOf(consumerTenantId, listingId);
    const unused = new Map(concerned.flatMap((entry) => memory.close(entry)).map((part) => [part.leaseId, part]));
    const draining = concerned.flatMap((entry) =>
      entry.blocks.map(({ leaseId }) => unused.get(leaseId) ?? memory.returnOf({ leaseId }, 0, 0n)),
    );
    await putBack([...memory.takeOwed(), ...draining], true);
  }

  return {
    putBack,
    watch,
    putBackOwed,
    putBackRequests,
    answerRecall,
    maintain,
    maintainInTurn: () => inTurn(maintain, 'lease maintenance failed'),
  };
}
