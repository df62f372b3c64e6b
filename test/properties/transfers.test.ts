import { array, assert, asyncProperty, constant, constantFrom, nat, oneof, record } from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { asSystem } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import type { TransferEvent, TransferView } from '../../src/billing/billing.ts';
import { CLEARING, FUNDING, Ledger, PAYABLE, REVENUE, type Transfer, walletId } from '../simulation/ledger.ts';
import { broken, type Core, openCore, type Process, type Right } from '../support/core.ts';
import { charged, event, refusalOf } from '../support/ledger.ts';

const START = Date.parse('2026-11-15T12:00:00Z');
const PERIOD = '2026-11';

let core: Core;
let server: Process;
beforeAll(async () => {
  core = await openCore(new Date(START).toISOString());
  server = await core.process();
});
afterAll(() => core[Symbol.asyncDispose]());

/** Mostly a new id, else that of a request that was sent before, whatever came of it. */
const as = oneof({ weight: 4, arbitrary: constant(null) }, { weight: 1, arbitrary: nat(99) });
/** Back from the newest, which most are about; 0: nothing that there is. */
const of = oneof({ weight: 3, arbitrary: constantFrom(1, 1, 2) }, { weight: 1, arbitrary: nat(99) });
const create = record({
  ...{ do: constantFrom('create' as const), what: constantFrom('payout' as const, 'up' as const, 'down' as const), as },
  ...{
    nanos: constantFrom(1n, 700n, 3_000n, 8_500n),
    pending: constantFrom(true, true, false),
    timeoutMs: constantFrom(1_000, 1_000, null),
  },
});
const action = oneof(
  { weight: 4, arbitrary: create },
  { weight: 4, arbitrary: record({ do: constantFrom('post' as const), of, as, nanos: constantFrom(null, 699n, 701n) }) },
  { weight: 3, arbitrary: record({ do: constantFrom('void' as const, 'reverse' as const, 'reverse' as const), of, as }) },
  { weight: 1, arbitrary: record({ do: constantFrom('again' as const), of }) },
  { weight: 2, arbitrary: record({ do: constantFrom('wait' as const), ms: constantFrom(1_000, 1_000, 999, 1) }) },
  { weight: 1, arbitrary: record({ do: constantFrom('sweep' as const) }) },
);
type Action = typeof action extends { generate(...args: never[]): { value: infer T } } ? T : never;

/** The same, asked of the database and of the model. */
type Request = { id: string; ask(): Promise<TransferView>; model(): Transfer };

/** What a caller of the API calls what the ledger was asked for. */
const ASKED: Record<string, string> = { debitAccountId: 'tenantId', creditAccountId: 'tenantId', phase: 'pending' };

/** One schedule of requests, asked of the ledger in SQL and of the simulation's. */
class Schedule {
  private now = START;
  private readonly model = new Ledger(
    () => this.now,
    () => PERIOD,
  );
  private readonly sent: Request[] = [];
  /** Ids in the database, and in the model where they differ. */
  private readonly ids = new Map<string, string>();
  private readonly right: Right;
  private readonly before = new Map<string, bigint>();

  constructor(right: Right) {
    this.right = right;
  }

  /** What `charged` came to. */
  async begin(): Promise<void> {
    const { consumerTenantId, subscriptionId } = this.right;
    const wallet = walletId(consumerTenantId);
    this.model.create({ ...event(10_000n), kind: 'CREDIT', debitAccountId: FUNDING, creditAccountId: wallet });
    const rows = await asSystem(
      core.db,
      (tx) => tx.$queryRaw<{ id: string; kind: string }[]>`
        select id, kind::text kind from transfer where consumer_tenant_id = ${consumerTenantId}::uuid or publisher_tenant_id = ${this.right.publisherTenantId}::uuid`,
    );
    const idOf = (kind: string) => rows.find((row) => row.kind === kind)?.id ?? '';
    this.model.charge(idOf('CHARGE'), consumerTenantId, subscriptionId ?? '', PERIOD, 10_000n);
    this.ids.set(idOf('CHARGE'), idOf('CHARGE')).set(idOf('COMMISSION'), `${idOf('CHARGE')}-commission`);
    for (const { account, balance } of await this.accounts()) this.before.set(account, balance - this.model.account(account).balance);
  }

  async step(given: Action): Promise<void> {
    if (given.do === 'wait') {
      this.now += given.ms;
      await core.setClock(new Date(this.now).toISOString());
    } else if (given.do === 'sweep') await this.sweep();
    else {
      const request = given.do === 'again' ? this.sent.at(-given.of) : this.requestOf(given);
      if (request) await this.send(request);
    }
    await this.compare();
  }

