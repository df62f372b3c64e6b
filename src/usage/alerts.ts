import type { Tx } from '../base/database.ts';
import type { PageRequest } from '../base/ids.ts';

/** A threshold of a limit was crossed, and by what. */
export type AlertView = { id: string; limitId: string; limitName: string; percent: number; used: bigint; amount: bigint; createdAt: Date };

type Row = Omit<AlertView, 'used'> & { used: string };

/** A tenant's alerts, newest first, up to one more than the page holds. */
export async function listAlerts(tx: Tx, tenantId: string, page: PageRequest): Promise<AlertView[]> {
  const rows = await tx.$queryRaw<Row[]>`
    select a.id, a.limit_id "limitId", l.name "limitName", a.percent, a.used::text used, a.amount, a.created_at "createdAt"
      from usage_alert a join usage_limit l on l.id = a.limit_id
     where a.tenant_id = ${tenantId}::uuid
       and (${page.afterId}::uuid is null
            or (a.created_at, a.id) < (select c.created_at, c.id from usage_alert c where c.id = ${page.afterId}::uuid and c.tenant_id = ${tenantId}::uuid))
     order by a.created_at desc, a.id desc limit ${page.first + 1}`;
  return rows.map((row) => ({ ...row, used: BigInt(row.used) }));
}

export async function findAlert(tx: Tx, tenantId: string, id: string): Promise<AlertView | null> {
  const [row] = await tx.$queryRaw<Row[]>`
    select a.id, a.limit_id "limitId", l.name "limitName", a.percent, a.used::text used, a.amount, a.created_at "createdAt"
      from usage_alert a join usage_limit l on l.id = a.limit_id where a.id = ${id}::uuid and a.tenant_id = ${tenantId}::uuid`;
  return row ? { ...row, used: BigInt(row.used) } : null;
}

/** Deletes alerts of more than 400 days ago. */
export async function dropOldAlerts(tx: Tx): Promise<void> {
  await tx.$executeRaw`select mercato_drop_old_alerts()`;
}

/** After so long nobody is told any more; the inbox has it still. */
export const OUTBOX_DAYS = 30;

/** Deletes what has been in the outbox for long, delivered or not. */
export async function dropOldMessages(tx: Tx): Promise<void> {
  await tx.$executeRaw`delete from outbox where created_at < mercato_now() - make_interval(days => ${OUTBOX_DAYS}::int)`;
}
