import { array, assert, asyncProperty, constantFrom, nat, oneof, record } from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '../../src/base/ids.ts';
import type { TransferEvent } from '../../src/billing/billing.ts';
import { broken, type Core, openCore, type Process } from '../support/core.ts';
import { accountOf, charged, event, refusalOf } from '../support/ledger.ts';

const START = Date.parse('2026-11-15T12:00:00Z');

let core: Core;
let server: Process;
beforeAll(async () => {
  core = await openCore(new Date(START).toISOString());
  server = await core.process();
});
afterAll(() => core[Symbol.asyncDispose]());

const action = oneof(
  record({
    do: constantFrom('create' as const),
    what: constantFrom('payout' as const, 'up' as const, 'down' as const),
    nanos: constantFrom(1n, 700n, 3_000n, 8_500n),
    pending: constantFrom(true, true, false),
    timeoutMs: constantFrom(null, 1_000, 60_000),
  }),
  record({ do: constantFrom('post' as const), of: nat(99), nanos: constantFrom(null, null, 1n, 699n, 2_000n) }),
  record({ do: constantFrom('void' as const, 'reverse' as const), of: nat(99) }),
  record({ do: constantFrom('again' as const), of: nat(99) }),
  record({ do: constantFrom('wait' as const), ms: constantFrom(999, 1_000, 30_000) }),
  record({ do: constantFrom('sweep' as const) }),
);
type Action = typeof action extends { generate(...args: never[]): { value: infer T } } ? T : never;

type Side = 'wallet' | 'payable' | 'funding' | 'clearing';
type Entry = {
  id: string;
  ends: [Side, Side];
  nanos: bigint;
  state: 'POSTED' | 'PENDING' | 'RELEASED' | 'REVERSED' | 'REVERSAL' | 'RESOLVED';
  /** How a pending one ended. */
  ended?: 'ALREADY_POSTED' | 'ALREADY_VOIDED' | 'PENDING_EXPIRED';
  expiresAt: number | null;
  again(): Promise<unknown>;
};

/** The ledger as a plain list and four sums: what it would say to each request, and what it comes to. */
class Model {
  readonly entries: Entry[] = [];
  readonly balance: Record<Side, bigint> = { wallet: 0n, payable: 8_500n, funding: 0n, clearing: 0n };
  now = 0;

  /** Pending out of (0) or into (1) an account. */
  pending(side: Side, end: 0 | 1): bigint {
    return this.entries.reduce((sum, { state, ends, nanos }) => (state === 'PENDING' && ends[end] === side ? sum + nanos : sum), 0n);
  }

  exceeds(side: Side, nanos: bigint): boolean {
    return (side === 'wallet' || side === 'payable') && this.balance[side] - this.pending(side, 0) < nanos;
  }

  move([from, to]: [Side, Side], nanos: bigint): void {
    this.balance[from] -= nanos;
    this.balance[to] += nanos;
  }

  /** Why a pending transfer cannot be resolved; null: it can. */
  refusal(entry: Entry): string | null {
    if (entry.ended) return `CONFLICT ${entry.ended} pendingId`;
    if (entry.state !== 'PENDING') return 'CONFLICT NOT_PENDING pendingId';
    return this.isOver(entry) ? 'CONFLICT PENDING_EXPIRED pendingId' : null;
  }

  isOver({ expiresAt }: Entry): boolean {
    return expiresAt !== null && expiresAt <= this.now;
  }
}

class Schedule {
  private readonly model = new Model();
  private readonly consumer: string;
  private readonly publisher: string;
  private readonly before: Record<Side, bigint>;

  constructor(consumer: string, publisher: string, before: Record<Side, bigint>) {
    [this.consumer, this.publisher, this.before] = [consumer, publisher, before];
  }

  async step(given: Action): Promise<void> {
    const { model } = this;
    const entry = 'of' in given ? model.entries[given.of % Math.max(1, model.entries.length)] : undefined;
    if (given.do === 'create') await this.create(given);
    else if (given.do === 'wait') {
      model.now += given.ms;
      await core.setClock(new Date(START + model.now).toISOString());
    } else if (given.do === 'sweep') await this.sweep();
    else if (entry && given.do === 'post') await this.resolve(entry, given.nanos ?? entry.nanos, 'ALREADY_POSTED');
    else if (entry && given.do === 'void') await this.resolve(entry, entry.nanos, 'ALREADY_VOIDED');
    else if (entry && given.do === 'reverse') await this.reverse(entry);
    else await entry?.again();
    await this.compare();
  }

  private async create({ what, nanos, pending, timeoutMs }: Action & { do: 'create' }): Promise<void> {
    const { model } = this;
    const ends = { payout: ['payable', 'clearing'], up: ['funding', 'wallet'], down: ['wallet', 'funding'] }[what] as [Side, Side];
    const more: Partial<TransferEvent> = { pending, timeoutMs: pending ? timeoutMs : null };
    if (what !== 'payout') Object.assign(more, { kind: 'ADJUSTMENT', direction: what === 'up' ? 'IN' : 'OUT' });
    const made = event(nanos, more);
    const again = () => core.billing.createTransfer({ id: what === 'payout' ? this.publisher : this.consumer }, made);
    const refusal = model.exceeds(ends[0], nanos) ? 'CONFLICT EXCEEDS_BALANCE amountNanos' : 'OK';
    expect(await refusalOf(again)).toBe(refusal);
    if (refusal !== 'OK') return;
    const expiresAt = more.timeoutMs ? model.now + more.timeoutMs : null;
    model.entries.push({ id: made.id, ends, nanos, state: pending ? 'PENDING' : 'POSTED', expiresAt, again });
    if (!pending) model.move(ends, nanos);
  }

