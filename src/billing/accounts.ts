import type { Tx } from '../base/database.ts';
import { newId } from '../base/ids.ts';

/** The accounts that a charge moves money between. */
export type ChargeAccounts = { walletId: string; payableId: string; revenueId: string };
type Kind = 'WALLET' | 'PUBLISHER_PAYABLE' | 'PLATFORM_REVENUE' | 'FUNDING';

/** The id of a tenant's account, or of the platform's where `tenantId` is null; made where absent, and then not yet committed. */
export async function accountId(tx: Tx, kind: Kind, tenantId: string | null, currency: string): Promise<{ id: string; made: boolean }> {
  const find = () => tx.$queryRaw<{ id: string }[]>`
    select id from account
     where kind = ${kind}::account_kind and tenant_id is not distinct from ${tenantId}::uuid and currency = ${currency}`;
  const [found] = await find();
  if (found) return { id: found.id, made: false };
  await tx.$executeRaw`
    insert into account (id, kind, tenant_id, currency) values (${newId()}::uuid, ${kind}::account_kind, ${tenantId}::uuid, ${currency})
        on conflict do nothing`;
  const [made] = await find();
  if (!made) throw new Error(`account ${kind} of ${tenantId ?? 'the platform'} can be neither found nor made`);
  return { id: made.id, made: true };
}

/** What a wallet can still pay: balance − held + credit limit, in nanos. The row stays locked. */
export async function lockAvailable(tx: Tx, walletId: string): Promise<bigint> {
  const [row] = await tx.$queryRaw<{ available: string }[]>`
    select (balance_nanos - held_nanos + credit_limit_nanos)::text available from account where id = ${walletId}::uuid for update`;
  return BigInt(row?.available ?? '0');
}

export type AccountChange = { accountId: string; balanceNanos: bigint; heldNanos: bigint };

/** Adds to balances and holds, locking the accounts in id order. A wallet below its credit limit fails the transaction (CHECK). */
export async function changeAccounts(tx: Tx, changes: readonly AccountChange[]): Promise<void> {
  const real = changes.filter((change) => change.balanceNanos !== 0n || change.heldNanos !== 0n);
  if (real.length === 0) return;
  await tx.$executeRaw`
    with d (id, balance, held) as (
      select * from unnest(${real.map((c) => c.accountId)}::uuid[], ${real.map((c) => c.balanceNanos.toString())}::numeric[],
                           ${real.map((c) => c.heldNanos.toString())}::numeric[])
    ), locked as (
      select a.id from account a join d using (id) order by a.id for update of a
    )
    update account a set balance_nanos = a.balance_nanos + d.balance, held_nanos = a.held_nanos + d.held
      from d join locked using (id) where a.id = d.id`;
}
