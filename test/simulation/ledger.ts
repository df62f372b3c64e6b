import { checkForm } from '../../src/billing/form.ts';
import type { NewTransfer, Posting, Reversing, Voiding } from '../../src/billing/ledger.ts';
import { refused } from '../../src/billing/rules.ts';
import { COMMISSION_BPS } from './market.ts';

export type Account = { balance: bigint; held: bigint; pendingDebits: bigint; pendingCredits: bigint };
type Phase = 'POSTED' | 'PENDING' | 'POST_PENDING' | 'VOID_PENDING' | 'EXPIRE_PENDING';
export type Transfer = {
  id: string;
  batchId: string;
  kind: NewTransfer['kind'] | 'CHARGE' | 'COMMISSION' | 'REVERSAL';
  phase: Phase;
  debitAccountId: string;
  creditAccountId: string;
  amountNanos: bigint;
  period: string;
  pendingId: string | null;
  reversesId: string | null;
  timeoutMs: number | null;
  note: string | null;
  createdAt: number;
};
type Movement = { debitAccountId: string; creditAccountId: string; posted: bigint; pending: bigint };

export const walletId = (tenantId: string) => `WALLET ${tenantId}`;
export const PAYABLE = 'PUBLISHER_PAYABLE';
export const REVENUE = 'REVENUE';
export const FUNDING = 'FUNDING';
export const CLEARING = 'PAYOUT_CLEARING';
const PHASES = { POST_PENDING: 'ALREADY_POSTED', VOID_PENDING: 'ALREADY_VOIDED', EXPIRE_PENDING: 'PENDING_EXPIRED' } as const;

/** A violated rule of the database, as its driver says it. */
export const violated = (code: string) => Object.assign(new Error(`refused ${code}`), { severity: 'ERROR', code });

/** `transfer`, `account`, `subscription_charge` and `closed_period`: what the transactions of `ledger.ts` come to, one after the other. */
export class Ledger {
  readonly accounts = new Map<string, Account>();
  readonly transfers = new Map<string, Transfer>();
  /** By subscription and period. */
  readonly charged = new Map<string, { amount: bigint; commission: bigint }>();
  /** When each was closed, and with how many transfers. */
  readonly closed = new Map<string, { at: number; transfers: number }>();
  private readonly now: () => number;
  private readonly period: () => string;
  private isChecked = true;

  constructor(now: () => number, period: () => string) {
    this.now = now;
    this.period = period;
  }

  account(id: string): Account {
    const account = this.accounts.get(id) ?? { balance: 0n, held: 0n, pendingDebits: 0n, pendingCredits: 0n };
    this.accounts.set(id, account);
    return account;
  }

  /** What an account can still give; null: it may go below zero. */
  available(id: string): bigint | null {
    const { balance, held, pendingDebits } = this.account(id);
    return id.startsWith('WALLET') || id === PAYABLE ? balance - held - pendingDebits : null;
  }

  create(request: NewTransfer): Transfer {
    checkForm(request);
    const { id, kind, debitAccountId, creditAccountId, amountNanos, pending, timeoutMs, note } = request;
    const phase = pending ? ('PENDING' as const) : ('POSTED' as const);
    const wanted = { kind, phase, debitAccountId, creditAccountId, amountNanos, timeoutMs, note };
    const existing = this.transfers.get(id);
    if (existing) return sameAs(existing, wanted);
    this.checkPeriod();
    const [posted, reserved] = pending ? [0n, amountNanos] : [amountNanos, 0n];
    this.move([{ debitAccountId, creditAccountId, posted, pending: reserved }]);
    return this.write({ ...wanted, id, batchId: id, pendingId: null, reversesId: null });
  }

  resolve(phase: 'POST_PENDING' | 'VOID_PENDING', request: Posting | Voiding): Transfer {
    checkForm(request);
    const { id, pendingId, note } = request;
    const pending = this.transfers.get(pendingId);
    const amountNanos = ('amountNanos' in request ? request.amountNanos : null) ?? pending?.amountNanos ?? 0n;
    const wanted = { phase, pendingId, amountNanos, note };
    const existing = this.transfers.get(id);
    if (existing) return sameAs(existing, wanted);
    if (!pending) throw refused('PENDING_NOT_FOUND', { field: 'pendingId' });
    if (pending.phase !== 'PENDING') throw refused('NOT_PENDING', { field: 'pendingId' });
    if (amountNanos > pending.amountNanos) throw refused('EXCEEDS_PENDING_AMOUNT', { field: 'amountNanos' });
    this.checkPeriod();
    const won = this.endOf(pendingId)?.phase;
    if (won !== undefined && won in PHASES) throw refused(PHASES[won as keyof typeof PHASES], { field: 'pendingId' });
    if (this.isExpired(pending)) throw refused('PENDING_EXPIRED', { field: 'pendingId' });
    this.move([{ ...pending, posted: phase === 'POST_PENDING' ? amountNanos : 0n, pending: -pending.amountNanos }]);
    return this.write({ ...pending, ...wanted, id, timeoutMs: null });
  }

