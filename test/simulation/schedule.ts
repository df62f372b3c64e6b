import { priceOf } from '../../src/billing/billing.ts';
import { Books } from './books.ts';
import { type CallStep, Calls } from './calls.ts';
import { unconforming } from './conformity.ts';
import { Desk, type TransferStep } from './desk.ts';
import { FUNDING, walletId } from './ledger.ts';
import type { SimLimit } from './limits.ts';
import { CREDIT_NANOS, LEASE_MS, Market, PERIOD_MS, TENANTS } from './market.ts';
import { Servers } from './servers.ts';
import { World } from './world.ts';

type LimitStep = {
  kind: 'limit';
  measure: SimLimit['measure'];
  amount: number;
  /** The tenant, in months, without bursts, hard, where absent. */
  subject?: SimLimit['subject'];
  number?: number;
  window?: 'MINUTE' | 'HOUR' | 'DAY' | 'MONTH';
  burstUnits?: number | null;
  hard?: boolean;
  /** The schedule goes on before every process has heard of it. */
  isHasty?: boolean;
};

/** What a schedule does, one after the other; `afterMs` from the one before. */
export type Step = { afterMs: number } & (
  | CallStep
  | TransferStep
  | LimitStep
  /** Changes a limit that was set before, or, where `amount` is null, removes it. */
  | { kind: 'change'; of: number; amount: number | null; hard: boolean }
  | { kind: 'follow'; right: number; samePlan: boolean }
  | { kind: 'revoke'; caller: number }
  | { kind: 'crash'; process: number }
  | { kind: 'pause'; process: number; ms: number }
  | { kind: 'faults'; percent: number }
  /** Ends with a line that says what came of it, to compare runs by. */
  | { kind: 'end' }
);
/** `startMs`: into the first month; its beginning where absent. */
export type Schedule = { seed: number; processes: number; startMs?: number; steps: readonly Step[] };

/** Runs one schedule on real leases and settlements over a simulated store and clock. Returns what went wrong; nothing where all held. */
export async function simulate({ seed, processes, startMs = 0, steps }: Schedule): Promise<string[]> {
  const run = new Run(seed, startMs);
  for (let i = 0; i < processes; i++) await run.servers.start();
  for (const step of steps) {
    await run.pass(run.world.below(step.afterMs + 1));
    await run.step(step);
  }
  const wrong = await run.finish();
  return steps.at(-1)?.kind === 'end' ? [run.summary(), ...wrong] : wrong;
}

class Run {
  readonly world: World;
  readonly servers: Servers;
  private readonly market = new Market();
  private readonly books: Books;
  private readonly calls: Calls;
  private readonly desk: Desk;
  private readonly wrong: string[] = [];

  constructor(seed: number, startMs: number) {
    this.world = new World(seed);
    this.world.now = startMs;
    this.books = new Books(this.world, this.market);
    this.servers = new Servers(this.world, this.books);
    this.calls = new Calls(this.world, this.books, this.servers);
    this.desk = new Desk(this.world, this.books, this.servers);
    for (const tenant of TENANTS) {
      this.books.ledger.create({
        ...{
          id: `00000000-0000-7000-8000-00000000000${TENANTS.indexOf(tenant)}`,
          kind: 'CREDIT',
          pending: false,
          timeoutMs: null,
          note: null,
        },
        ...{ debitAccountId: FUNDING, creditAccountId: walletId(tenant), amountNanos: CREDIT_NANOS },
      });
    }
  }

  pass(ms: number): Promise<void> {
    return this.world.runUntil(this.world.now + ms);
  }

  async step(step: Step): Promise<void> {
    const { servers, market, world } = this;
    const server = 'process' in step ? servers.all[step.process % servers.all.length] : undefined;
    if (step.kind === 'call' && server) this.calls.issue(server, step);
    if (step.kind === 'transfer' && server) this.desk.step(server, step);
    if (step.kind === 'pause' && server) server.process.pausedUntil = Math.max(server.process.pausedUntil, world.now + step.ms);
    if (step.kind === 'faults') servers.faultPercent = step.percent;
    if (step.kind === 'faults' || step.kind === 'pause' || step.kind === 'crash') servers.isQuiet = false;
    if (step.kind === 'crash' && server?.process.alive && servers.alive.length > 1) server.process.alive = false;
    if (step.kind === 'follow') market.follow(step.right, step.samePlan);
    if (step.kind === 'revoke') market.revoke(step.caller);
    if (step.kind === 'change') this.change(step.of, step.amount, step.hard);
    if (step.kind === 'limit') {
      this.limit(step);
      if (!step.isHasty) await this.pass(500);
    }
  }

  private limit({ measure, amount, subject = 'TENANT', number = 0, window = 'MONTH', burstUnits = null, hard = true }: LimitStep): void {
    const hasBursts = burstUnits !== null && measure === 'UNITS';
    const kind = {
      ...{ subject, subjectId: this.market.subjectOf(subject, number), measure },
      window: measure === 'CONCURRENCY' ? null : hasBursts ? ('MINUTE' as const) : window,
      burstUnits: hasBursts ? BigInt(burstUnits) : null,
    };
    // A burst's amount is per minute, which is long here, and not nothing.
    const terms = { amount: BigInt(hasBursts ? Math.max(1, amount) * 60 : amount), hard: hard || measure === 'CONCURRENCY' || hasBursts };
    const { limits } = this.books;
    limits.set(kind, terms, this.announced());
  }

