import { afterAll, beforeAll, expect, it } from 'vitest';
import { asSystem } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { createTransfer, type NewTransfer } from '../../src/billing/ledger.ts';
import { asAdmin } from '../support/admin.ts';
import { broken, type Core, openCore, type Process } from '../support/core.ts';
import { charged, event, refusalOf, sealMonth } from '../support/ledger.ts';

/** Every pending transfer with a timeout has expired in the month that is closed. */
const [NOON, CLOSED, LATER] = ['2026-11-15T12:00:00Z', '2027-03-15T12:00:00Z', '2027-04-15T12:00:00Z'];
const LONG = 'n'.repeat(201);
const TOO_MUCH = 10n ** 18n;

let core: Core;
let server: Process;
beforeAll(async () => {
  core = await openCore(NOON);
  server = await core.process();
  await sealMonth(core, '2027-03');
});
afterAll(async () => {
  expect(await broken(core.db)).toEqual([]);
  await core[Symbol.asyncDispose]();
});

/** A request that breaks every rule, mended rule by rule: each time the first one left refuses. */
async function expectOrder<T extends object>(
  first: T,
  ask: (given: T) => Promise<unknown>,
  steps: [string, Partial<T> | string][],
): Promise<void> {
  let request = first;
  try {
    for (const [refusal, mended] of steps) {
      expect(await refusalOf(() => ask(request))).toBe(refusal);
      if (typeof mended === 'string') await core.setClock(mended);
      else request = { ...request, ...mended };
    }
    expect(await refusalOf(() => ask(request))).toBe('OK');
  } finally {
    await core.setClock(NOON);
  }
}

async function credit(tenantId: string, nanos: bigint): Promise<string> {
  const added = await core.billing.addCredit({ id: tenantId }, { amountNanos: nanos, note: null, idempotencyKey: newId() });
  return added.transfer.id;
}

async function account(kind: string, tenantId: string | null, currency = 'EUR'): Promise<string> {
  const [row] = await asAdmin(
    core.db,
    (tx) => tx.$queryRaw<{ id: string }[]>`
      select id from account where kind::text = ${kind} and tenant_id is not distinct from ${tenantId}::uuid and currency = ${currency}`,
  );
  if (row) return row.id;
  const id = newId();
  await asAdmin(
    core.db,
    (tx) => tx.$executeRaw`
      insert into account (id, kind, tenant_id, currency) values (${id}::uuid, ${kind}::account_kind, ${tenantId}::uuid, ${currency})`,
  );
  return id;
}

it('createTransfer looks in the order that it documents', async () => {
  const { id: tenantId } = await core.tenant();
  const used = await credit(tenantId, 10n);
  const [wallet, funding] = [await account('WALLET', tenantId), await account('FUNDING', null)];
  const dollars = await account('WALLET', tenantId, 'USD');
  const [nowhere, nothing] = [newId(), newId()];
  const worst: NewTransfer = {
    ...{ id: 'no id', kind: 'PAYOUT', debitAccountId: nowhere, creditAccountId: nowhere, amountNanos: 0n },
    ...{ pending: false, timeoutMs: 1_000, note: LONG },
  };
  await core.setClock(CLOSED);
  await expectOrder(worst, (given) => asSystem(core.db, (tx) => createTransfer(tx, given)).catch(closed), [
    ['BAD_USER_INPUT id', { id: used }],
    ['BAD_USER_INPUT amountNanos', { amountNanos: TOO_MUCH }],
    ['BAD_USER_INPUT timeoutMs', { timeoutMs: 999, pending: true }],
    ['BAD_USER_INPUT timeoutMs', { timeoutMs: 1_000 }],
    ['BAD_USER_INPUT note', { note: null }],
    ['IDEMPOTENCY_CONFLICT kind', { id: newId() }],
    ['BAD_USER_INPUT SAME_ACCOUNT creditAccountId', { creditAccountId: nothing }],
    ['NOT_FOUND ACCOUNT_NOT_FOUND debitAccountId', { debitAccountId: dollars }],
    ['NOT_FOUND ACCOUNT_NOT_FOUND creditAccountId', { creditAccountId: funding }],
    ['CONFLICT CURRENCY_DIFFERS', { debitAccountId: wallet }],
    ['CONFLICT ACCOUNTS_DO_NOT_FIT', { kind: 'ADJUSTMENT' }],
    ['CONFLICT PERIOD_CLOSED', LATER],
    ['CONFLICT EXCEEDS_BALANCE amountNanos', { amountNanos: 10n }],
  ]);
});

/** The refusal of the database itself, as billing.ts says it. */
async function closed(error: Error): Promise<never> {
  throw error.message.includes('is closed') ? Object.assign(new Error(), { code: 'CONFLICT', data: { rule: 'PERIOD_CLOSED' } }) : error;
}

/** Pending payouts of one publisher that end at once: one that was posted, one that was voided, one that nobody resolved; and one that never ends. */
async function pendings(): Promise<{ posted: string; voided: string; over: string; open: string }> {
  const { publisherTenantId: id } = await charged(core, server);
  const make = async (timeoutMs: number | null) => (await core.billing.createTransfer({ id }, event(10n, { pending: true, timeoutMs }))).id;
  const made = { posted: await make(1_000), voided: await make(1_000), over: await make(1_000), open: await make(null) };
  await core.billing.postTransfer({ id: newId(), pendingId: made.posted, amountNanos: 1n, note: null });
  await core.billing.voidTransfer({ id: newId(), pendingId: made.voided, note: null });
  return made;
}

