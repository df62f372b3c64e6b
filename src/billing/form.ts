import { badInput } from '../base/errors.ts';
import { isId } from '../base/ids.ts';
import { LIMITS } from '../base/limits.ts';

type Form = { id: string; amountNanos?: bigint | null; pending?: boolean; timeoutMs?: number | null; note: string | null };

const TIMEOUT_MS = { min: 1_000, max: 2 ** 31 - 1 };

/** Checks what can be told of a request alone: id, amountNanos, timeoutMs, note. @throws BAD_USER_INPUT */
export function checkForm({ id, amountNanos, pending, timeoutMs, note }: Form): void {
  if (!isId(id)) throw badInput('id', 'id must be a UUID in lower case.', { given: id.slice(0, 40) });
  const amount = amountNanos ?? 1n;
  if (amount < 1n || amount > LIMITS.moneyNanosMax) {
    const expected = `1 to ${LIMITS.moneyNanosMax}`;
    throw badInput('amountNanos', `amountNanos must be ${expected}.`, { given: amount.toString(), expected });
  }
  const timeout = timeoutMs ?? null;
  if (timeout !== null && !(pending && Number.isInteger(timeout) && timeout >= TIMEOUT_MS.min && timeout <= TIMEOUT_MS.max)) {
    const expected = `${TIMEOUT_MS.min} to ${TIMEOUT_MS.max}, of a pending transfer`;
    throw badInput('timeoutMs', `timeoutMs must be ${expected}.`, { given: timeout.toString(), expected });
  }
  if (note !== null && (note.length > 200 || note.includes('\0') || !note.isWellFormed())) {
    throw badInput('note', 'note may have at most 200 characters, and no NUL.', { given: `${note.length} characters` });
  }
}