  private requestOf(given: Extract<Action, { as: number | null }>): Request {
    const id = (given.as === null ? null : this.sent[given.as % Math.max(1, this.sent.length)]?.id) ?? newId();
    const note = null;
    if (given.do === 'create') return this.created(id, given);
    const known = [...this.ids.keys()];
    const name = known[known.length - (given.of % (known.length + 1))] ?? newId();
    const named = this.ids.get(name) ?? name;
    if (given.do === 'reverse') {
      const ask = () => core.billing.reverseTransfer({ id, reversesId: name, note });
      return { id, ask, model: () => this.model.reverse({ id, reversesId: named, note }) };
    }
    if (given.do === 'void') {
      const ask = () => core.billing.voidTransfer({ id, pendingId: name, note });
      return { id, ask, model: () => this.model.resolve('VOID_PENDING', { id, pendingId: named, note }) };
    }
    const amountNanos = given.do === 'post' ? given.nanos : null;
    const ask = () => core.billing.postTransfer({ id, pendingId: name, amountNanos, note });
    return { id, ask, model: () => this.model.resolve('POST_PENDING', { id, pendingId: named, amountNanos, note }) };
  }

  private created(id: string, { what, nanos, pending, timeoutMs }: Action & { do: 'create' }): Request {
    const more: Partial<TransferEvent> = { id, pending, timeoutMs: pending ? timeoutMs : null };
    if (what !== 'payout') Object.assign(more, { kind: 'ADJUSTMENT', direction: what === 'up' ? 'IN' : 'OUT' });
    const asked = event(nanos, more);
    const { consumerTenantId, publisherTenantId } = this.right;
    const wallet = walletId(consumerTenantId);
    const ends = { payout: [PAYABLE, CLEARING], up: [FUNDING, wallet], down: [wallet, FUNDING] }[what] as [string, string];
    return {
      id,
      ask: () => core.billing.createTransfer({ id: what === 'payout' ? publisherTenantId : consumerTenantId }, asked),
      model: () => inAskedWords(() => this.model.create({ ...asked, debitAccountId: ends[0], creditAccountId: ends[1] })),
    };
  }

  private async send(request: Request): Promise<void> {
    if (!this.sent.includes(request)) this.sent.push(request);
    let due: Transfer | undefined;
    let answer: TransferView | undefined;
    const refusal = await refusalOf(async () => {
      due = request.model();
    });
    const said = await refusalOf(async () => {
      answer = await request.ask();
    });
    expect(said).toBe(refusal);
    if (!due || !answer) return;
    const { id, kind, phase, amountNanos, pendingId, reversesId } = due;
    const { nanos } = answer.amount;
    expect({ ...answer, amountNanos: nanos, reversesId: this.ids.get(answer.reversesId ?? '') ?? null }).toMatchObject({
      ...{ id, kind, phase, amountNanos, pendingId, reversesId },
    });
    this.ids.set(id, id);
  }

  private async sweep(): Promise<void> {
    await core.billing.expireTransfers();
    this.model.expire();
  }

  private async compare(): Promise<void> {
    for (const { account, balance, debits, credits } of await this.accounts()) {
      const due = this.model.account(account);
      const balanceDue = due.balance + (this.before.get(account) ?? 0n);
      expect([account, balance, debits, credits]).toEqual([account, balanceDue, due.pendingDebits, due.pendingCredits]);
    }
  }

  /** Of the two tenants and the marketplace, by the names that the model gives them. */
  private async accounts() {
    const { consumerTenantId, publisherTenantId } = this.right;
    const rows = await asSystem(
      core.db,
      (tx) => tx.$queryRaw<{ kind: string; balance: bigint; debits: bigint; credits: bigint }[]>`
        select kind::text kind, balance_nanos::bigint balance, pending_debits_nanos::bigint debits, pending_credits_nanos::bigint credits
          from account where tenant_id is null or tenant_id = any (${[consumerTenantId, publisherTenantId]}::uuid[])`,
    );
    const names: Record<string, string> = { WALLET: walletId(consumerTenantId), PLATFORM_REVENUE: REVENUE };
    return rows.map(({ kind, ...sums }) => ({ account: names[kind] ?? kind, ...sums }));
  }

  /** Nothing stays pending, for the next schedule shares the platform's accounts. */
  async finish(): Promise<void> {
    for (const id of this.ids.keys()) {
      const transfer = this.model.transfers.get(id);
      const isOpen = transfer?.phase === 'PENDING' && !this.model.endOf(id) && !this.model.isExpired(transfer);
      if (!isOpen) continue;
      const request = { id: newId(), pendingId: id, note: null };
      const ask = () => core.billing.voidTransfer(request);
      await this.send({ id: request.id, ask, model: () => this.model.resolve('VOID_PENDING', request) });
    }
    await this.sweep();
    await this.compare();
    expect(this.model.broken()).toEqual([]);
    expect(await broken(core.db)).toEqual([]);
  }
}

function inAskedWords<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    const { data } = error as { data?: { field?: string } };
    if (data?.field !== undefined) data.field = ASKED[data.field] ?? data.field;
    throw error;
  }
}

test('the ledger answers and comes to what the simulated one does, after every step', { timeout: 120_000 }, async () => {
  await assert(
    asyncProperty(array(action, { minLength: 20, maxLength: 40 }), async (actions) => {
      await core.setClock(new Date(START).toISOString());
      const schedule = new Schedule(await charged(core, server));
      await schedule.begin();
      for (const step of actions) await schedule.step(step);
      await schedule.finish();
    }),
    { numRuns: 8, endOnFailure: true },
  );
});
