import { createHash } from 'node:crypto';
import type { Tx } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import { accountId, changeAccounts } from './accounts.ts';
import { findTransfer, insertTransfers, type TransferView } from './transfers.ts';

export type CreditRequest = { tenantId: string; amountNanos: bigint; note: string | null; idempotencyKey: string };

/**
 * Adds prepaid credit: platform's funding → tenant's wallet. The key is the transfer's id, so the same key adds once.
 * Checks the amount, the note, the key's length, then whether the key was used for something else.
 * @throws BAD_USER_INPUT, IDEMPOTENCY_CONFLICT
 */
export async function addCredit(tx: Tx, currency: string, request: CreditRequest): Promise<TransferView> {
  const { tenantId, amountNanos, note, idempotencyKey } = request;
  if (amountNanos < 1n || amountNanos > LIMITS.moneyNanosMax) {
    throw badInput('amountNanos', `amountNanos must be 1 to ${LIMITS.moneyNanosMax}.`, { given: amountNanos.toString() });
  }
  if (note !== null && (note.length > 200 || note.includes('\0') || !note.isWellFormed())) {
    throw badInput('note', 'note may have at most 200 characters, and no NUL.', { given: `${note.length} characters` });
  }
  if (idempotencyKey.length < 1 || idempotencyKey.length > LIMITS.idempotencyKeyLength) {
    throw badInput('idempotencyKey', `idempotencyKey must have 1 to ${LIMITS.idempotencyKeyLength} characters.`);
  }
  const id = transferIdOf(idempotencyKey);
  const { id: walletId } = await accountId(tx, 'WALLET', tenantId, currency);
  const { id: fundingId } = await accountId(tx, 'FUNDING', null, currency);
  const [{ period } = { period: '' }] = await tx.$queryRaw<{ period: string }[]>`select mercato_period(mercato_now()) period`;
  const added = await insertTransfers(tx, [
    {
      id,
      batchId: id,
      kind: 'CREDIT',
      debitAccountId: fundingId,
      creditAccountId: walletId,
      amountNanos,
      currency,
      period,
      consumerTenantId: tenantId,
      publisherTenantId: null,
      subscriptionId: null,
      note,
    },
  ]);
  if (added === 1) {
    await changeAccounts(tx, [
      { accountId: fundingId, balanceNanos: -amountNanos, heldNanos: 0n },
      { accountId: walletId, balanceNanos: amountNanos, heldNanos: 0n },
    ]);
  }
  const transfer = await findTransfer(tx, tenantId, id);
  if (transfer?.kind !== 'CREDIT' || transfer.amount.nanos !== amountNanos || transfer.note !== note) {
    throw new MercatoError('IDEMPOTENCY_CONFLICT', 'The idempotency key was used for another credit.', { field: 'idempotencyKey' });
  }
  return transfer;
}

/** A version-8 UUID (RFC 9562) from the SHA-256 of the key, in a name space of its own. */
function transferIdOf(idempotencyKey: string): string {
  const hash = createHash('sha256').update(`mercato.credit\0${idempotencyKey}`).digest();
  hash[6] = ((hash[6] ?? 0) & 0x0f) | 0x80;
  hash[8] = ((hash[8] ?? 0) & 0x3f) | 0x80;
  const hex = hash.toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`;
}
