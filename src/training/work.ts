import { asSystem, asTenant, type Database, type Tx } from '../base/database.ts';
import { ERRORS, type ErrorCode, MercatoError } from '../base/errors.ts';
import { newId } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import { publish } from '../base/signals.ts';
import type { Jobs } from '../catalog/catalog.ts';
import type { Work, WorkKind } from '../generated/prisma/client.ts';

/** Work that this process holds. `attempt` fences: a process that lost it writes nothing more. */
export type Claim = {
  readonly id: string;
  readonly tenantId: string;
  readonly attempt: number;
  readonly limits: Limits;
  /** CPU time that earlier attempts took. */
  readonly computeMicros: bigint;
  /** Aborted when the work is cancelled, lost to another process, or this process stops. */
  readonly signal: AbortSignal;
};

/** `timeLimitMs` bounds each attempt with what earlier ones computed; `memoryLimitMib` what a process takes beyond an idle one. */
export type Limits = { timeLimitMs: number; memoryLimitMib: number };

export type WorkError = { code: ErrorCode; message: string; field: string | null };

/** Does one kind of work and ends it by `finish`. What it throws fails the work; `Superseded` leaves it to whoever has it. */
export type Perform = (claim: Claim) => Promise<void>;

/** The claim is another's, or the work was cancelled. */
export class Superseded extends Error {
  override readonly name = 'Superseded';
}

export const QUEUES = { PROFILE: 'profile', TRAIN: 'train', OPTIMIZE: 'optimize', DEPLOY: 'deploy' } as const satisfies Record<
  WorkKind,
  string
>;

/** The topic of signals about work. */
export const WORK = 'work';

const KINDS = Object.keys(QUEUES) as WorkKind[];
const SWEEP_MS = 5_000;
const SWEEP_MAX = 100;
const LOOK_MS = 1_000;
/** A fault of ours, such as a lost connection, may pass. */
const ATTEMPTS_MAX = 3;

export type Works = AsyncDisposable & {
  /** Takes up work from now on: what is asked for, and every few seconds what lost its process or its job. */
  start(performers: Record<WorkKind, Perform>): Promise<void>;
  /** Asks for work that a committed transaction made, by whichever process. */
  request(works: readonly { id: string; kind: WorkKind }[]): Promise<void>;
};

/**
 * Background work of any kind: a row that is QUEUED, RUNNING in one server process, and ended once. A process that no longer says that it lives
 * loses what it holds within `SWEEP_MS` and a lease; one that stops gives it back. Jobs only say where to look: the row decides.
 */
export function createWorks({ db, jobs, processId, log }: { db: Database; jobs: Jobs; processId: string; log: Log }): Works {
  const held = new Map<string, { claim: Claim; stop: AbortController; ended: Promise<void> }>();
  let stopping = false;
  let sweeping: NodeJS.Timeout | undefined;

  async function request(works: readonly { id: string; kind: WorkKind }[]): Promise<void> {
    if (works.length === 0) return;
    await asSystem(db, (tx) =>
      enqueue(
        tx,
        jobs,
        'id',
        works.map(({ id }) => id),
      ),
    );
    for (const { kind } of works) jobs.wake(QUEUES[kind]);
  }

  async function take(id: string, perform: Perform): Promise<void> {
    if (stopping) return;
    const stop = new AbortController();
    const claim = await asSystem(db, (tx) => claimWork(tx, id, processId, stop.signal));
    if (claim === null) return;
    const ended = hold(claim, perform);
    held.set(id, { claim, stop, ended });
    await ended.finally(() => held.delete(id));
  }

  /** Never rejects: what cannot be written now is found by the sweep of whoever lives. */
  async function hold(claim: Claim, perform: Perform): Promise<void> {
    const looking = setInterval(() => void look(claim), LOOK_MS);
    try {
      await perform(claim);
    } catch (error) {
      await giveUp(claim, error).catch((failure: unknown) => log.error({ err: failure, workId: claim.id }, 'work could not be ended'));
    } finally {
      clearInterval(looking);
    }
  }

  async function look({ id, tenantId, attempt }: Claim): Promise<void> {
    const row = await asTenant(db, tenantId, (tx) => tx.work.findUnique({ where: { id } })).catch(() => undefined);
    if (row === undefined || (row?.state === 'RUNNING' && row.processId === processId && row.attempts === attempt)) return;
    held.get(id)?.stop.abort(new Superseded());
  }

  async function giveUp(claim: Claim, error: unknown): Promise<void> {
    if (error instanceof Superseded) return;
    if (stopping) return release(claim);
    if (error instanceof MercatoError) return fail(claim, { code: error.code, message: error.message, field: error.data.field ?? null });
    log.error({ err: error, workId: claim.id, attempt: claim.attempt }, 'background work failed');
    if (claim.attempt < ATTEMPTS_MAX) return release(claim);
    return fail(claim, { code: 'INTERNAL', message: ERRORS.INTERNAL.text, field: null });
  }

  async function release({ id, tenantId, attempt }: Claim): Promise<void> {
    await asTenant(db, tenantId, (tx) =>
      tx.work.updateMany({ where: { id, attempts: attempt, processId, state: 'RUNNING' }, data: { state: 'QUEUED', processId: null } }),
    );
  }

  async function fail(claim: Claim, error: WorkError): Promise<void> {
    await asTenant(db, claim.tenantId, (tx) => end(tx, claim, { state: 'FAILED', error }));
    log.info({ workId: claim.id, ...error }, 'background work failed for a reason that its owner can mend');
  }

  async function sweep(): Promise<void> {
    await asSystem(db, async (tx) => {
      await tx.$executeRaw`
        update work set state = 'QUEUED', process_id = null where state = 'RUNNING' and process_id <> ${processId}::uuid and not exists (
          select from server_process p where p.id = work.process_id and p.heartbeat_at > mercato_now() - interval '5 seconds')`;
      await enqueue(tx, jobs, 'waiting', []);
    });
    for (const kind of KINDS) jobs.wake(QUEUES[kind]);
  }

  return {
    request,
    async start(performers) {
      for (const kind of KINDS) await jobs.work(QUEUES[kind], ({ id }) => take(id, performers[kind]), 1);
      await sweep();
      sweeping = setInterval(() => {
        sweep().catch((error: unknown) => log.error({ err: error }, 'looking for waiting work failed'));
      }, SWEEP_MS);
      sweeping.unref();
    },
    async [Symbol.asyncDispose]() {
      stopping = true;
      clearInterval(sweeping);
      for (const { stop } of held.values()) stop.abort(new Error('the server stops'));
      await Promise.all([...held.values()].map(({ ended }) => ended));
    },
  };
}

