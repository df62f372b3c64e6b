import { NotStarted } from '../../src/base/database.ts';
import { MercatoError } from '../../src/base/errors.ts';
import { createLog } from '../../src/base/log.ts';
import { priceOf } from '../../src/billing/billing.ts';
import type { GrantKey } from '../../src/prediction/grants.ts';
import type { LeaseStore } from '../../src/prediction/lease-store.ts';
import { createLeases, type Leases } from '../../src/prediction/leases.ts';
import { createSettlement, type Finished, type Settlement } from '../../src/prediction/settlement.ts';
import type { SettlementStore } from '../../src/prediction/settlement-store.ts';
import { Books, LEASE_MS, PERIOD_MS, type SimLimit } from './books.ts';
import { SimProcess, World } from './world.ts';

/** What a schedule does, one after the other; `afterMs` from the one before. */
export type Step = { afterMs: number } & (
  | { kind: 'call'; process: number; right: number; units: number; runMs: number; fails: boolean; keyed: boolean }
  | { kind: 'crash'; process: number }
  | { kind: 'pause'; process: number; ms: number }
  | { kind: 'faults'; percent: number }
  | { kind: 'limit'; measure: SimLimit['measure']; amount: number }
  /** Ends with a line that says what came of it, to compare runs by. */
  | { kind: 'end' }
);
export type Schedule = { seed: number; processes: number; steps: readonly Step[] };

const MAINTAIN_MS = 500;
const DEADLINE_MS = 5_000;
const SOON_MS = 1_000;
const LATE_MS = 8_000;
const log = createLog('silent');

/** Two tenants; the second has two listings under one wallet. */
function rightOf(consumer: string, listing: string, unitPriceNanos: bigint, freeUnits: bigint, quotaUnits: bigint | null): GrantKey {
  const terms = {
    ...{ planVersionId: `plan-${listing}`, unitPriceNanos, freeUnits, quotaUnits, currency: 'EUR' },
    ...{ requestsPerMinute: null, burst: null, priority: 0, alias: null },
  };
  return {
    ...{ consumerTenantId: consumer, publisherTenantId: 'publisher', listingId: listing, handle: listing, terms },
    ...{ subscriptionId: `subscription-${listing}`, memberId: null, apiKeyId: null },
  };
}
const RIGHTS = [rightOf('one', 'quota', 0n, 0n, 25n), rightOf('two', 'priced', 3n, 5n, null), rightOf('two', 'both', 7n, 0n, 12n)];
const CREDIT_NANOS = 150n;

type Server = { process: SimProcess; leases: Leases; settlement: Settlement };
/** `true`: what a refusal would say was true at some moment since the call was sent. */
type Truths = { QUOTA_EXCEEDED: boolean; RATE_LIMITED: boolean; INSUFFICIENT_CREDIT: boolean };
type Call = { id: string; key: string | null; right: GrantKey; units: number; truths: Truths };
/** A call that holds units, or whose end its process does not know. */
type Open = { right: GrantKey; period: string; units: bigint; until: number };

/** Runs one schedule on real leases and settlements over a simulated store and clock. Returns what went wrong; nothing where all held. */
export async function simulate({ seed, processes, steps }: Schedule): Promise<string[]> {
  const run = new Run(seed);
  for (let i = 0; i < processes; i++) await run.start();
  for (const step of steps) {
    await run.pass(run.world.below(step.afterMs + 1));
    await run.step(step);
  }
  const wrong = await run.finish();
  return steps.at(-1)?.kind === 'end' ? [run.summary(), ...wrong] : wrong;
}

class Run {
  readonly world: World;
  private readonly books: Books;
  private readonly wrong: string[] = [];
  private readonly servers: Server[] = [];
  private readonly recalls: { process: SimProcess; heard: (scope: { consumerTenantId: string; listingId: string | null }) => void }[] = [];
  private readonly limitListeners: { process: SimProcess; forget(tenantId: string): void }[] = [];
  private readonly acknowledged = new Map<string, { id: string; amountNanos: bigint }>();
  private readonly waiting = new Set<Call>();
  private readonly open = new Set<Open>();
  private unresolved = 0;
  private faultPercent = 0;
  /** Whether every transaction has been done, and heard of, within a second. */
  private isQuiet = true;
  private calls = 0;
  private credit = new Map<string, bigint>();

  constructor(seed: number) {
    this.world = new World(seed);
    this.books = new Books(this.world);
    this.books.recall = (scope) => {
      for (const { process, heard } of this.recalls) void process.after(this.world.sleep(this.delay())).then(() => heard(scope));
    };
    for (const tenant of ['one', 'two']) this.pay(tenant, CREDIT_NANOS);
  }

