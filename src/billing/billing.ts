/**
 * Prices and the double-entry ledger. Balance = credits − debits; a transfer is immutable; stored balances are kept with their transfers
 * in one transaction. The sum of all balances is zero per currency. README.md beside this has the chart of accounts and every event's postings.
 */
import { asSystem, type Database, sqlState, type Tx } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import type { PageRequest } from '../base/ids.ts';
import type { Money } from '../base/money.ts';
import { accountId, type ChargeAccounts, changeHolds, lockAvailable } from './accounts.ts';
import { addCredit, type CreditRequest, checkCredit } from './credit.ts';
import { checkForm } from './form.ts';
import * as ledger from './ledger.ts';
import { type ClosedPeriod, closeDuePeriods, closedPeriods, closePeriod } from './periods.ts';
import { refused } from './rules.ts';
import { findTransfer, listTransfers, type TransferRow, type TransferView } from './transfers.ts';

export type { ChargeAccounts } from './accounts.ts';
export type { ClosedPeriod } from './periods.ts';
export { holdOf, priceOf } from './prices.ts';
export type { TransferView } from './transfers.ts';

/** `pending`: what pending transfers will take. */
export type WalletView = { balance: Money; held: Money; pending: Money; creditLimit: Money };
export type Hold = { consumerTenantId: string; heldNanos: bigint };
/** A tenant by id or handle. */
export type TenantRef = { id: string } | { name: string };
/** ADJUSTMENT: funding to the tenant's wallet (IN) or back (OUT). PAYOUT: the publisher's payable to payout clearing, always OUT. */
export type TransferEvent = Pick<ledger.NewTransfer, 'id' | 'amountNanos' | 'pending' | 'timeoutMs' | 'note'> & {
  kind: 'ADJUSTMENT' | 'PAYOUT';
  direction: 'IN' | 'OUT' | null;
};

export type Billing = {
  readonly currency: string;
  /** The platform's part of what a publisher earns, in basis points. */
  readonly commissionBps: number;
  /** The accounts of a charge, made where absent. */
  accounts(tx: Tx, consumerTenantId: string, publisherTenantId: string): Promise<ChargeAccounts>;
  /** What the wallet can still pay, in nanos; its row stays locked until the transaction ends. */
  lockAvailable(tx: Tx, walletId: string): Promise<bigint>;
  /** Adds to what consumers' wallets hold; negative releases. */
  hold(tx: Tx, holds: readonly Hold[]): Promise<void>;
  /** Adds to what one wallet holds. */
  holdIn(tx: Tx, walletId: string, heldNanos: bigint): Promise<void>;
  /** Operator's credit for a tenant. @throws BAD_USER_INPUT, NOT_FOUND, IDEMPOTENCY_CONFLICT, CONFLICT (PERIOD_CLOSED) */
  addCredit(tenant: TenantRef, request: Omit<CreditRequest, 'tenantId'>): Promise<{ transfer: TransferView; wallet: WalletView }>;
  /** An adjustment or a payout, posted or pending. @throws BAD_USER_INPUT (direction, then the form), NOT_FOUND (tenant), then as ledger.ts says */
  createTransfer(tenant: TenantRef, event: TransferEvent): Promise<TransferView>;
  /** Posts a pending transfer, wholly where `amountNanos` is null. @throws as ledger.ts says */
  postTransfer(posting: ledger.Posting): Promise<TransferView>;
  /** Releases a pending transfer. @throws as ledger.ts says */
  voidTransfer(voiding: ledger.Voiding): Promise<TransferView>;
  /** Posts the opposite of what was posted. @throws as ledger.ts says */
  reverseTransfer(reversing: ledger.Reversing): Promise<TransferView>;
  /** Ends what is past its expiry, at most 500 pending transfers; how many. For a timer. */
  expireTransfers(): Promise<number>;
  /** Closes a month's books. @throws as periods.ts says */
  closePeriod(period: string): Promise<ClosedPeriod>;
  /** Closes the months that have been over for a day and are not in use. For a timer. */
  closeDuePeriods(): Promise<void>;
  /** The closed months, newest first. */
  periods(): Promise<ClosedPeriod[]>;
  wallet(tx: Tx, tenantId: string): Promise<WalletView>;
  transfers(tx: Tx, tenantId: string, page: PageRequest): Promise<TransferView[]>;
  findTransfer(tx: Tx, tenantId: string, id: string): Promise<TransferView | null>;
};

/** What a caller asked for, by what the ledger was asked for. */
const ASKED: Record<string, string> = { debitAccountId: 'tenantId', creditAccountId: 'tenantId', phase: 'pending' };

/** A conflict of the same id names what the caller gave. */
function inAskedWords(error: unknown): never {
  const field = error instanceof MercatoError && error.code === 'IDEMPOTENCY_CONFLICT' && ASKED[error.data.field ?? ''];
  throw field ? refused('IDEMPOTENCY_CONFLICT', { field }) : error;
}

