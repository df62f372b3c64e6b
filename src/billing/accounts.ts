import type { Tx } from '../base/database.ts';
import { newId } from '../base/ids.ts';
import type { AccountKind } from '../generated/prisma/client.ts';
import { refused } from './rules.ts';

/** The accounts that a charge moves money between. */
export type ChargeAccounts = { walletId: string; payableId: string; revenueId: string };

/** The id of a tenant's account, or of the platform's where `tenantId` is null; made where absent, and then not yet committed. */
export async function accountId(
  tx: Tx,
  kind: AccountKind,
  tenantId: string | null,
  currency: string,
): Promise<{ id: string; made: boolean }> {
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

/** What never changes of an account. */
export type AccountFacts = { id: string; kind: AccountKind; tenantId: string | null; currency: string };

/** Those of `ids` that exist. */
export async function accountFacts(tx: Tx, ids: readonly string[]): Promise<Map<string, AccountFacts>> {
  const rows = await tx.$queryRaw<AccountFacts[]>`
    select id, kind::text kind, tenant_id "tenantId", currency from account where id = any(${ids}::uuid[])`;
  return new Map(rows.map((row) => [row.id, row]));
}

/** What a wallet can still pay: balance − held − pending out + credit limit, in nanos. The row stays locked. */
export async function lockAvailable(tx: Tx, walletId: string): Promise<bigint> {
  return (await lockAccounts(tx, [walletId])).get(walletId) ?? 0n;
}

/** Locks accounts in id order until the transaction ends. What each can still give, in nanos; null: it may go below zero. */
async function lockAccounts(tx: Tx, ids: readonly string[]): Promise<Map<string, bigint | null>> {
  const rows = await tx.$queryRaw<{ id: string; available: string | null }[]>`
    select id, case kind when 'WALLET' then balance_nanos - held_nanos - pending_debits_nanos + credit_limit_nanos
                         when 'PUBLISHER_PAYABLE' then balance_nanos - pending_debits_nanos end::text available
      from account where id = any(${ids}::uuid[]) order by id for update`;
  return new Map(rows.map(({ id, available }) => [id, available === null ? null : BigInt(available)]));
}

export type HoldChange = { accountId: string; heldNanos: bigint };

/** Adds to holds, locking the accounts in id order. A wallet below its credit limit fails the transaction (CHECK). */
export async function changeHolds(tx: Tx, changes: readonly HoldChange[]): Promise<void> {
  const real = changes.filter((change) => change.heldNanos !== 0n);
  if (real.length === 0) return;
  await tx.$executeRaw`
    with d (id, held) as (
      select * from unnest(${real.map((c) => c.accountId)}::uuid[], ${real.map((c) => c.heldNanos.toString())}::numeric[])
    ), locked as (
      select a.id from account a join d using (id) order by a.id for update of a
    )
    update account a set held_nanos = a.held_nanos + d.held from d join locked using (id) where a.id = d.id`;
}

/** What a transfer does to its two accounts: `postedNanos` moves, `pendingNanos` is reserved, or released where negative. */
export type Movement = { debitAccountId: string; creditAccountId: string; postedNanos: bigint; pendingNanos: bigint };

/** Moves all of it or nothing, having locked the accounts in id order. @throws CONFLICT by rule EXCEEDS_BALANCE, of what they come to together */
export async function move(tx: Tx, movements: readonly Movement[]): Promise<void> {
  const taken = new Map<string, bigint>();
  const take = (id: string, nanos: bigint) => taken.set(id, (taken.get(id) ?? 0n) + nanos);
  for (const { debitAccountId, creditAccountId, postedNanos, pendingNanos } of movements) {
    take(debitAccountId, postedNanos + pendingNanos);
    take(creditAccountId, -postedNanos);
  }
  for (const [id, available] of await lockAccounts(tx, [...taken.keys()])) {
    const nanos = taken.get(id) ?? 0n;
    if (available === null || nanos <= 0n || nanos <= available) continue;
    throw refused('EXCEEDS_BALANCE', { field: 'amountNanos', given: nanos.toString(), expected: `at most ${available}` });
  }
  await tx.$executeRaw`
    with m (debit, credit, posted, pending) as (
      select * from unnest(${movements.map((m) => m.debitAccountId)}::uuid[], ${movements.map((m) => m.creditAccountId)}::uuid[],
                           ${movements.map((m) => m.postedNanos.toString())}::numeric[],
                           ${movements.map((m) => m.pendingNanos.toString())}::numeric[])
    ), change as (
      select id, sum(balance) balance, sum(debits) debits, sum(credits) credits
        from (select debit, -posted, pending, 0 from m union all select credit, posted, 0, pending from m) x (id, balance, debits, credits)
       group by id
    )
    update account a set balance_nanos = a.balance_nanos + c.balance, pending_debits_nanos = a.pending_debits_nanos + c.debits,
           pending_credits_nanos = a.pending_credits_nanos + c.credits
      from change c where a.id = c.id`;
}