  private async resolve(entry: Entry, nanos: bigint, how: 'ALREADY_POSTED' | 'ALREADY_VOIDED'): Promise<void> {
    const { model } = this;
    const id = newId();
    const request = { id, pendingId: entry.id, note: null };
    const posts = how === 'ALREADY_POSTED';
    const again = () => (posts ? core.billing.postTransfer({ ...request, amountNanos: nanos }) : core.billing.voidTransfer(request));
    const wasPending = entry.state === 'PENDING' || entry.ended !== undefined;
    const tooMuch = posts && wasPending && nanos > entry.nanos ? 'CONFLICT EXCEEDS_PENDING_AMOUNT amountNanos' : null;
    const refusal = tooMuch ?? model.refusal(entry) ?? 'OK';
    expect(await refusalOf(again)).toBe(refusal);
    if (refusal !== 'OK') return;
    Object.assign(entry, { state: 'RESOLVED', ended: how });
    if (posts) model.move(entry.ends, nanos);
    model.entries.push({ id, ends: entry.ends, nanos, state: posts ? 'POSTED' : 'RELEASED', expiresAt: null, again });
  }

  private async reverse(entry: Entry): Promise<void> {
    const { model } = this;
    const id = newId();
    const again = () => core.billing.reverseTransfer({ id, reversesId: entry.id, note: null });
    const ends: [Side, Side] = [entry.ends[1], entry.ends[0]];
    let refusal = 'OK';
    if (entry.state === 'REVERSED') refusal = 'CONFLICT ALREADY_REVERSED reversesId';
    else if (entry.state !== 'POSTED') refusal = 'CONFLICT NOT_REVERSIBLE reversesId';
    else if (model.exceeds(ends[0], entry.nanos)) refusal = 'CONFLICT EXCEEDS_BALANCE amountNanos';
    expect(await refusalOf(again)).toBe(refusal);
    if (refusal !== 'OK') return;
    entry.state = 'REVERSED';
    model.move(ends, entry.nanos);
    model.entries.push({ id, ends, nanos: entry.nanos, state: 'REVERSAL', expiresAt: null, again });
  }

  private async sweep(): Promise<void> {
    await core.billing.expireTransfers();
    for (const entry of this.model.entries) {
      if (entry.state === 'PENDING' && this.model.isOver(entry)) Object.assign(entry, { state: 'RESOLVED', ended: 'PENDING_EXPIRED' });
    }
  }

  private async compare(): Promise<void> {
    const now = await sums(this.consumer, this.publisher);
    for (const side of ['wallet', 'payable', 'funding', 'clearing'] as const) {
      const { balance, debits, credits } = now[side];
      expect({ side, balance: balance - this.before[side], debits, credits }).toEqual({
        side,
        balance: this.model.balance[side] - (side === 'payable' ? 8_500n : 0n),
        debits: this.model.pending(side, 0),
        credits: this.model.pending(side, 1),
      });
    }
    expect(await broken(core.db)).toEqual([]);
  }

  /** Nothing stays pending, for the next schedule shares the platform's accounts. */
  async finish(): Promise<void> {
    for (const entry of [...this.model.entries]) {
      if (entry.state === 'PENDING' && !this.model.isOver(entry)) await this.resolve(entry, entry.nanos, 'ALREADY_VOIDED');
    }
    await this.sweep();
    await this.compare();
    await core.setClock(new Date(START).toISOString());
  }
}

async function sums(consumer: string, publisher: string) {
  return {
    wallet: await accountOf(core, 'WALLET', consumer),
    payable: await accountOf(core, 'PUBLISHER_PAYABLE', publisher),
    funding: await accountOf(core, 'FUNDING'),
    clearing: await accountOf(core, 'PAYOUT_CLEARING'),
  };
}

test('the ledger answers and comes to what a plain list of entries does, after every step', { timeout: 120_000 }, async () => {
  await assert(
    asyncProperty(array(action, { minLength: 10, maxLength: 30 }), async (actions) => {
      await core.setClock(new Date(START).toISOString());
      const { consumerTenantId, publisherTenantId } = await charged(core, server);
      const { wallet, payable, funding, clearing } = await sums(consumerTenantId, publisherTenantId);
      const before = { wallet: wallet.balance, payable: payable.balance, funding: funding.balance, clearing: clearing.balance };
      const schedule = new Schedule(consumerTenantId, publisherTenantId, before);
      for (const step of actions) await schedule.step(step);
      await schedule.finish();
    }),
    { numRuns: 10, interruptAfterTimeLimit: 20_000 },
  );
});
