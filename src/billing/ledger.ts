/**
 * The one way to write a transfer outside of a settlement. A transfer is POSTED at once, or PENDING: then it reserves its amount until another
 * posts it, in full or in part, voids it, or lets it expire. Each function is for an open transaction of the system role and undoes nothing: a
 * refusal must end the transaction. Its id is the caller's: the same again, with the same content, answers the transfer that there is.
 *
 * A transfer is written before its accounts are locked, in id order. So whoever meets another's id, pending transfer or reversal waits for its
 * end without holding an account, and so does whoever meets the closing of a period. `rules.ts` lists what refuses.
 */
import type { Tx } from '../base/database.ts';
import { newId } from '../base/ids.ts';
import type { AccountKind } from '../generated/prisma/client.ts';
import { accountFacts, move } from './accounts.ts';
import { checkForm } from './form.ts';
import { refused } from './rules.ts';
import { commissionsOf, insertExpiries, insertTransfer, readTransfer, type TransferRow } from './transfers.ts';

/** The kinds that are written here, and the accounts that each goes from and to. */
const ENDS = {
  CREDIT: [['FUNDING', 'WALLET']],
  ADJUSTMENT: [
    ['FUNDING', 'WALLET'],
    ['WALLET', 'FUNDING'],
  ],
  PAYOUT: [['PUBLISHER_PAYABLE', 'PAYOUT_CLEARING']],
} as const satisfies Record<string, readonly (readonly [AccountKind, AccountKind])[]>;

export type NewTransfer = {
  id: string;
  kind: keyof typeof ENDS;
  debitAccountId: string;
  creditAccountId: string;
  /** 1 to 10^18. */
  amountNanos: bigint;
  /** Reserved only, until it is posted, voided or, after `timeoutMs` (1,000 to 2^31 − 1; null: never), expires. */
  pending: boolean;
  timeoutMs: number | null;
  /** At most 200 characters. */
  note: string | null;
};
export type Posting = { id: string; pendingId: string; amountNanos: bigint | null; note: string | null };
export type Voiding = Omit<Posting, 'amountNanos'>;
export type Reversing = { id: string; reversesId: string; note: string | null };

/**
 * Writes a transfer, posted or pending.
 * @throws BAD_USER_INPUT (id, amountNanos, timeoutMs, note), then by rule: IDEMPOTENCY_CONFLICT, SAME_ACCOUNT, ACCOUNT_NOT_FOUND (debit, then
 * credit), CURRENCY_DIFFERS, ACCOUNTS_DO_NOT_FIT, PERIOD_CLOSED (SQLSTATE MC003), EXCEEDS_BALANCE
 */
export async function createTransfer(tx: Tx, request: NewTransfer): Promise<TransferRow> {
  const { id, kind, debitAccountId, creditAccountId, amountNanos, pending, timeoutMs, note } = request;
  checkForm(request);
  const phase = pending ? 'PENDING' : 'POSTED';
  const wanted = { kind, phase, debitAccountId, creditAccountId, amountNanos, timeoutMs, note } as const;
  const existing = await readTransfer(tx, { id });
  if (existing) return sameAs(existing, wanted);
  if (debitAccountId === creditAccountId) throw refused('SAME_ACCOUNT', { field: 'creditAccountId' });
  const accounts = await accountFacts(tx, [debitAccountId, creditAccountId]);
  const [debit, credit] = [accounts.get(debitAccountId), accounts.get(creditAccountId)];
  if (!debit) throw refused('ACCOUNT_NOT_FOUND', { field: 'debitAccountId' });
  if (!credit) throw refused('ACCOUNT_NOT_FOUND', { field: 'creditAccountId' });
  if (debit.currency !== credit.currency) throw refused('CURRENCY_DIFFERS', { given: credit.currency, expected: debit.currency });
  if (!ENDS[kind].some(([from, to]) => from === debit.kind && to === credit.kind)) {
    const expected = ENDS[kind].map(([from, to]) => `${from} to ${to}`).join(', or ');
    throw refused('ACCOUNTS_DO_NOT_FIT', { given: `${debit.kind} to ${credit.kind}`, expected });
  }
  const tenantOf = (side: AccountKind) => [debit, credit].find((account) => account.kind === side)?.tenantId ?? null;
  const sides = { consumerTenantId: tenantOf('WALLET'), publisherTenantId: tenantOf('PUBLISHER_PAYABLE') };
  const added = await insertTransfer(tx, {
    ...{ ...wanted, ...sides, id, batchId: id, currency: debit.currency, pendingId: null, reversesId: null },
  });
  if (!added) return sameAs(await known(tx, id), wanted);
  const [postedNanos, pendingNanos] = pending ? [0n, amountNanos] : [amountNanos, 0n];
  await move(tx, [{ debitAccountId, creditAccountId, postedNanos, pendingNanos }]);
  return added;
}