export function createBilling(options: { db: Database; currency: string; commissionBps: number }): Billing {
  const { db, currency } = options;

  // Accounts are never deleted, so an id that a query found committed holds for ever.
  const known = new Map<string, string>();

  async function idOf(tx: Tx, kind: 'WALLET' | 'PUBLISHER_PAYABLE' | 'PLATFORM_REVENUE', tenantId: string | null): Promise<string> {
    const name = `${kind}:${tenantId}`;
    const id = known.get(name);
    if (id !== undefined) return id;
    const found = await accountId(tx, kind, tenantId, currency);
    if (!found.made) known.set(name, found.id);
    return found.id;
  }

  async function wallet(tx: Tx, tenantId: string): Promise<WalletView> {
    const [row] = await tx.$queryRaw<{ balance: string; held: string; pending: string; creditLimit: string }[]>`
      select balance_nanos::text balance, held_nanos::text held, pending_debits_nanos::text pending, credit_limit_nanos::text "creditLimit"
        from account
       where kind = 'WALLET' and tenant_id = ${tenantId}::uuid and currency = ${currency}`;
    const money = (text: string | undefined): Money => ({ nanos: BigInt(text ?? '0'), currency });
    return { balance: money(row?.balance), held: money(row?.held), pending: money(row?.pending), creditLimit: money(row?.creditLimit) };
  }

  /** Writes to the ledger in a transaction, which a refusal undoes, and shows the transfer as its tenant sees it: a charge's, the consumer. */
  async function post<T>(work: (tx: Tx) => Promise<TransferRow>, answer: (tx: Tx, transfer: TransferView, tenantId: string) => Promise<T>) {
    try {
      return await asSystem(db, async (tx) => {
        const row = await work(tx);
        const tenantId = row.consumerTenantId ?? row.publisherTenantId ?? '';
        const transfer = await findTransfer(tx, tenantId, row.id);
        if (!transfer) throw new Error(`transfer ${row.id} has no tenant`);
        return await answer(tx, transfer, tenantId);
      });
    } catch (error) {
      throw sqlState(error) === 'MC003' ? refused('PERIOD_CLOSED') : error;
    }
  }

  const shown = async (_: Tx, transfer: TransferView) => transfer;

  async function tenantIdOf(tx: Tx, tenant: TenantRef): Promise<string> {
    const where = 'id' in tenant ? { id: tenant.id } : { name: tenant.name };
    const found = await tx.tenant.findUnique({ where, select: { id: true } });
    if (!found) throw new MercatoError('NOT_FOUND', 'There is no such tenant.');
    return found.id;
  }

  async function createEvent(tx: Tx, tenant: TenantRef, { direction, ...event }: TransferEvent): Promise<TransferRow> {
    const isPayout = event.kind === 'PAYOUT';
    if (isPayout ? direction === 'IN' : direction === null) {
      throw badInput('direction', 'A payout goes OUT; an adjustment says IN or OUT.', { expected: isPayout ? 'OUT' : 'IN or OUT' });
    }
    checkForm(event);
    const tenantId = await tenantIdOf(tx, tenant);
    const own = await accountId(tx, isPayout ? 'PUBLISHER_PAYABLE' : 'WALLET', tenantId, currency);
    const other = await accountId(tx, isPayout ? 'PAYOUT_CLEARING' : 'FUNDING', null, currency);
    const [from, to] = direction === 'IN' ? [other, own] : [own, other];
    return ledger.createTransfer(tx, { ...event, debitAccountId: from.id, creditAccountId: to.id });
  }

  return {
    currency,
    commissionBps: options.commissionBps,
    async accounts(tx, consumerTenantId, publisherTenantId) {
      const walletId = await idOf(tx, 'WALLET', consumerTenantId);
      const payableId = await idOf(tx, 'PUBLISHER_PAYABLE', publisherTenantId);
      const revenueId = await idOf(tx, 'PLATFORM_REVENUE', null);
      return { walletId, payableId, revenueId };
    },
    lockAvailable,
    holdIn: (tx, walletId, heldNanos) => changeHolds(tx, [{ accountId: walletId, heldNanos }]),
    async hold(tx, holds) {
      const changes = [];
      for (const { consumerTenantId, heldNanos } of holds) {
        if (heldNanos !== 0n) changes.push({ accountId: await idOf(tx, 'WALLET', consumerTenantId), heldNanos });
      }
      await changeHolds(tx, changes);
    },
    addCredit: (tenant, request) =>
      post(
        async (tx) => {
          checkCredit(request);
          return addCredit(tx, currency, { ...request, tenantId: await tenantIdOf(tx, tenant) }).catch(inAskedWords);
        },
        async (tx, transfer, tenantId) => ({ transfer, wallet: await wallet(tx, tenantId) }),
      ),
    createTransfer: (tenant, event) => post((tx) => createEvent(tx, tenant, event).catch(inAskedWords), shown),
    postTransfer: (posting) => post((tx) => ledger.postTransfer(tx, posting), shown),
    voidTransfer: (voiding) => post((tx) => ledger.voidTransfer(tx, voiding), shown),
    reverseTransfer: (reversing) => post((tx) => ledger.reverseTransfer(tx, reversing), shown),
    expireTransfers: () => asSystem(db, ledger.expireTransfers),
    closePeriod: (period) => closePeriod(db, period),
    closeDuePeriods: () => closeDuePeriods(db),
    periods: () => asSystem(db, closedPeriods),
    wallet,
    transfers: listTransfers,
    findTransfer,
  };
}
