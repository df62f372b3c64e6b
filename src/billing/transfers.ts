import type { Tx } from '../base/database.ts';
import type { PageRequest } from '../base/ids.ts';
import type { Money } from '../base/money.ts';

export type TransferKind = 'CREDIT' | 'CHARGE' | 'COMMISSION';

export type NewTransfer = {
  id: string;
  batchId: string;
  kind: TransferKind;
  debitAccountId: string;
  creditAccountId: string;
  amountNanos: bigint;
  currency: string;
  period: string;
  consumerTenantId: string | null;
  publisherTenantId: string | null;
  subscriptionId: string | null;
  note: string | null;
};

/** A transfer as one tenant sees it: money that came in or went out. */
export type TransferView = {
  id: string;
  kind: TransferKind;
  direction: 'IN' | 'OUT';
  amount: Money;
  period: string;
  note: string | null;
  createdAt: Date;
};

/** Writes transfers; balances are the caller's. Returns how many were new: an id that exists is left as it is. */
export function insertTransfers(tx: Tx, transfers: readonly NewTransfer[]): Promise<number> {
  const column = <K extends keyof NewTransfer>(name: K) => transfers.map((transfer) => transfer[name]);
  return tx.$executeRaw`
    insert into transfer (id, batch_id, kind, debit_account_id, credit_account_id, amount_nanos, currency, period, consumer_tenant_id,
                          publisher_tenant_id, subscription_id, note)
    select id, batch, kind::transfer_kind, debit, credit, amount, currency, period, consumer, publisher, subscription, note
      from unnest(${column('id')}::uuid[], ${column('batchId')}::uuid[], ${column('kind')}::text[], ${column('debitAccountId')}::uuid[],
        ${column('creditAccountId')}::uuid[], ${column('amountNanos')}::bigint[], ${column('currency')}::text[],
        ${column('period')}::text[], ${column('consumerTenantId')}::uuid[], ${column('publisherTenantId')}::uuid[],
        ${column('subscriptionId')}::uuid[], ${column('note')}::text[])
        x (id, batch, kind, debit, credit, amount, currency, period, consumer, publisher, subscription, note)
        on conflict (id) do nothing`;
}

type Row = Omit<TransferView, 'amount'> & { amountNanos: bigint; currency: string };

/** A tenant's transfers, newest first, up to one more than the page holds. */
export async function listTransfers(tx: Tx, tenantId: string, page: PageRequest): Promise<TransferView[]> {
  const rows = await tx.$queryRaw<Row[]>`
    select t.id, t.kind::text kind, case when debit.tenant_id = ${tenantId}::uuid then 'OUT' else 'IN' end direction,
           t.amount_nanos "amountNanos", t.currency, t.period, t.note, t.created_at "createdAt"
      from transfer t
      left join account debit on debit.id = t.debit_account_id
     where ${tenantId}::uuid in (t.consumer_tenant_id, t.publisher_tenant_id)
       and (${page.afterId}::uuid is null
            or (t.created_at, t.id) < (select c.created_at, c.id from transfer c
                where c.id = ${page.afterId}::uuid and ${tenantId}::uuid in (c.consumer_tenant_id, c.publisher_tenant_id)))
     order by t.created_at desc, t.id desc
     limit ${page.first + 1}`;
  return rows.map(viewOf);
}

/** One transfer, or null where the tenant is no side of it. */
export async function findTransfer(tx: Tx, tenantId: string, id: string): Promise<TransferView | null> {
  const rows = await tx.$queryRaw<Row[]>`
    select t.id, t.kind::text kind, case when debit.tenant_id = ${tenantId}::uuid then 'OUT' else 'IN' end direction,
           t.amount_nanos "amountNanos", t.currency, t.period, t.note, t.created_at "createdAt"
      from transfer t
      left join account debit on debit.id = t.debit_account_id
     where t.id = ${id}::uuid and ${tenantId}::uuid in (t.consumer_tenant_id, t.publisher_tenant_id)`;
  return rows[0] ? viewOf(rows[0]) : null;
}

function viewOf({ amountNanos, currency, ...row }: Row): TransferView {
  return { ...row, amount: { nanos: amountNanos, currency } };
}