/**
 * Posts a pending transfer, in full or `amountNanos` of it; the rest is released.
 * @throws BAD_USER_INPUT (id, amountNanos, note), then by rule: IDEMPOTENCY_CONFLICT, PENDING_NOT_FOUND, NOT_PENDING, EXCEEDS_PENDING_AMOUNT,
 * PERIOD_CLOSED (SQLSTATE MC003), ALREADY_POSTED, ALREADY_VOIDED, PENDING_EXPIRED
 */
export async function postTransfer(tx: Tx, request: Posting): Promise<TransferRow> {
  checkForm(request);
  return resolve(tx, 'POST_PENDING', request);
}

/**
 * Releases what a pending transfer reserves; the entry has its amount.
 * @throws BAD_USER_INPUT (id, note), then by rule: IDEMPOTENCY_CONFLICT, PENDING_NOT_FOUND, NOT_PENDING, PERIOD_CLOSED (SQLSTATE MC003),
 * ALREADY_POSTED, ALREADY_VOIDED, PENDING_EXPIRED
 */
export async function voidTransfer(tx: Tx, request: Voiding): Promise<TransferRow> {
  checkForm(request);
  return resolve(tx, 'VOID_PENDING', { ...request, amountNanos: null });
}

const RESOLVED = { POST_PENDING: 'ALREADY_POSTED', VOID_PENDING: 'ALREADY_VOIDED' } as const;

async function resolve(tx: Tx, phase: keyof typeof RESOLVED, { id, pendingId, amountNanos, note }: Posting): Promise<TransferRow> {
  const existing = await readTransfer(tx, { id });
  const pending = await readTransfer(tx, { id: pendingId });
  const amount = amountNanos ?? pending?.amountNanos ?? 0n;
  const wanted = { phase, pendingId, amountNanos: amount, note };
  if (existing) return sameAs(existing, wanted);
  if (!pending) throw refused('PENDING_NOT_FOUND', { field: 'pendingId' });
  if (pending.phase !== 'PENDING') throw refused('NOT_PENDING', { field: 'pendingId', given: pending.phase, expected: 'PENDING' });
  if (amount > pending.amountNanos) {
    throw refused('EXCEEDS_PENDING_AMOUNT', { field: 'amountNanos', given: `${amount}`, expected: `1 to ${pending.amountNanos}` });
  }
  const added = await insertTransfer(tx, { ...pending, ...wanted, id, timeoutMs: null });
  if (!added) {
    const first = await readTransfer(tx, { id });
    if (first) return sameAs(first, wanted);
    const won = (await readTransfer(tx, { pendingId }))?.phase;
    throw refused(won === 'POST_PENDING' || won === 'VOID_PENDING' ? RESOLVED[won] : 'PENDING_EXPIRED', { field: 'pendingId' });
  }
  if (pending.expiresAt && pending.expiresAt <= added.createdAt) throw refused('PENDING_EXPIRED', { field: 'pendingId' });
  await move(tx, [{ ...pending, postedNanos: phase === 'POST_PENDING' ? amount : 0n, pendingNanos: -pending.amountNanos }]);
  return added;
}

