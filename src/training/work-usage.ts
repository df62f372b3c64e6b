import type { Tx } from '../base/database.ts';
import { badInput } from '../base/errors.ts';
import type { WorkKind } from '../generated/prisma/client.ts';

export type WorkUsage = { kind: WorkKind; works: number; computeMicros: bigint };

/** As `Training.workUsage`, by kind. */
export async function workUsage(tx: Tx, tenantId: string, from: Date, to: Date): Promise<WorkUsage[]> {
  if (from >= to) throw badInput('to', 'to must be after from.', { given: to.toISOString(), expected: `after ${from.toISOString()}` });
  return tx.$queryRaw<WorkUsage[]>`
    select kind::text kind, count(*)::int works, sum(compute_micros)::bigint "computeMicros" from work
    where tenant_id = ${tenantId}::uuid and created_at >= ${from} and created_at < ${to} group by kind order by kind`;
}
