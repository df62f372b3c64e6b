/**
 * Prices and the double-entry ledger. Balance = credits − debits; a transfer is immutable; stored balances are kept with their transfers
 * in one transaction. Chart of accounts: FUNDING (platform; minus what was paid in), WALLET (consumer), PUBLISHER_PAYABLE (publisher),
 * PLATFORM_REVENUE (platform's commission). The sum of all balances is zero per currency.
 */
import { asSystem, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import type { PageRequest } from '../base/ids.ts';
import type { Money } from '../base/money.ts';
import { accountId, type ChargeAccounts, changeAccounts, lockAvailable } from './accounts.ts';
import { addCredit, type CreditRequest } from './credit.ts';
import { findTransfer, listTransfers, type TransferView } from './transfers.ts';

export type { ChargeAccounts } from './accounts.ts';
export { holdOf, priceOf } from './prices.ts';
export type { TransferView } from './transfers.ts';

export type WalletView = { balance: Money; held: Money; creditLimit: Money };
export type Hold = { consumerTenantId: string; heldNanos: bigint };

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
  /** Operator's credit for a tenant given by id or handle. @throws NOT_FOUND, BAD_USER_INPUT, IDEMPOTENCY_CONFLICT */
  addCredit(
    tenant: { id: string } | { name: string },
    request: Omit<CreditRequest, 'tenantId'>,
  ): Promise<{ transfer: TransferView; wallet: WalletView }>;
  wallet(tx: Tx, tenantId: string): Promise<WalletView>;
  transfers(tx: Tx, tenantId: string, page: PageRequest): Promise<TransferView[]>;
  findTransfer(tx: Tx, tenantId: string, id: string): Promise<TransferView | null>;
};

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
    const [row] = await tx.$queryRaw<{ balance: string; held: string; creditLimit: string }[]>`
      select balance_nanos::text balance, held_nanos::text held, credit_limit_nanos::text "creditLimit" from account
       where kind = 'WALLET' and tenant_id = ${tenantId}::uuid and currency = ${currency}`;
    const money = (text: string | undefined): Money => ({ nanos: BigInt(text ?? '0'), currency });
    return { balance: money(row?.balance), held: money(row?.held), creditLimit: money(row?.creditLimit) };
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
    holdIn: (tx, walletId, heldNanos) => changeAccounts(tx, [{ accountId: walletId, balanceNanos: 0n, heldNanos }]),
    async hold(tx, holds) {
      const changes = [];
      for (const { consumerTenantId, heldNanos } of holds) {
        if (heldNanos !== 0n) changes.push({ accountId: await idOf(tx, 'WALLET', consumerTenantId), balanceNanos: 0n, heldNanos });
      }
      await changeAccounts(tx, changes);
    },
    addCredit: (tenant, request) =>
      asSystem(db, async (tx) => {
        const where = 'id' in tenant ? { id: tenant.id } : { name: tenant.name };
        const found = await tx.tenant.findUnique({ where, select: { id: true } });
        if (!found) throw new MercatoError('NOT_FOUND', 'There is no such tenant.');
        const transfer = await addCredit(tx, currency, { ...request, tenantId: found.id });
        return { transfer, wallet: await wallet(tx, found.id) };
      }),
    wallet,
    transfers: listTransfers,
    findTransfer,
  };
}
