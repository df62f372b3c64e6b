import { PgBoss } from 'pg-boss';
import { asSystem, type Database, type Tx } from '../base/database.ts';
import type { Log } from '../base/log.ts';
import type { JobData, Jobs, Queue } from '../catalog/catalog.ts';

const MAINTENANCE_MS = 15_000;
/** A job of which its process says nothing for so long is nobody's. */
const HEARTBEAT_S = 30;
/** At most one job of a key in each such stretch of time, the failed and the done included. */
const ONCE_PER_SECONDS = 600;
const STOP_LIMIT_MS = 5_000;

/**
 * Background work by pg-boss on the same database, through the system role; its schema and queues come with the migrations. Dispose of it: it waits a
 * few seconds for the jobs at work. A job whose process died goes to another within a minute; one that was tried often enough is given up, for the sweep to ask again.
 */
export async function createJobs(db: Database, log: Log): Promise<Jobs & AsyncDisposable> {
  const boss = new PgBoss({
    db: { executeSql: (sql, values) => asSystem(db, (tx) => executeAlone(tx, sql, values)) },
    schema: 'pgboss',
    migrate: false,
    createSchema: false,
    // Its own supervisor sends several statements at once, which Prisma's prepared queries refuse; `maintain` does its part.
    supervise: false,
    schedule: false,
    registerInstance: false,
  });
  boss.on('error', (error) => log.error({ err: error }, 'a background job failed outside its handler'));
  await boss.start();
  await maintain(db);
  const timer = setInterval(() => {
    maintain(db).catch((error: unknown) => log.error({ err: error }, 'job maintenance failed'));
  }, MAINTENANCE_MS);
  timer.unref();
  const workers = new Map<string, string[]>();

  function wake(queue: Queue): void {
    for (const id of workers.get(queue) ?? []) boss.notifyWorker(id);
  }

  return {
    async enqueue(tx, queue, data, key, { tries, turn = 0 } = {}) {
      const options = {
        singletonKey: key,
        singletonSeconds: ONCE_PER_SECONDS,
        heartbeatSeconds: HEARTBEAT_S,
        group: { id: data.tenantId },
        priority: -turn,
        ...(tries === undefined ? {} : { retryLimit: tries }),
      };
      await boss.send(queue, data, { ...options, db: { executeSql: (sql, values) => execute(tx, sql, values) } });
    },
    wake,
    async work<Q extends Queue>(queue: Q, handler: (data: JobData[Q]) => Promise<void>, concurrency: number, perTenant?: number) {
      // Embedded, this process is the only one and is woken by itself: polling finds retries alone.
      const pollingIntervalSeconds = db.kind === 'embedded' ? 10 : 2;
      const options = { pollingIntervalSeconds, ...(perTenant === undefined ? {} : { groupConcurrency: perTenant }) };
      const work = () =>
        boss.work<JobData[Q]>(queue, options, async (jobs) => {
          for (const job of jobs) await handler(job.data);
          if (perTenant !== undefined) for (const { data } of jobs) await advance(db, queue, data.tenantId);
          // What waited for its turn, or was passed over meanwhile, may be next.
          wake(queue);
        });
      workers.set(queue, await Promise.all(Array.from({ length: concurrency }, work)));
    },
    async [Symbol.asyncDispose]() {
      clearInterval(timer);
      await boss.stop({ graceful: true, timeout: STOP_LIMIT_MS });
    },
  };
}

/** Two that fetch at once would each find a tenant without a job at work, and take one of its jobs. */
async function executeAlone(tx: Tx, sql: string, values?: unknown[]): Promise<{ rows: unknown[] }> {
  if (sql.includes('SKIP LOCKED')) await tx.$executeRaw`select pg_advisory_xact_lock(hashtext('mercato.jobs'))`;
  return execute(tx, sql, values);
}

async function execute(tx: Tx, sql: string, values: unknown[] = []): Promise<{ rows: unknown[] }> {
  // Prisma reads no column of type regclass, which pg-boss asks for at start.
  const readable = sql.replace(/(to_regclass\('[^']*'\))(?!::)/g, '$1::text');
  const rows = await tx.$queryRawUnsafe<unknown>(readable, ...values);
  return { rows: Array.isArray(rows) ? rows : [] };
}

/** One of the tenant's jobs is done: its others are one turn nearer. */
async function advance(db: Database, queue: Queue, tenantId: string): Promise<void> {
  await asSystem(
    db,
    (tx) => tx.$executeRaw`
      update pgboss.job set priority = priority + 1 where name = ${queue} and group_id = ${tenantId} and state < 'active' and priority < 0`,
  );
}

/** Removes what is long done, and lets others have, or removes, what a dead process held. */
async function maintain(db: Database): Promise<void> {
  await asSystem(db, async (tx) => {
    await tx.$executeRaw`
      update pgboss.job set state = 'retry', start_after = now(), heartbeat_on = null
       where state = 'active' and retry_count < retry_limit and heartbeat_on + make_interval(secs => heartbeat_seconds) < now()`;
    await tx.$executeRaw`
      delete from pgboss.job where keep_until < now() and state < 'active'
        or completed_on + make_interval(secs => deletion_seconds) < now()
        or state = 'active' and least(started_on + make_interval(secs => expire_seconds), heartbeat_on + make_interval(secs => heartbeat_seconds)) < now()`;
  });
}