/** Whether nothing more happens to the work: also where the reader sees none. */
export async function hasEnded(tx: Tx, id: string): Promise<boolean> {
  const work = await tx.work.findUnique({ where: { id } });
  return work === null || (work.state !== 'QUEUED' && work.state !== 'RUNNING');
}

/** For a loader; row-level security lets its owner alone see work. */
export async function worksByIds(tx: Tx, ids: readonly string[]): Promise<Map<string, Work>> {
  const rows = await tx.work.findMany({ where: { id: { in: [...ids] } } });
  return new Map(rows.map((row) => [row.id, row]));
}

/** Inserts work; the object that it is about has the same id. */
export async function insertWork(tx: Tx, tenantId: string, kind: WorkKind, limits: Limits): Promise<string> {
  const { id } = await tx.work.create({ data: { id: newId(), tenantId, kind, ...limits } });
  return id;
}

/** Adds to what the work has cost, in the transaction of what it wrote. @throws Superseded: the transaction must not commit */
export async function spend(tx: Tx, { id, attempt }: Claim, micros: number): Promise<void> {
  const changed = await tx.work.updateMany({
    where: { id, attempts: attempt, state: 'RUNNING' },
    data: { computeMicros: { increment: BigInt(Math.round(micros)) } },
  });
  if (changed.count === 0) throw new Superseded();
  await publish(tx, WORK, id);
}

/** Ends the work as SUCCEEDED in the transaction of its result. @throws Superseded: the transaction must not commit */
export async function finish(tx: Tx, claim: Claim, micros: number): Promise<void> {
  await spend(tx, claim, micros);
  await end(tx, claim, { state: 'SUCCEEDED' });
}

async function end(tx: Tx, { id, attempt }: Claim, outcome: { state: 'SUCCEEDED' } | { state: 'FAILED'; error: WorkError }): Promise<void> {
  const error = outcome.state === 'FAILED' ? JSON.stringify(outcome.error) : null;
  const changed = await tx.$executeRaw`
    update work set state = ${outcome.state}::work_state, error = ${error}::jsonb, process_id = null, ended_at = mercato_now()
    where id = ${id}::uuid and attempts = ${attempt}::int and state = 'RUNNING'`;
  if (changed === 0) throw new Superseded();
  await publish(tx, WORK, id);
}

/** Ends work that has not ended; false: it had. Whoever holds it notices. */
export async function cancelWork(tx: Tx, id: string): Promise<boolean> {
  const changed = await tx.$executeRaw`
    update work set state = 'CANCELLED', process_id = null, ended_at = mercato_now()
    where id = ${id}::uuid and state in ('QUEUED', 'RUNNING')`;
  await publish(tx, WORK, id);
  return changed > 0;
}

/** Work that waits for nothing more; a deployment waits for its optimisations. */
async function claimWork(tx: Tx, id: string, processId: string, signal: AbortSignal): Promise<Claim | null> {
  const [work] = await tx.$queryRaw<Pick<Work, 'tenantId' | 'attempts' | 'timeLimitMs' | 'memoryLimitMib' | 'computeMicros'>[]>`
    update work set state = 'RUNNING', process_id = ${processId}::uuid, attempts = attempts + 1,
      started_at = coalesce(started_at, mercato_now())
    where id = ${id}::uuid and state = 'QUEUED' and not exists (
      select from optimization o join work w on w.id = o.id where o.deployment_id = work.id and w.state in ('QUEUED', 'RUNNING'))
    returning tenant_id "tenantId", attempts, time_limit_ms "timeLimitMs", memory_limit_mib "memoryLimitMib", compute_micros "computeMicros"`;
  if (work === undefined) return null;
  await publish(tx, WORK, id);
  const { tenantId, attempts: attempt, computeMicros, timeLimitMs, memoryLimitMib } = work;
  return { id, tenantId, attempt, limits: { timeLimitMs, memoryLimitMib }, computeMicros, signal };
}

/** A job for each: of the given ids, or of all that wait, oldest first. The attempt in its key lets work that came back have another. */
async function enqueue(tx: Tx, jobs: Jobs, which: 'id' | 'waiting', ids: readonly string[]): Promise<void> {
  const rows = await tx.$queryRaw<Pick<Work, 'id' | 'tenantId' | 'kind' | 'attempts'>[]>`
    select id, tenant_id "tenantId", kind::text kind, attempts from work
    where state = 'QUEUED' and (${which} = 'waiting' or id = any (${[...ids]}::uuid[])) and not exists (
      select from optimization o join work w on w.id = o.id where o.deployment_id = work.id and w.state in ('QUEUED', 'RUNNING'))
    order by created_at limit ${SWEEP_MAX}`;
  for (const { id, tenantId, kind, attempts } of rows) {
    await jobs.enqueue(tx, QUEUES[kind], { tenantId, id }, `${id}:${attempts}`);
  }
}
