import { type Guard, guardsOf } from '../guard.ts';

const ORDER = 'database/ledger-order';
const LEDGER = 'database/ledger';
const operator = (field: string, rest: string) =>
  [`${field} asks for the operator`, `${field}: ${rest} {\n      authorizeOperator(ctx.principal);`, `${field}: ${rest} {`] as const;
const mutation = 'async (_, { input }, ctx) =>';

export const billingChecks: Guard[] = [
  ...guardsOf('code', 'src/billing/accounts.ts', LEDGER, [
    [
      'no account gives more than it has',
      'if (available === null || nanos <= 0n || nanos <= available) continue;\n    throw refused',
      'continue;\n    throw refused',
    ],
    [
      'what a wallet holds is not there',
      'balance_nanos - held_nanos - pending_debits_nanos + credit',
      'balance_nanos - pending_debits_nanos + credit',
    ],
    [
      'what is pending out of a wallet is not there',
      'balance_nanos - held_nanos - pending_debits_nanos + credit',
      'balance_nanos - held_nanos + credit',
    ],
    [
      'what is pending out of a payable is not there',
      "'PUBLISHER_PAYABLE' then balance_nanos - pending_debits_nanos end",
      "'PUBLISHER_PAYABLE' then balance_nanos end",
    ],
    ['a credit limit is there', '- pending_debits_nanos + credit_limit_nanos', '- pending_debits_nanos', 'database/credit'],
    ['what is pending counts against a balance', 'take(debitAccountId, postedNanos + pendingNanos);', 'take(debitAccountId, postedNanos);'],
    [
      "an account is its tenant's",
      'kind = ${kind}::account_kind and tenant_id is not distinct from ${tenantId}::uuid and',
      'kind = ${kind}::account_kind and',
    ],
    [
      'an account has one currency',
      '${tenantId}::uuid and currency = ${currency}`;\n  const [found]',
      '${tenantId}::uuid`;\n  const [found]',
      'database/credit',
    ],
    ['a posted amount moves', 'set balance_nanos = a.balance_nanos + c.balance', 'set balance_nanos = a.balance_nanos'],
    [
      'what is pending out is reserved',
      'pending_debits_nanos = a.pending_debits_nanos + c.debits',
      'pending_debits_nanos = a.pending_debits_nanos',
    ],
    [
      'what is pending in is noted',
      'pending_credits_nanos = a.pending_credits_nanos + c.credits',
      'pending_credits_nanos = a.pending_credits_nanos',
    ],
    ['a hold is held', 'set held_nanos = a.held_nanos + d.held', 'set held_nanos = a.held_nanos', 'database/settlement'],
  ]),
  ...guardsOf('code', 'src/billing/billing.ts', LEDGER, [
    ["a wallet is its tenant's", "kind = 'WALLET' and tenant_id = ${tenantId}::uuid and", "kind = 'WALLET' and", 'database/without-walls'],
    [
      'an absent tenant has no event',
      "if (!found) throw new MercatoError('NOT_FOUND', 'There is no such tenant.');\n    return found.id;",
      "return found?.id ?? '';",
    ],
    [
      'an event has its direction',
      "if (isPayout ? direction === 'IN' : direction === null) {\n      throw badInput",
      'if (false) {\n      throw badInput',
    ],
    ['an event is in form before its tenant is looked for', '    checkForm(event);\n', ''],
    ['a payout goes out of the payable', "isPayout ? 'PUBLISHER_PAYABLE' : 'WALLET'", "'WALLET'"],
    [
      'an account that is not committed is not remembered',
      'if (!found.made) known.set(name, found.id);',
      'known.set(name, found.id);',
      'database/credit',
    ],
    ['a closed month is told by its rule', "sqlState(error) === 'MC003' ? refused('PERIOD_CLOSED') : error", 'error', ORDER],
  ]),
  ...guardsOf('code', 'src/billing/credit.ts', 'database/credit', [
    [
      'credit has a key',
      'if (idempotencyKey.length < 1 || idempotencyKey.length > LIMITS.idempotencyKeyLength || !idempotencyKey.isWellFormed()) {\n    throw badInput',
      'if (false) {\n    throw badInput',
    ],
    [
      "credit's key is its id",
      'const id = transferIdOf(idempotencyKey);',
      'const id = transferIdOf(`${idempotencyKey}${performance.now()}`);',
    ],
  ]),
  ...guardsOf('code', 'src/billing/form.ts', ORDER, [
    ["a transfer's id is a UUID", 'if (!isId(id)) throw badInput', 'if (false) throw badInput'],
    [
      "a transfer's amount is bounded",
      'if (amount < 1n || amount > LIMITS.moneyNanosMax) {\n    const expected = `1 to ${LIMITS.moneyNanosMax}`;\n    throw badInput',
      "if (false) {\n    const expected = '';\n    throw badInput",
      'database/credit',
    ],
    [
      "a transfer's timeout is bounded",
      'if (timeout !== null && !(pending && Number.isInteger(timeout) && timeout >= TIMEOUT_MS.min && timeout <= TIMEOUT_MS.max)) {\n    const expected = `${TIMEOUT_MS.min} to ${TIMEOUT_MS.max}, of a pending transfer`;\n    throw badInput',
      "if (false) {\n    const expected = '';\n    throw badInput",
    ],
    ['only a pending transfer has a timeout', '!(pending && Number.isInteger', '!(Number.isInteger'],
    [
      "a transfer's note is bounded",
      "if (note !== null && (note.length > 200 || note.includes('\\0') || !note.isWellFormed())) {\n    throw badInput",
      'if (false) {\n    throw badInput',
      'database/credit',
    ],
  ]),
  ...guardsOf('code', 'src/billing/ledger.ts', ORDER, [
    ['a transfer that there is is answered', 'if (existing) return sameAs(existing, wanted);\n  if (debitAccountId', 'if (debitAccountId'],
    ['a transfer has two accounts', 'if (debitAccountId === creditAccountId) throw refused', 'if (false) throw refused'],
    [
      'a transfer has an account that pays',
      "if (!debit) throw refused('ACCOUNT_NOT_FOUND'",
      "if (false) throw refused('ACCOUNT_NOT_FOUND'",
    ],
    [
      'a transfer has an account that is paid',
      "if (!credit) throw refused('ACCOUNT_NOT_FOUND'",
      "if (false) throw refused('ACCOUNT_NOT_FOUND'",
    ],
    ['a transfer has one currency', 'if (debit.currency !== credit.currency) throw refused', 'if (false) throw refused'],
    [
      "a transfer is between its kind's accounts",
      "if (!ENDS[kind].some(([from, to]) => from === debit.kind && to === credit.kind)) {\n    const expected = ENDS[kind].map(([from, to]) => `${from} to ${to}`).join(', or ');\n    throw refused",
      "if (false) {\n    const expected = '';\n    throw refused",
    ],
    [
      'a resolution is of a transfer that there is',
      "if (!pending) throw refused('PENDING_NOT_FOUND'",
      "if (false) throw refused('PENDING_NOT_FOUND'",
    ],
    ['a resolution is of a pending transfer', "if (pending.phase !== 'PENDING') throw refused", 'if (false) throw refused'],
    ['no more is posted than reserved', 'if (amount > pending.amountNanos) {\n    throw refused', 'if (false) {\n    throw refused'],
    [
      'a lost resolution says what won',
      "throw refused(won === 'POST_PENDING' || won === 'VOID_PENDING' ? RESOLVED[won] : 'PENDING_EXPIRED', { field: 'pendingId' });",
      'return first as never;',
    ],
    [
      'what has expired is not resolved',
      'if (pending.expiresAt && pending.expiresAt <= added.createdAt) throw refused',
      'if (false) throw refused',
    ],
    ['a voiding moves nothing', "postedNanos: phase === 'POST_PENDING' ? amount : 0n", 'postedNanos: amount', LEDGER],
    [
      'a resolution releases all',
      "postedNanos: phase === 'POST_PENDING' ? amount : 0n, pendingNanos: -pending.amountNanos",
      "postedNanos: phase === 'POST_PENDING' ? amount : 0n, pendingNanos: -amount",
      LEDGER,
    ],
    [
      'a reversal is of a transfer that there is',
      "if (!original) throw refused('TRANSFER_NOT_FOUND'",
      "if (false) throw refused('TRANSFER_NOT_FOUND'",
    ],
    [
      'a reversal is of what was posted',
      "if (!posted || original.kind === 'REVERSAL') {\n    throw refused",
      'if (false) {\n    throw refused',
    ],
    ['a transfer is reversed once', "throw refused('ALREADY_REVERSED', { field: 'reversesId' });", 'return first as never;'],
    [
      'with a charge goes its commission',
      "for (const commission of original.kind === 'CHARGE' ? await commissionsOf(tx, original) : []) {",
      'for (const commission of [] as TransferRow[]) {',
      LEDGER,
    ],
    ['a commission is reversed once', 'if (part) parts.push(part);', 'parts.push(part ?? commission);', LEDGER],
    ['the same id has the same content', 'if (differs === undefined) return existing;\n', 'return existing;\n', LEDGER],
    ['the same id says what differs', "throw refused('IDEMPOTENCY_CONFLICT', { field });", 'return existing;', LEDGER],
  ]),
  ...guardsOf('code', 'src/billing/periods.ts', 'database/periods', [
    ['a month is in form', 'if (!/^\\d{4}-(0[1-9]|1[0-2])$/.test(period)) {\n    throw badInput', 'if (false) {\n    throw badInput'],
    ["a closing's refusal is told by its rule", 'if (rule) throw refused', 'if (false) throw refused'],
    [
      'a closing that could not wait may be tried again',
      'if (BUSY.includes(state)) throw new MercatoError',
      'if (false) throw new MercatoError',
      'database/period-races',
    ],
    [
      'a month that cannot be closed keeps no other from it',
      'if (!(error instanceof MercatoError)) throw error;\n    });',
      'throw error;\n    });',
    ],
  ]),
  ...guardsOf('code', 'src/billing/prices.ts', 'properties/prices', [
    ['free units are free', 'if (terms === null || units <= terms.freeUnits) return 0n;', 'if (terms === null) return 0n;'],
    ['units beyond the free ones cost their price', '(units - terms.freeUnits) * terms.unitPriceNanos', 'units * terms.unitPriceNanos'],
    [
      'a hold covers what is leased',
      'priceOf(terms, counter.usedUnits + counter.leasedUnits) - priceOf',
      'priceOf(terms, counter.leasedUnits) - priceOf',
    ],
  ]),
  ...guardsOf('code', 'src/billing/transfers.ts', 'api/layers', [
    [
      "transfers are their sides'",
      'where ${tenantId}::uuid in (t.consumer_tenant_id, t.publisher_tenant_id)\n       and',
      'where true\n       and',
    ],
    [
      "a transfer is its sides'",
      'where t.id = ${id}::uuid and ${tenantId}::uuid in (t.consumer_tenant_id, t.publisher_tenant_id)`',
      'where t.id = ${id}::uuid`',
    ],
    [
      "a cursor of transfers is its sides'",
      'where c.id = ${page.afterId}::uuid and ${tenantId}::uuid in (c.consumer_tenant_id, c.publisher_tenant_id)))',
      'where c.id = ${page.afterId}::uuid))',
    ],
    ['what pays sees it go out', 'case when debit.tenant_id = ${tenantId}::uuid then', 'case when false then', 'database/credit'],
    [
      'what is pending expires at its instant',
      'where t.expires_at <= mercato_now() and not exists',
      'where t.expires_at is not null and not exists',
      LEDGER,
    ],
    ['what is resolved does not expire', ' and not exists (select from transfer r where r.pending_id = t.id)', '', LEDGER],
  ]),
  ...guardsOf('code', 'src/billing/resolvers.ts', 'unit/scopes', [
    [
      'wallet asks for its scope',
      "wallet: (_, __, ctx) => {\n      const { tenantId } = authorize(ctx.principal, 'billing:read');",
      'wallet: (_, __, ctx) => {\n      const { tenantId } = authorize(ctx.principal, null);',
    ],
    [
      'transfers asks for its scope',
      "transfers: async (_, args, ctx) => {\n      const { tenantId } = authorize(ctx.principal, 'billing:read');",
      'transfers: async (_, args, ctx) => {\n      const { tenantId } = authorize(ctx.principal, null);',
    ],
    operator('periods', '(_, __, ctx) =>'),
    operator('addCredit', '(_, { input }, ctx) =>'),
    ...['createTransfer', 'postTransfer', 'voidTransfer', 'reverseTransfer', 'closePeriod'].map((field) => operator(field, mutation)),
    [
      'an amount is a number',
      'if (/^\\d{1,19}$/.test(text)) return BigInt(text);\n  throw badInput',
      'return BigInt(text);\n  throw badInput',
      'unit/forms',
    ],
    [
      'a transfer is named by an id of its type',
      "if (parsed?.type !== 'Transfer') throw badInput(field, `${field} must be the global id of a Transfer.`);\n  return parsed.id;",
      "return parsed?.id ?? '';",
      'unit/forms',
    ],
    ['a tenant is named once', 'if ((id === null) === (name === null)) throw badInput', 'if (false) throw badInput', 'unit/forms'],
    [
      'a tenant is named by an id of its type',
      "if (parsed?.type !== 'Tenant') throw badInput('tenantId', 'tenantId must be the global id of a Tenant.');\n  return { id: parsed.id };",
      "return { id: parsed?.id ?? '' };",
      'unit/forms',
    ],
  ]),
];
