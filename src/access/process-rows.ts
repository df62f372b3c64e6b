import type { Tx } from '../base/database.ts';
import { LIMITS } from '../base/limits.ts';

export type Notice = { seq: bigint; kind: string; subjectId: string };

/** Enters a process that remembers nothing yet, so it has confirmed whatever is committed. Returns that sequence number. System role, as all here. */
export async function register(tx: Tx, processId: string): Promise<bigint> {
  const [row] = await tx.$queryRaw<{ seq: bigint }[]>`
    insert into server_process (id, confirmed_seq, heartbeat_at, started_at)
    select ${processId}::uuid, coalesce(max(seq), 0), mercato_now(), mercato_now() from invalidation
    returning confirmed_seq as seq`;
  return row?.seq ?? 0n;
}

/** False: the process is not there any more. */
export async function beatHeart(tx: Tx, processId: string, appliedSeq: bigint): Promise<boolean> {
  const updated = await tx.$executeRaw`
    update server_process set heartbeat_at = mercato_now(), confirmed_seq = ${appliedSeq} where id = ${processId}::uuid`;
  return updated === 1;
}

/** In the order of commits. */
export function invalidationsAfter(tx: Tx, seq: bigint): Promise<Notice[]> {
  return tx.$queryRaw<Notice[]>`select seq, kind, subject_id as "subjectId" from invalidation where seq > ${seq} order by seq`;
}

/** The last that is committed; 0 where there is none. */
export async function lastInvalidation(tx: Tx): Promise<bigint> {
  const [row] = await tx.$queryRaw<{ seq: bigint }[]>`select coalesce(max(seq), 0) as seq from invalidation`;
  return row?.seq ?? 0n;
}

/** Whether a live process has yet to confirm `seq`. */
export async function isAwaited(tx: Tx, seq: bigint): Promise<boolean> {
  const rows = await tx.$queryRaw<unknown[]>`
    select 1 from server_process
    where confirmed_seq < ${seq} and heartbeat_at >= mercato_now() - make_interval(secs => ${LIMITS.leaseMs / 1000}::float8)
    limit 1`;
  return rows.length > 0;
}

/**
 * A process is removed an hour after its last heartbeat, an invalidation after two: one that comes back within the hour finds all that it
 * missed, and one that comes back later finds itself removed.
 */
export async function prune(tx: Tx): Promise<void> {
  await tx.$executeRaw`delete from server_process where heartbeat_at < mercato_now() - interval '1 hour'`;
  await tx.$executeRaw`delete from invalidation where created_at < mercato_now() - interval '2 hours'`;
}

export async function signOff(tx: Tx, processId: string): Promise<void> {
  await tx.$executeRaw`delete from server_process where id = ${processId}::uuid`;
}
