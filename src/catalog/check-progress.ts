import type { Tx } from '../base/database.ts';
import { ERRORS } from '../base/errors.ts';

/**
 * How far the check of an open version is. `ahead`: its tenant's versions that come before it; `failedAttempts`: those that ended without a verdict, of which `problem`
 * says why the last did; null: no attempt failed. `nextAttemptAt`: not before; null: as soon as there is a place, or where several in turn failed.
 */
export type CheckProgress = {
  state: 'WAITING' | 'RUNNING' | 'PUT_OFF';
  ahead: number;
  failedAttempts: number;
  problem: string | null;
  nextAttemptAt: Date | null;
};

type Job = { running: boolean; failures: number; fault: unknown; nextAttemptAt: Date | null };

/** Of open versions of the reader; nothing is told of others'. For a loader. */
export async function checksOfVersions(tx: Tx, versionIds: readonly string[]): Promise<Map<string, CheckProgress>> {
  const open = await tx.$queryRaw<(Job & { id: string; ahead: number })[]>`
    select v.id, coalesce(c.running, false) running, coalesce(c.failures, 0) failures, c.fault, c.next_attempt_at "nextAttemptAt",
           (select count(*)::int from model_version o where o.tenant_id = v.tenant_id and o.state in ('DRAFT', 'CHECKED') and o.id < v.id) ahead
      from model_version v left join mercato_checks(${[...versionIds]}::uuid[]) c on c.version_id = v.id
     where v.id = any(${[...versionIds]}::uuid[]) and v.tenant_id = mercato_tenant_id() and v.state in ('DRAFT', 'CHECKED')`;
  return new Map(open.map(({ id, ahead, ...job }) => [id, { ahead, ...progressOf(job) }]));
}

function progressOf({ running, failures, fault, nextAttemptAt }: Job): Omit<CheckProgress, 'ahead'> {
  const state = running ? 'RUNNING' : failures > 0 ? 'PUT_OFF' : 'WAITING';
  return { state, failedAttempts: failures, problem: failures > 0 ? problemOf(fault) : null, nextAttemptAt };
}

/** As a job keeps it: a process that died leaves nothing, and what is not public stays in the log. */
function problemOf(fault: unknown): string {
  const { name, message } = (fault ?? {}) as Partial<Error>;
  return name === 'MercatoError' && message !== undefined ? message : ERRORS.INTERNAL.text;
}
