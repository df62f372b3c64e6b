import { createHash } from 'node:crypto';
import type { Tx } from '../base/database.ts';
import { badInput } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import { accountId } from './accounts.ts';
import { checkForm } from './form.ts';
import { createTransfer } from './ledger.ts';
import type { TransferRow } from './transfers.ts';

export type CreditRequest = { tenantId: string; amountNanos: bigint; note: string | null; idempotencyKey: string };

/** Checks what can be told of a request alone: the key, then as `checkForm`. @throws BAD_USER_INPUT */
export function checkCredit({ amountNanos, note, idempotencyKey }: Omit<CreditRequest, 'tenantId'>): void {
  // Half a surrogate is U+FFFD to the hash: two keys would be one.
  if (idempotencyKey.length < 1 || idempotencyKey.length > LIMITS.idempotencyKeyLength || !idempotencyKey.isWellFormed()) {
    throw badInput('idempotencyKey', `idempotencyKey must have 1 to ${LIMITS.idempotencyKeyLength} characters.`);
  }
  checkForm({ id: transferIdOf(idempotencyKey), amountNanos, note });
}

/**
 * Adds prepaid credit: platform's funding → tenant's wallet. The key is the transfer's id, so the same key adds once.
 * Its form is checked by `checkCredit`, before its tenant is looked up; then as `createTransfer` does.
 * @throws IDEMPOTENCY_CONFLICT
 */
export async function addCredit(tx: Tx, currency: string, request: CreditRequest): Promise<TransferRow> {
  const { tenantId, amountNanos, note, idempotencyKey } = request;
  const { id: creditAccountId } = await accountId(tx, 'WALLET', tenantId, currency);
  const { id: debitAccountId } = await accountId(tx, 'FUNDING', null, currency);
  const id = transferIdOf(idempotencyKey);
  return createTransfer(tx, { id, kind: 'CREDIT', debitAccountId, creditAccountId, amountNanos, pending: false, timeoutMs: null, note });
}

/** A version-8 UUID (RFC 9562) from the SHA-256 of the key, in a name space of its own. */
function transferIdOf(idempotencyKey: string): string {
  const hash = createHash('sha256').update(`mercato.credit\0${idempotencyKey}`).digest();
  hash[6] = ((hash[6] ?? 0) & 0x0f) | 0x80;
  hash[8] = ((hash[8] ?? 0) & 0x3f) | 0x80;
  const hex = hash.toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`;
}