  private pay(tenant: string, nanos: bigint): void {
    this.books.walletOf(tenant).balance += nanos;
    this.credit.set(tenant, (this.credit.get(tenant) ?? 0n) + nanos);
  }

  private delay(): number {
    return this.world.below(100) < 3 ? this.world.below(400) : this.world.below(4);
  }

  /** One transaction of a process: on its way there and back time passes, and with faults it may not begin, or its answer be lost. */
  private async transaction<T>(process: SimProcess, work: () => T): Promise<T> {
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

  async start(): Promise<void> {
    const process = new SimProcess(`process-${this.servers.length}`, this.world);
    const { books } = this;
    const leaseStore: LeaseStore = {
      grant: (leaseId, key, wish, recall = false) => this.transaction(process, () => books.grant(process.id, leaseId, key, wish, recall)),
      putBack: (returned, drain) => this.transaction(process, () => books.putBack(returned, drain)),
      putBackRequests: async () => {},
      renew: (ids) => this.transaction(process, () => books.renew(ids)),
      drop: (ids) => this.transaction(process, () => books.drop(ids)),
      sweep: () => this.transaction(process, () => books.sweep()),
      limitedCallers: () => this.transaction(process, () => new Set<string>()),
      onRecall: async (heard) => void this.recalls.push({ process, heard }),
    };
    const settlementStore: SettlementStore = {
      settle: (group) =>
        this.transaction(process, () => {
          const withKeys = group.map((call) => ({
            ...call,
            key: rightFor(call.metered.listingId),
          }));
          return books.settle(withKeys);
        }),
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
    const invalidations = {
      isFresh: () => true,
      on: (_: string, forget: (tenantId: string) => void | Promise<void>) =>
        void this.limitListeners.push({ process, forget: (tenantId) => void forget(tenantId) }),
    };
    const time = { nowMs: process.nowMs, sleep: process.sleep };
    const leases = await createLeases({ store: leaseStore, time, invalidations, log, maintainMs: null });
    const settlement = createSettlement({ store: settlementStore, inFlight: () => 0, log });
    this.servers.push({ process, leases, settlement });
    const maintain = (): void => {
      if (!process.alive) return;
      void process
        .sleep(MAINTAIN_MS)
        .then(() => leases.maintain())
        .catch(() => {})
        .then(maintain);
    };
    maintain();
  }

  pass(ms: number): Promise<void> {
    return this.world.runUntil(this.world.now + ms);
  }

  async step(step: Step): Promise<void> {
    const server = 'process' in step ? this.servers[step.process % this.servers.length] : undefined;
    if (step.kind === 'call' && server) this.issue(server, step);
    if (step.kind === 'pause' && server) server.process.pausedUntil = Math.max(server.process.pausedUntil, this.world.now + step.ms);
    if (step.kind === 'faults') this.faultPercent = step.percent;
    if (step.kind === 'faults' || step.kind === 'pause' || step.kind === 'crash') this.isQuiet = false;
    if (step.kind === 'crash' && server?.process.alive && this.servers.filter(({ process }) => process.alive).length > 1)
      server.process.alive = false;
    if (step.kind === 'limit') await this.limit(step.measure, BigInt(step.amount));
  }

  /** Sets a limit for tenant two; the schedule goes on when every process that runs has heard. */
  private async limit(measure: SimLimit['measure'], amount: bigint): Promise<void> {
    const id = `limit-${this.books.limits.size}`;
    this.books.limits.set(id, { id, tenantId: 'two', measure, amount, used: 0n, leased: 0n });
    for (const { process, forget } of this.limitListeners) void process.after(this.world.sleep(this.delay())).then(() => forget('two'));
    await this.pass(500);
  }

  private issue(server: Server, step: Step & { kind: 'call' }): void {
    const right = RIGHTS[step.right % RIGHTS.length];
    if (!right || !server.process.alive) return;
    const id = `call-${++this.calls}`;
    const call: Call = { id, key: step.keyed ? id : null, right, units: step.units, truths: nothingTrue() };
    this.send(server, call, step);
  }

  /** One try of a call; a keyed one whose end is not known is tried again, elsewhere perhaps. */
  private send(server: Server, call: Call, step: Step & { kind: 'call' }): void {
    Object.assign(call, { truths: nothingTrue() });
    this.waiting.add(call);
    this.unresolved++;
    const { process } = server;
    let ended = false;
    const end = (): void => {
      if (ended) return;
      ended = true;
      this.unresolved--;
      this.waiting.delete(call);
    };
    const again = (): void => {
      const alive = this.servers.filter((other) => other.process.alive);
      const next = alive[this.world.below(alive.length)];
      if (call.key !== null && next) this.world.at(this.world.now + this.world.below(300), () => this.send(next, call, step));
    };
    // The client of a process that is gone learns nothing.
    const watch = (): void => {
      if (ended) return;
      if (process.alive) this.world.at(this.world.now + 1_000, watch);
      else {
        end();
        again();
      }
    };
    watch();
    this.check();
    this.predict(server, call, step).then(
      (settled) => {
        if (ended) return;
        end();
        this.acknowledge(call, settled);
      },
      (error: unknown) => {
        if (ended) return;
        end();
        this.judge(call, error);
        if (error instanceof MercatoError && error.code === 'OUTCOME_UNKNOWN') again();
      },
    );
  }

  /** As `predict` does from its step 4 on. */
  private async predict(
    { process, leases, settlement }: Server,
    call: Call,
    step: Step & { kind: 'call' },
  ): Promise<{ id: string; amountNanos: bigint }> {
    const { right, units } = call;
    const admission = await leases.admit(right, units, DEADLINE_MS);
    const open: Open = { right, period: admission.period, units: BigInt(units), until: Number.POSITIVE_INFINITY };
    this.open.add(open);
    // What is not settled is in flight to the others until it is back in the database: soon, or, where answers were lost, when its lease is swept.
    const over = (ms: number): void => this.world.at(this.world.now + ms, () => void this.open.delete(open));
    // What a process that ended held is free when it is swept; nobody hears of its end.
    const swept = (): void => {
      if (process.alive) this.world.at(this.world.now + 1_000, swept);
      else over(LEASE_MS + 2 * MAINTAIN_MS);
    };
    swept();
    await process.sleep(step.runMs);
    if (step.fails) {
      admission.giveBack();
      over(this.isQuiet ? SOON_MS : LATE_MS);
      throw new MercatoError('MODEL_FAILED');
    }
    const id = `${call.id}-${this.world.below(1e9)}`;
    const keyed =
      call.key === null ? null : { tenantId: right.consumerTenantId, key: call.key, digest: Buffer.alloc(0), answer: null, storeKey: null };
    const metered = {
      ...{ id, consumerTenantId: right.consumerTenantId, publisherTenantId: right.publisherTenantId, listingId: right.listingId },
      ...{ modelId: '', modelVersionId: '', subscriptionId: right.subscriptionId, planVersionId: null, apiKeyId: null, userId: null },
      ...{ units, rows: units, runs: 1, computeMicros: 0n, bytesIn: 0, bytesOut: 0 },
    };
    let known = false;
    try {
      const settled = await settlement.settle({ admission, metered, keyed } satisfies Finished);
      known = settled.stored === null;
      return settled.stored === null
        ? { id, amountNanos: settled.amountNanos }
        : { id: settled.stored.recordId, amountNanos: settled.stored.amountNanos };
    } finally {
      if (known) this.open.delete(open);
      else over(this.isQuiet ? SOON_MS : LATE_MS);
    }
  }

  private acknowledge(call: Call, settled: { id: string; amountNanos: bigint }): void {
    const record = this.books.records.get(settled.id);
    if (record?.amountNanos !== settled.amountNanos)
      this.wrong.push(`${call.id} was acknowledged and is not billed so: ${settled.amountNanos}`);
    const known = this.acknowledged.get(call.id);
    if (known && known.id !== settled.id) this.wrong.push(`${call.id} has two answers`);
    this.acknowledged.set(call.id, settled);
  }

  /** A refusal must be true: of a quota, a limit or a wallet only where what is used and in flight filled it at some moment while the call waited. */
  private judge(call: Call, error: unknown): void {
    const code = error instanceof MercatoError ? error.code : String(error);
    const known = ['QUOTA_EXCEEDED', 'RATE_LIMITED', 'INSUFFICIENT_CREDIT', 'OVERLOADED', 'MODEL_FAILED', 'OUTCOME_UNKNOWN'];
    if (!known.includes(code)) this.wrong.push(`${call.id} failed: ${code}`);
    const now = this.truthsOf(call, this.books.period());
    if (code in call.truths && !call.truths[code as keyof Truths] && !now[code as keyof Truths])
      this.wrong.push(`${call.id} was refused, ${code}, which was not true`);
  }

  /** Runs after every transaction. */
  private check(): void {
    this.wrong.push(...this.books.broken());
    const period = this.books.period();
    for (const call of this.waiting) {
      const now = this.truthsOf(call, period);
      for (const code of ['QUOTA_EXCEEDED', 'RATE_LIMITED', 'INSUFFICIENT_CREDIT'] as const) call.truths[code] ||= now[code];
    }
  }

  private truthsOf({ right, units }: Call, period: string): Truths {
    const { books } = this;
    const own = RIGHTS.filter(({ consumerTenantId }) => consumerTenantId === right.consumerTenantId);
    const flying = (of: GrantKey, month: string) =>
      [...this.open].filter((open) => open.right === of && open.period === month).reduce((sum, open) => sum + open.units, 0n);
    const quota = right.terms?.quotaUnits ?? null;
    const isFull = quota !== null && books.counterOf(right, period).used + flying(right, period) + BigInt(units) > quota;
    let due = 0n;
    for (const of of own) {
      for (const month of new Set([period, ...[...this.open].map((open) => open.period)])) {
        const { used } = books.counterOf(of, month);
        const more = flying(of, month) + (of === right && month === period ? BigInt(units) : 0n);
        due += priceOf(of.terms, used + more) - priceOf(of.terms, used);
      }
    }
    const mine = [...this.open].filter((open) => own.includes(open.right));
    const limits = [...books.limits.values()].filter(({ tenantId }) => tenantId === right.consumerTenantId);
    const weigh = ({ measure }: SimLimit, of: GrantKey, count: bigint) =>
      measure === 'UNITS' ? count : measure === 'SPEND' ? count * (of.terms?.unitPriceNanos ?? 0n) : 1n;
    const isOver = (limit: SimLimit) => {
      const inFlight = mine.reduce((sum, open) => sum + weigh(limit, open.right, open.units), 0n);
      return limit.used + inFlight + weigh(limit, right, BigInt(units)) > limit.amount;
    };
    return {
      QUOTA_EXCEEDED: isFull || limits.some((limit) => limit.measure !== 'CONCURRENCY' && isOver(limit)),
      RATE_LIMITED: limits.some((limit) => limit.measure === 'CONCURRENCY' && isOver(limit)),
      INSUFFICIENT_CREDIT: due > books.walletOf(right.consumerTenantId).balance,
    };
  }

  summary(): string {
    const records = [...this.books.records.values()].map(({ id, units, amountNanos }) => `${id} ${units} ${amountNanos}`);
    return `${this.acknowledged.size} calls were answered by ${this.world.now} ms: ${records.join(', ')}`;
  }

  /** Faults end, what stood still goes on; then nothing may be left over, and the sums must agree. */
  async finish(): Promise<string[]> {
    this.faultPercent = 0;
    await this.pass(PERIOD_MS + 10 * LEASE_MS);
    const { books, wrong } = this;
    if (this.unresolved > 0) wrong.push(`${this.unresolved} calls have no end`);
    for (const [name, { leased }] of books.counters) if (leased !== 0n) wrong.push(`counter ${name} has ${leased} leased for ever`);
    for (const { id, leased } of books.limits.values()) if (leased !== 0n) wrong.push(`limit ${id} has ${leased} leased for ever`);
    for (const [tenant, { balance, held }] of books.wallets) {
      const spent = [...books.records.values()]
        .filter((record) => record.tenantId === tenant)
        .reduce((sum, { amountNanos }) => sum + amountNanos, 0n);
      if (held !== 0n) wrong.push(`the wallet of ${tenant} holds ${held} for ever`);
      if (balance !== (this.credit.get(tenant) ?? 0n) - spent)
        wrong.push(`the wallet of ${tenant} has ${balance} after ${spent} were spent`);
    }
    for (const [name, counter] of books.counters) this.checkPrice(name, counter.used);
    const keys = [...books.records.values()].flatMap(({ key }) => key ?? []);
    if (new Set(keys).size !== keys.length) wrong.push('a key was billed twice');
    return [...new Set(wrong)];
  }

  /** However calls were cut and ordered, their sum is the price of their sum. */
  private checkPrice(name: string, used: bigint): void {
    const [, listing, period] = name.split(':');
    const right = RIGHTS.find(({ listingId }) => listingId === listing);
    const charged = this.books.charged.get(`${right?.subscriptionId}:${period}`)?.amount ?? 0n;
    if (right && charged !== priceOf(right.terms, used)) this.wrong.push(`${name} was charged ${charged} for ${used} units`);
  }
}

const nothingTrue = (): Truths => ({ QUOTA_EXCEEDED: false, RATE_LIMITED: false, INSUFFICIENT_CREDIT: false });

function rightFor(listingId: string): GrantKey {
  const right = RIGHTS.find((one) => one.listingId === listingId);
  if (right === undefined) throw new Error(`no right to ${listingId}`);
  return right;
}