it('addCredit looks in the order that it documents', async () => {
  const tenant = await core.tenant();
  const first = { tenantId: newId(), idempotencyKey: '', amountNanos: 0n, note: LONG };
  const add = ({ tenantId, ...request }: typeof first) => core.billing.addCredit({ id: tenantId }, request);
  await expectOrder(first, add, [
    ['BAD_USER_INPUT idempotencyKey', { idempotencyKey: newId() }],
    ['BAD_USER_INPUT amountNanos', { amountNanos: 1n }],
    ['BAD_USER_INPUT note', { note: 'a gift' }],
    ['NOT_FOUND', { tenantId: tenant.id }],
  ]);
});

it('postTransfer looks in the order that it documents', async () => {
  const { posted, voided, over, open } = await pendings();
  const used = await credit((await core.tenant()).id, 10n);
  const worst = { id: 'no id', pendingId: newId(), amountNanos: 0n, note: LONG as string | null };
  await core.setClock(CLOSED);
  await expectOrder(worst, core.billing.postTransfer, [
    ['BAD_USER_INPUT id', { id: used }],
    ['BAD_USER_INPUT amountNanos', { amountNanos: TOO_MUCH }],
    ['BAD_USER_INPUT note', { note: null }],
    ['IDEMPOTENCY_CONFLICT id', { id: newId() }],
    ['NOT_FOUND PENDING_NOT_FOUND pendingId', { pendingId: used }],
    ['CONFLICT NOT_PENDING pendingId', { pendingId: posted }],
    ['CONFLICT EXCEEDS_PENDING_AMOUNT amountNanos', { amountNanos: 10n }],
    ['CONFLICT PERIOD_CLOSED', LATER],
    ['CONFLICT ALREADY_POSTED pendingId', { pendingId: voided }],
    ['CONFLICT ALREADY_VOIDED pendingId', { pendingId: over }],
    ['CONFLICT PENDING_EXPIRED pendingId', { pendingId: open }],
  ]);
});

it('voidTransfer looks in the order that it documents', async () => {
  const { posted, voided, over, open } = await pendings();
  const used = await credit((await core.tenant()).id, 10n);
  await core.setClock(CLOSED);
  await expectOrder({ id: 'no id', pendingId: newId(), note: LONG as string | null }, core.billing.voidTransfer, [
    ['BAD_USER_INPUT id', { id: used }],
    ['BAD_USER_INPUT note', { note: null }],
    ['IDEMPOTENCY_CONFLICT id', { id: newId() }],
    ['NOT_FOUND PENDING_NOT_FOUND pendingId', { pendingId: used }],
    ['CONFLICT NOT_PENDING pendingId', { pendingId: posted }],
    ['CONFLICT PERIOD_CLOSED', LATER],
    ['CONFLICT ALREADY_POSTED pendingId', { pendingId: voided }],
    ['CONFLICT ALREADY_VOIDED pendingId', { pendingId: over }],
    ['CONFLICT PENDING_EXPIRED pendingId', { pendingId: open }],
  ]);
});

it('reverseTransfer looks in the order that it documents', async () => {
  const { id: tenantId } = await core.tenant();
  const [used, reversed] = [await credit(tenantId, 1n), await credit(tenantId, 100n)];
  await core.billing.reverseTransfer({ id: newId(), reversesId: reversed, note: null });
  const spent = await credit(tenantId, 50n);
  const out = await core.billing.createTransfer({ id: tenantId }, event(20n, { kind: 'ADJUSTMENT' }));
  const { open } = await pendings();
  await core.setClock(CLOSED);
  await expectOrder({ id: 'no id', reversesId: newId(), note: LONG as string | null }, core.billing.reverseTransfer, [
    ['BAD_USER_INPUT id', { id: used }],
    ['BAD_USER_INPUT note', { note: null }],
    ['IDEMPOTENCY_CONFLICT reversesId', { id: newId() }],
    ['NOT_FOUND TRANSFER_NOT_FOUND reversesId', { reversesId: open }],
    ['CONFLICT NOT_REVERSIBLE reversesId', { reversesId: reversed }],
    ['CONFLICT PERIOD_CLOSED', LATER],
    ['CONFLICT ALREADY_REVERSED reversesId', { reversesId: spent }],
    ['CONFLICT EXCEEDS_BALANCE amountNanos', { reversesId: out.id }],
  ]);
});

it('reverses neither a reversal nor what releases', async () => {
  const { id: tenantId } = await core.tenant();
  const reversal = await core.billing.reverseTransfer({ id: newId(), reversesId: await credit(tenantId, 1n), note: null });
  const pending = await core.billing.createTransfer({ id: tenantId }, event(1n, { kind: 'ADJUSTMENT', direction: 'IN', pending: true }));
  const released = await core.billing.voidTransfer({ id: newId(), pendingId: pending.id, note: null });
  for (const { id: reversesId } of [reversal, released]) {
    const refusal = await refusalOf(() => core.billing.reverseTransfer({ id: newId(), reversesId, note: null }));
    expect(refusal).toBe('CONFLICT NOT_REVERSIBLE reversesId');
  }
});
