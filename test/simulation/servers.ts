import { NotStarted } from '../../src/base/database.ts';
import { createLog } from '../../src/base/log.ts';
import type { LeaseStore } from '../../src/prediction/lease-store.ts';
import { createLeases, type Leases } from '../../src/prediction/leases.ts';
import { createSettlement, type Settlement } from '../../src/prediction/settlement.ts';
import type { SettlementStore } from '../../src/prediction/settlement-store.ts';
import type { LeaseScope } from '../../src/usage/usage.ts';
import type { Books } from './books.ts';
import { LEASE_MS, MARGIN_MS } from './market.ts';
import { type Ended, settle } from './settle.ts';
import { SimProcess, type World } from './world.ts';

export const MAINTAIN_MS = 500;
const log = createLog('silent');

export type Server = {
  process: SimProcess;
  leases: Leases;
  settlement: Settlement;
  heardRecall(scope: LeaseScope): void;
  forgetLimits(tenantId: string): void;
  /** When each change was announced that has not arrived here. */
  unheard: Set<number>;
  /** Whether it has been in touch within a lease. */
  isFresh(): boolean;
};

/** The server processes on one set of books, and what goes wrong between them. */
export class Servers {
  readonly all: Server[] = [];
  faultPercent = 0;
  /** Whether every transaction has been done, and heard of, within a second. */
  isQuiet = true;
  /** Whether no process has been later with its upkeep than a block's margin allows: then no lease ends while it has calls in flight. */
  keepsPace = true;
  /** Runs after every transaction. */
  check: () => void = () => {};
  private readonly world: World;
  private readonly books: Books;

  constructor(world: World, books: Books) {
    [this.world, this.books] = [world, books];
    books.recall = (scope) => {
      for (const { process, heardRecall } of this.all) void process.after(world.sleep(this.delay())).then(() => heardRecall(scope));
    };
  }

  get alive(): Server[] {
    return this.all.filter(({ process }) => process.alive);
  }

  private delay(): number {
    return this.world.below(100) < 3 ? this.world.below(400) : this.world.below(4);
  }

  /** One transaction of a process: on its way there and back time passes, and with faults it may not begin, or its answer be lost. */
  async transaction<T>(process: SimProcess, work: () => T): Promise<T> {
    const fault = this.world.below(100) < this.faultPercent ? this.world.below(3) : null;
    const done = this.world.sleep(this.delay()).then(async () => {
      if (fault === 0) throw new NotStarted('no connection');
      if (fault === 1) throw new Error('the connection was lost before');
      const result = work();
      this.check();
      await this.world.sleep(this.delay());
      if (fault === 2) throw new Error('the connection was lost after');
      return result;
    });
    return process.after(done);
  }

  /** Tells every process that a tenant's limits changed. Returns whether all that are in touch have heard. */
  announce(tenantId: string): () => boolean {
    const { now } = this.world;
    const awaited = new Set(this.all);
    for (const server of this.all) {
      server.unheard.add(now);
      void server.process.after(this.world.sleep(this.delay())).then(() => {
        server.unheard.delete(now);
        awaited.delete(server);
        server.forgetLimits(tenantId);
      });
    }
    return () => [...awaited].every(({ process }) => !process.alive || this.world.now - now >= LEASE_MS);
  }

  async start(): Promise<void> {
    const process = new SimProcess(`process-${this.all.length}`, this.world);
    const unheard = new Set<number>();
    const isFresh = () => [...unheard].every((at) => this.world.now - at < LEASE_MS);
    const heard: Pick<Server, 'heardRecall' | 'forgetLimits'> = { heardRecall: () => {}, forgetLimits: () => {} };
    const leases = await createLeases({
      store: this.leaseStore(process, (recalled) => Object.assign(heard, { heardRecall: recalled })),
      time: { nowMs: process.nowMs, sleep: process.sleep },
      invalidations: {
        isFresh,
        on: (_, forget) => void Object.assign(heard, { forgetLimits: forget }),
      },
      ...{ log, maintainMs: null },
    });
    const settlement = createSettlement({ store: this.settlementStore(process), inFlight: () => 0, log });
    this.all.push({ process, leases, settlement, unheard, isFresh, ...heard });
    let maintainedAt = this.world.now;
    const maintain = (): void => {
      if (!process.alive) return;
      void process
        .sleep(MAINTAIN_MS)
        .then(() => {
          if (this.world.now - maintainedAt > MARGIN_MS) this.keepsPace = false;
          maintainedAt = this.world.now;
          return leases.maintain();
        })
        .catch(() => {})
        .then(maintain);
    };
    maintain();
  }

  private leaseStore(process: SimProcess, onRecall: (heard: (scope: LeaseScope) => void) => void): LeaseStore {
    const { books } = this;
    return {
      grant: (leaseId, key, wish, recall = false) => this.transaction(process, () => books.grant(process.id, leaseId, key, wish, recall)),
      putBack: (returned, drain) => this.transaction(process, () => books.putBack(returned, drain)),
      putBackRequests: (key, rate, unmade) => this.transaction(process, () => books.requests.putBack(process.id, key, rate, unmade)),
      renew: (ids) => this.transaction(process, () => books.renew(ids)),
      drop: (ids) => this.transaction(process, () => books.drop(ids)),
      sweep: () => this.transaction(process, () => books.sweep()),
      tellFull: async () => undefined,
      limitedCallers: (tenantId) => this.transaction(process, () => books.limits.limitedCallers(tenantId)),
      onRecall: async (heard) => onRecall(heard),
    };
  }

  private settlementStore(process: SimProcess): SettlementStore {
    const { books } = this;
    return {
      // What a caller hands in comes through as it is.
      settle: (group) => this.transaction(process, () => settle(books, group as readonly Ended[])),
      // Which of them lacked is told by the database alone.
      shortOf: async () => null,
      billed: (group) =>
        this.transaction(process, () => {
          const found = group.flatMap(({ metered: { id } }) => books.records.get(id) ?? []);
          return new Map(found.map(({ id, amountNanos }) => [id, amountNanos]));
        }),
      answered: (given) =>
        this.transaction(process, () => {
          const found = given.flatMap(({ tenantId, key }) => {
            const record = books.records.get(books.keys.get(`${tenantId}:${key}`) ?? '');
            return record ? [[`${tenantId}:${key}`, record] as const] : [];
          });
          return new Map(
            found.map(([name, { id, units, amountNanos }]) => [
              name,
              async () => ({ digest: Buffer.alloc(0), recordId: id, units: Number(units), amountNanos, answer: null }),
            ]),
          );
        }),
    };
  }
}