  reverse({ id, reversesId, note }: Reversing): Transfer {
    checkForm({ id, note });
    const existing = this.transfers.get(id);
    if (existing) return sameAs(existing, { reversesId, note });
    const original = this.transfers.get(reversesId);
    if (!original) throw refused('TRANSFER_NOT_FOUND', { field: 'reversesId' });
    const isPosted = original.phase === 'POSTED' || original.phase === 'POST_PENDING';
    if (!isPosted || original.kind === 'REVERSAL') throw refused('NOT_REVERSIBLE', { field: 'reversesId' });
    this.checkPeriod();
    if (this.reversalOf(reversesId)) throw refused('ALREADY_REVERSED', { field: 'reversesId' });
    const all = [...this.transfers.values()];
    const commissions =
      original.kind === 'CHARGE' ? all.filter((one) => one.batchId === original.batchId && one.kind === 'COMMISSION') : [];
    const reversed = [original, ...commissions.filter((one) => !this.reversalOf(one.id))];
    this.move(
      reversed.map((one) => ({
        ...{ debitAccountId: one.creditAccountId, creditAccountId: one.debitAccountId, posted: one.amountNanos, pending: 0n },
      })),
    );
    const [added] = reversed.map((one, part) =>
      this.write({
        ...{ ...one, id: part === 0 ? id : `${id}-${part}`, batchId: id, kind: 'REVERSAL', phase: 'POSTED', reversesId: one.id, note },
        ...{ debitAccountId: one.creditAccountId, creditAccountId: one.debitAccountId, pendingId: null, timeoutMs: null },
      }),
    );
    return added as Transfer;
  }

  expire(): void {
    if (this.closed.has(this.period())) throw violated('MC003');
    for (const pending of [...this.transfers.values()]) {
      if (pending.phase !== 'PENDING' || !this.isExpired(pending) || this.endOf(pending.id)) continue;
      this.move([{ ...pending, posted: 0n, pending: -pending.amountNanos }]);
      this.write({ ...pending, id: `${pending.id}-expired`, phase: 'EXPIRE_PENDING', pendingId: pending.id, timeoutMs: null, note: null });
    }
  }

  /** What a settlement comes to for one subscription and period; its holds are the caller's. */
  charge(id: string, consumerTenantId: string, subscriptionId: string, period: string, amountNanos: bigint): void {
    const name = `${subscriptionId}:${period}`;
    const known = this.charged.get(name) ?? { amount: 0n, commission: 0n };
    const amount = known.amount + amountNanos;
    const commission = (amount * COMMISSION_BPS) / 10_000n;
    this.charged.set(name, { amount, commission });
    const more = commission - known.commission;
    const base = { phase: 'POSTED' as const, batchId: id, pendingId: null, reversesId: null, timeoutMs: null, note: null, period };
    const ends = { debitAccountId: walletId(consumerTenantId), creditAccountId: PAYABLE };
    this.write({ ...base, ...ends, id, kind: 'CHARGE', amountNanos });
    this.post([{ ...ends, posted: amountNanos, pending: 0n }]);
    if (more === 0n) return;
    const taken = { debitAccountId: PAYABLE, creditAccountId: REVENUE };
    this.write({ ...base, ...taken, id: `${id}-commission`, kind: 'COMMISSION', amountNanos: more });
    this.post([{ ...taken, posted: more, pending: 0n }]);
  }

  close(period: string): void {
    this.closed.set(period, { at: this.now(), transfers: this.numberOf(period) });
  }

  endOf(pendingId: string): Transfer | undefined {
    return [...this.transfers.values()].find((one) => one.pendingId === pendingId);
  }

  private reversalOf(id: string): Transfer | undefined {
    return [...this.transfers.values()].find((one) => one.reversesId === id);
  }

  isExpired({ createdAt, timeoutMs }: Transfer): boolean {
    return timeoutMs !== null && createdAt + timeoutMs <= this.now();
  }

  private checkPeriod(): void {
    if (this.closed.has(this.period())) throw violated('MC003');
  }

  private write(row: Omit<Transfer, 'createdAt' | 'period'> & { period?: string }): Transfer {
    const written = {
      ...row,
      period: this.period(),
      ...(row.kind === 'CHARGE' || row.kind === 'COMMISSION' ? { period: row.period ?? '' } : {}),
    };
    const transfer = { ...written, createdAt: this.now() };
    this.transfers.set(row.id, transfer);
    return transfer;
  }