/** Ends pending transfers past their expiry and releases what they reserve, at most 500 at once; how many. */
export async function expireTransfers(tx: Tx): Promise<number> {
  const ended = await insertExpiries(tx);
  if (ended.length > 0)
    await move(
      tx,
      ended.map((row) => ({ ...row, postedNanos: 0n, pendingNanos: -row.amountNanos })),
    );
  return ended.length;
}

/**
 * Posts the opposite of a transfer that was posted, in full, in the month that it is now. With a charge goes what is left of its commission, so
 * that the consumer has all back and the publisher gives what it got; units that were used stay used. A commission alone can be reversed too.
 * @throws BAD_USER_INPUT (id, note), then by rule: IDEMPOTENCY_CONFLICT, TRANSFER_NOT_FOUND, NOT_REVERSIBLE, PERIOD_CLOSED (SQLSTATE MC003),
 * ALREADY_REVERSED, EXCEEDS_BALANCE
 */
export async function reverseTransfer(tx: Tx, { id, reversesId, note }: Reversing): Promise<TransferRow> {
  checkForm({ id, note });
  const wanted = { reversesId, note };
  const existing = await readTransfer(tx, { id });
  if (existing) return sameAs(existing, wanted);
  const original = await readTransfer(tx, { id: reversesId });
  if (!original) throw refused('TRANSFER_NOT_FOUND', { field: 'reversesId' });
  const posted = original.phase === 'POSTED' || original.phase === 'POST_PENDING';
  if (!posted || original.kind === 'REVERSAL') {
    throw refused('NOT_REVERSIBLE', { field: 'reversesId', given: posted ? original.kind : original.phase });
  }
  const opposite = (of: TransferRow, own: string): Promise<TransferRow | null> =>
    insertTransfer(tx, {
      ...{ ...of, id: own, batchId: id, kind: 'REVERSAL', phase: 'POSTED', reversesId: of.id, pendingId: null, timeoutMs: null, note },
      debitAccountId: of.creditAccountId,
      creditAccountId: of.debitAccountId,
    });
  const added = await opposite(original, id);
  if (!added) {
    const first = await readTransfer(tx, { id });
    if (first) return sameAs(first, wanted);
    throw refused('ALREADY_REVERSED', { field: 'reversesId' });
  }
  const parts = [added];
  for (const commission of original.kind === 'CHARGE' ? await commissionsOf(tx, original) : []) {
    const part = await opposite(commission, newId());
    if (part) parts.push(part);
  }
  await move(
    tx,
    parts.map((part) => ({ ...part, postedNanos: part.amountNanos, pendingNanos: 0n })),
  );
  return added;
}

async function known(tx: Tx, id: string): Promise<TransferRow> {
  const row = await readTransfer(tx, { id });
  if (!row) throw new Error(`transfer ${id} is neither new nor there`);
  return row;
}

/**
 * The existing transfer where it says what was wanted.
 * @throws IDEMPOTENCY_CONFLICT, naming the first field that differs; `direction`: the accounts are swapped; `id`: it is another operation's
 */
function sameAs(existing: TransferRow, wanted: Partial<TransferRow>): TransferRow {
  const differs = (Object.keys(wanted) as (keyof TransferRow)[]).find((field) => existing[field] !== wanted[field]);
  if (differs === undefined) return existing;
  const isResolution = existing.pendingId !== null || wanted.phase === 'POST_PENDING' || wanted.phase === 'VOID_PENDING';
  const swapped = existing.debitAccountId === wanted.creditAccountId && existing.creditAccountId === wanted.debitAccountId;
  const field = differs === 'phase' && isResolution ? 'id' : differs === 'debitAccountId' && swapped ? 'direction' : differs;
  throw refused('IDEMPOTENCY_CONFLICT', { field });
}