  private change(of: number, amount: number | null, hard: boolean): void {
    const inForce = this.books.limits.all.filter(({ isRemoved }) => !isRemoved);
    const limit = inForce[of % Math.max(1, inForce.length)];
    if (!limit) return;
    const isHard = hard || limit.measure === 'CONCURRENCY' || limit.burstUnits !== null;
    const terms = amount === null ? null : { amount: BigInt(limit.burstUnits === null ? amount : Math.max(1, amount) * 60), hard: isHard };
    this.books.limits.change(limit, terms, this.announced());
  }

  private announced(): () => boolean {
    return this.servers.announce('two');
  }

  summary(): string {
    const records = [...this.books.records.values()].map(({ id, units, amountNanos }) => `${id} ${units} ${amountNanos}`);
    const transfers = [...this.books.ledger.transfers.values()].map(({ id, phase, amountNanos }) => `${id} ${phase} ${amountNanos}`);
    const { acknowledged } = this.calls;
    return `${acknowledged.size} calls were answered by ${this.world.now} ms: ${[...records, ...transfers].join(', ')}`;
  }

  /** Faults end, what stood still goes on; then nothing may be left over, and the sums must agree. */
  async finish(): Promise<string[]> {
    this.servers.faultPercent = 0;
    const { books, calls, desk, wrong } = this;
    for (let passedMs = 0; passedMs < PERIOD_MS + 10 * LEASE_MS; passedMs += LEASE_MS) {
      await this.pass(LEASE_MS);
      if (passedMs > 0 && this.leftOver().length === 0) break;
    }
    wrong.push(...calls.wrong, ...desk.wrong, ...this.leftOver(), ...unconforming(calls.letIn, books.limits.all));
    this.checkClose();
    this.checkPrices();
    const keys = [...books.records.values()].flatMap(({ keyed }) => keyed ?? []);
    if (new Set(keys).size !== keys.length) wrong.push('a key was billed twice');
    return [...new Set(wrong)];
  }

  /** What has no end, is leased or held. */
  private leftOver(): string[] {
    const { books, calls, desk, servers } = this;
    const wrong = servers.isQuiet ? books.requests.lost() : [];
    if (calls.unresolved > 0) wrong.push(`${calls.unresolved} calls have no end`);
    if (desk.unresolved > 0) wrong.push(`${desk.unresolved} transfers have no end`);
    for (const [name, { leased }] of books.counters) if (leased !== 0n) wrong.push(`counter ${name} has ${leased} leased for ever`);
    for (const { id, leased } of books.limits.counters.values())
      if (leased !== 0n) wrong.push(`counter ${id} has ${leased} leased for ever`);
    for (const [id, { held }] of books.ledger.accounts) if (held !== 0n) wrong.push(`${id} holds ${held} for ever`);
    return wrong;
  }

  private checkClose(): void {
    const { books } = this;
    const period = books.period();
    books.closeDue();
    for (const { period: of } of books.records.values()) {
      if (of !== period && !books.ledger.closed.has(of)) this.wrong.push(`the period ${of} cannot be closed`);
    }
    books.ledger.expire();
    for (const transfer of books.ledger.transfers.values()) {
      if (transfer.phase === 'PENDING' && books.ledger.isExpired(transfer) && !books.ledger.endOf(transfer.id))
        this.wrong.push(`${transfer.id} is pending past its end`);
    }
    this.wrong.push(...books.broken());
  }

  /** However calls were cut and ordered, their sum is the price of their sum, and what was charged. */
  private checkPrices(): void {
    const { records, ledger, counters } = this.books;
    const bySubscription = new Map<string, bigint>();
    const byListing = new Map<string, { sum: bigint; plans: Set<string | null> }>();
    for (const { key, period, amountNanos } of records.values()) {
      const listing = `${key.consumerTenantId}:${key.listingId}:${period}`;
      const known = byListing.get(listing) ?? { sum: 0n, plans: new Set() };
      byListing.set(listing, { sum: known.sum + amountNanos, plans: known.plans.add(key.terms?.planVersionId ?? null) });
      const subscription = `${key.subscriptionId}:${period}`;
      bySubscription.set(subscription, (bySubscription.get(subscription) ?? 0n) + amountNanos);
    }
    for (const [name, sum] of bySubscription) {
      const charged = ledger.charged.get(name)?.amount ?? 0n;
      if (charged !== sum) this.wrong.push(`${name} was charged ${charged} for ${sum}`);
    }
    for (const [name, { sum, plans }] of byListing) {
      const terms = this.market.termsOf([...plans][0] ?? null);
      const used = counters.get(name)?.used ?? 0n;
      if (plans.size === 1 && sum !== priceOf(terms, used)) this.wrong.push(`${name} was charged ${sum} for ${used} units`);
    }
  }
}