  /** All or nothing. */
  private move(movements: readonly Movement[]): void {
    const taken = new Map<string, bigint>();
    const take = (id: string, nanos: bigint) => taken.set(id, (taken.get(id) ?? 0n) + nanos);
    for (const { debitAccountId, creditAccountId, posted, pending } of movements) {
      take(debitAccountId, posted + pending);
      take(creditAccountId, -posted);
    }
    for (const [id, nanos] of taken) {
      const available = this.available(id);
      if (available !== null && nanos > 0n && nanos > available) throw refused('EXCEEDS_BALANCE', { field: 'amountNanos' });
    }
    this.post(movements);
  }

  private post(movements: readonly Movement[]): void {
    this.isChecked = false;
    for (const { debitAccountId, creditAccountId, posted, pending } of movements) {
      const [debit, credit] = [this.account(debitAccountId), this.account(creditAccountId)];
      debit.balance -= posted;
      credit.balance += posted;
      debit.pendingDebits += pending;
      credit.pendingCredits += pending;
    }
  }

  private numberOf(period: string): number {
    return [...this.transfers.values()].filter((one) => one.period === period).length;
  }

  broken(): string[] {
    const wrong: string[] = [];
    for (const [id, { held, pendingDebits, pendingCredits }] of this.accounts) {
      const available = this.available(id);
      if (held < 0n || pendingDebits < 0n || pendingCredits < 0n) wrong.push(`account ${id} holds or reserves less than nothing`);
      if (available !== null && available < 0n) wrong.push(`account ${id} is ${-available} short`);
    }
    if (!this.isChecked) wrong.push(...this.sums(), ...this.references());
    this.isChecked = true;
    return wrong;
  }

  /** Balances are the sums of the transfers, and what is pending those of the pending ones that have no end. */
  private sums(): string[] {
    const found = new Map([...this.accounts.keys()].map((id) => [id, { balance: 0n, pendingDebits: 0n, pendingCredits: 0n }]));
    const ended = new Set([...this.transfers.values()].map(({ pendingId }) => pendingId));
    for (const { id, phase, debitAccountId, creditAccountId, amountNanos } of this.transfers.values()) {
      const [debit, credit] = [found.get(debitAccountId), found.get(creditAccountId)];
      if (!debit || !credit) continue;
      if (phase === 'POSTED' || phase === 'POST_PENDING') {
        debit.balance -= amountNanos;
        credit.balance += amountNanos;
      } else if (phase === 'PENDING' && !ended.has(id)) {
        debit.pendingDebits += amountNanos;
        credit.pendingCredits += amountNanos;
      }
    }
    const wrong: string[] = [];
    for (const [id, { balance, pendingDebits, pendingCredits }] of this.accounts) {
      const sum = found.get(id);
      if (sum?.balance !== balance) wrong.push(`account ${id} has ${balance}, its transfers come to ${sum?.balance}`);
      if (sum?.pendingDebits !== pendingDebits || sum.pendingCredits !== pendingCredits) wrong.push(`account ${id} reserves another sum`);
    }
    if ([...this.accounts.values()].reduce((sum, { balance }) => sum + balance, 0n) !== 0n) wrong.push('the balances do not sum to zero');
    return wrong;
  }

  private references(): string[] {
    const all = [...this.transfers.values()];
    const wrong: string[] = [];
    for (const field of ['pendingId', 'reversesId'] as const) {
      const ids = all.flatMap((one) => one[field] ?? []);
      if (new Set(ids).size !== ids.length) wrong.push(`a transfer is named twice as ${field}`);
    }
    for (const { id, phase, pendingId, amountNanos } of all) {
      const reserved = pendingId === null ? amountNanos : (this.transfers.get(pendingId)?.amountNanos ?? 0n);
      if (amountNanos > reserved || (phase !== 'POST_PENDING' && amountNanos !== reserved))
        wrong.push(`${id} ends another amount than was reserved`);
    }
    for (const [period, { transfers }] of this.closed)
      if (this.numberOf(period) !== transfers) wrong.push(`something was posted into the closed ${period}`);
    return wrong;
  }
}

/** The existing transfer where it says what was wanted. */
function sameAs(existing: Transfer, wanted: Partial<Transfer>): Transfer {
  const differs = (Object.keys(wanted) as (keyof Transfer)[]).find((field) => existing[field] !== wanted[field]);
  if (differs === undefined) return existing;
  const swapped = existing.debitAccountId === wanted.creditAccountId && existing.creditAccountId === wanted.debitAccountId;
  // Which phase another operation has nobody gave.
  const isResolution = existing.pendingId !== null || wanted.phase === 'POST_PENDING' || wanted.phase === 'VOID_PENDING';
  const field = differs === 'phase' && isResolution ? 'id' : differs === 'debitAccountId' && swapped ? 'direction' : differs;
  throw refused('IDEMPOTENCY_CONFLICT', { field });
}
