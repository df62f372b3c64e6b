import type { Tx } from '../base/database.ts';
import type { PageRequest } from '../base/ids.ts';
import type { Money } from '../base/money.ts';
import { Prisma, type TransferKind, type TransferPhase } from '../generated/prisma/client.ts';

/** A transfer as the ledger has it. `timeoutMs`: from its creation to its expiry. */
export type TransferRow = {
  id: string;
  batchId: string;
  kind: TransferKind;
  phase: TransferPhase;
  debitAccountId: string;
  creditAccountId: string;
  amountNanos: bigint;
  currency: string;
  consumerTenantId: string | null;
  publisherTenantId: string | null;
  pendingId: string | null;
  reversesId: string | null;
  timeoutMs: number | null;
  note: string | null;
  createdAt: Date;
  expiresAt: Date | null;
};

/** A transfer as one tenant sees it: money that came in or went out, or is to. */
export type TransferView = {
  id: string;
  kind: TransferKind;
  phase: TransferPhase;
  direction: 'IN' | 'OUT';
  amount: Money;
  period: string;
  note: string | null;
  pendingId: string | null;
  reversesId: string | null;
  expiresAt: Date | null;
  createdAt: Date;
};

const COLUMNS = Prisma.sql`
  id, batch_id "batchId", kind::text kind, phase::text phase, debit_account_id "debitAccountId", credit_account_id "creditAccountId",
  amount_nanos "amountNanos", currency, consumer_tenant_id "consumerTenantId", publisher_tenant_id "publisherTenantId",
  pending_id "pendingId", reverses_id "reversesId", (extract(epoch from expires_at - created_at) * 1000)::int "timeoutMs", note,
  created_at "createdAt", expires_at "expiresAt"`;

/** Writes a transfer of this month; the accounts are the caller's. Null where its id is taken, or what it resolves or reverses is already. */
export async function insertTransfer(tx: Tx, row: Omit<TransferRow, 'createdAt' | 'expiresAt'>): Promise<TransferRow | null> {
  const rows = await tx.$queryRaw<TransferRow[]>`
    insert into transfer (id, batch_id, kind, phase, debit_account_id, credit_account_id, amount_nanos, currency, period, consumer_tenant_id,
                          publisher_tenant_id, pending_id, reverses_id, note, created_at, expires_at)
    select ${row.id}::uuid, ${row.batchId}::uuid, ${row.kind}::transfer_kind, ${row.phase}::transfer_phase, ${row.debitAccountId}::uuid,
           ${row.creditAccountId}::uuid, ${row.amountNanos}, ${row.currency}, mercato_period(n.instant), ${row.consumerTenantId}::uuid,
           ${row.publisherTenantId}::uuid, ${row.pendingId}::uuid, ${row.reversesId}::uuid, ${row.note}, n.instant,
           n.instant + make_interval(secs => ${row.timeoutMs}::float8 / 1000)
      from (select date_trunc('milliseconds', mercato_now()) instant) n
        on conflict do nothing returning ${COLUMNS}`;
  return rows[0] ?? null;
}

/** A transfer by its own id, or the one that resolves the pending transfer of an id. */
export async function readTransfer(tx: Tx, by: { id: string } | { pendingId: string }): Promise<TransferRow | null> {
  const where = 'id' in by ? Prisma.sql`id = ${by.id}::uuid` : Prisma.sql`pending_id = ${by.pendingId}::uuid`;
  const rows = await tx.$queryRaw<TransferRow[]>`select ${COLUMNS} from transfer where ${where}`;
  return rows[0] ?? null;
}

/** What the marketplace took of a charge. */
export function commissionsOf(tx: Tx, charge: TransferRow): Promise<TransferRow[]> {
  return tx.$queryRaw<TransferRow[]>`select ${COLUMNS} from transfer where batch_id = ${charge.batchId}::uuid and kind = 'COMMISSION'`;
}

/** Writes the end of at most 500 pending transfers past their expiry; those that ended. */
export function insertExpiries(tx: Tx): Promise<TransferRow[]> {
  return tx.$queryRaw<TransferRow[]>`
    insert into transfer (id, batch_id, kind, phase, debit_account_id, credit_account_id, amount_nanos, currency, period, consumer_tenant_id,
                          publisher_tenant_id, pending_id)
    select gen_random_uuid(), t.batch_id, t.kind, 'EXPIRE_PENDING', t.debit_account_id, t.credit_account_id, t.amount_nanos, t.currency,
           mercato_period(mercato_now()), t.consumer_tenant_id, t.publisher_tenant_id, t.id
      from transfer t
     where t.expires_at <= mercato_now() and not exists (select from transfer r where r.pending_id = t.id)
     order by t.id limit 500
        on conflict do nothing returning ${COLUMNS}`;
}

type Row = Omit<TransferView, 'amount'> & { amountNanos: bigint; currency: string };

function seenBy(tenantId: string): Prisma.Sql {
  return Prisma.sql`
    select t.id, t.kind::text kind, t.phase::text phase, case when debit.tenant_id = ${tenantId}::uuid then 'OUT' else 'IN' end direction,
           t.amount_nanos "amountNanos", t.currency, t.period, t.note, t.pending_id "pendingId", t.reverses_id "reversesId",
           t.expires_at "expiresAt", t.created_at "createdAt"
      from transfer t
      left join account debit on debit.id = t.debit_account_id`;
}

/** A tenant's transfers, newest first, up to one more than the page holds. */
export async function listTransfers(tx: Tx, tenantId: string, page: PageRequest): Promise<TransferView[]> {
  const rows = await tx.$queryRaw<Row[]>`
    ${seenBy(tenantId)}
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
    ${seenBy(tenantId)} where t.id = ${id}::uuid and ${tenantId}::uuid in (t.consumer_tenant_id, t.publisher_tenant_id)`;
  return rows[0] ? viewOf(rows[0]) : null;
}

function viewOf({ amountNanos, currency, ...row }: Row): TransferView {
  return { ...row, amount: { nanos: amountNanos, currency } };
}
