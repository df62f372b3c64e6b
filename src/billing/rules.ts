import { type ErrorCode, type ErrorData, MercatoError } from '../base/errors.ts';

/** Why the ledger refuses, in the order in which it looks; what is wrong with the form comes first, as BAD_USER_INPUT. */
const RULES = {
  IDEMPOTENCY_CONFLICT: ['IDEMPOTENCY_CONFLICT', 'The id was used for another transfer.'],
  SAME_ACCOUNT: ['BAD_USER_INPUT', 'A transfer needs two accounts.'],
  ACCOUNT_NOT_FOUND: ['NOT_FOUND', 'There is no such account.'],
  CURRENCY_DIFFERS: ['CONFLICT', 'The accounts are of two currencies.'],
  ACCOUNTS_DO_NOT_FIT: ['CONFLICT', 'A transfer of this kind is between other accounts.'],
  PENDING_NOT_FOUND: ['NOT_FOUND', 'There is no such pending transfer.'],
  NOT_PENDING: ['CONFLICT', 'The transfer is not a pending one.'],
  EXCEEDS_PENDING_AMOUNT: ['CONFLICT', 'No more can be posted than the pending transfer reserves.'],
  TRANSFER_NOT_FOUND: ['NOT_FOUND', 'There is no such transfer.'],
  NOT_REVERSIBLE: ['CONFLICT', 'Only what was posted can be reversed, and no reversal.'],
  PERIOD_CLOSED: ['CONFLICT', 'The period is closed.'],
  ALREADY_POSTED: ['CONFLICT', 'The pending transfer was posted.'],
  ALREADY_VOIDED: ['CONFLICT', 'The pending transfer was voided.'],
  PENDING_EXPIRED: ['CONFLICT', 'The pending transfer has expired.'],
  ALREADY_REVERSED: ['CONFLICT', 'The transfer was reversed.'],
  EXCEEDS_BALANCE: ['CONFLICT', 'The account does not have this much.'],
  PERIOD_NOT_OVER: ['CONFLICT', 'The period is not over.'],
  PERIOD_NOT_FOUND: ['NOT_FOUND', 'There are no books of this period.'],
  ALREADY_CLOSED: ['CONFLICT', 'The period was closed before.'],
  PERIOD_IN_USE: ['CONFLICT', 'Calls of the period are still in flight.'],
} as const satisfies Record<string, readonly [ErrorCode, string]>;

type Rule = keyof typeof RULES;

/** The refusal by a rule; its data name the rule. */
export function refused(rule: Rule, data: Omit<ErrorData, 'rule'> = {}): MercatoError {
  const [code, text] = RULES[rule];
  return new MercatoError(code, text, { rule, ...data });
}
