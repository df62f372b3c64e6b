import { expect, test } from 'vitest';
import { asSystem, type Database } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { createLog } from '../../src/base/log.ts';
import type { CheckVersion } from '../../src/catalog/catalog.ts';
import { createJobs } from '../../src/prediction/jobs.ts';
import { asAdmin } from '../support/admin.ts';
import { openTestDatabase } from '../support/database.ts';
import { onPostgres } from '../support/races.ts';

const log = createLog('silent');
const states = (db: Database) =>
  asSystem(db, (tx) => tx.$queryRaw<{ state: string }[]>`select state::text from pgboss.job order by created_on`).then((rows) =>
    rows.map((row) => row.state),
  );

test('a job is done once, and one that failed is tried again', async () => {
  await using db = await openTestDatabase();
  await using jobs = await createJobs(db, log);
  const done: CheckVersion[] = [];
  const work = async (data: CheckVersion) => {
    done.push(data);
    if (done.length === 1) throw new Error('try again');
  };
  await jobs.work('check-version', work, 1);
  const data = { tenantId: newId(), versionId: newId() };
  await asSystem(db, (tx) => jobs.enqueue(tx, 'check-version', data, data.versionId));
  jobs.wake('check-version');
  await expect.poll(() => states(db), { timeout: 20_000 }).toEqual(['completed']);
  expect(done).toEqual([data, data]);
});

test('a job belongs to the transaction that adds it, and one version gets one at a time', async () => {
  await using db = await openTestDatabase();
  await using jobs = await createJobs(db, log);
  const data = { tenantId: newId(), versionId: newId() };
  const lost = asSystem(db, async (tx) => {
    await jobs.enqueue(tx, 'check-version', data, data.versionId);
    throw new Error('rolled back');
  });
  await expect(lost).rejects.toThrow('rolled back');
  expect(await states(db)).toEqual([]);
  for (let i = 0; i < 3; i++) await asSystem(db, (tx) => jobs.enqueue(tx, 'check-version', data, data.versionId));
  expect(await states(db)).toEqual(['created']);
});

test('a job whose process says nothing any more is done by another, and given up where it was tried often', async () => {
  await using db = await openTestDatabase();
  const data = { tenantId: newId(), versionId: newId() };
  const lost = { tenantId: newId(), versionId: newId() };
  {
    await using jobs = await createJobs(db, log);
    for (const job of [data, lost]) await asSystem(db, (tx) => jobs.enqueue(tx, 'check-version', job, job.versionId));
  }
  await asSystem(db, async (tx) => {
    await tx.$executeRaw`update pgboss.job set state = 'active', started_on = now(), heartbeat_on = now() - interval '1 minute'`;
    await tx.$executeRaw`update pgboss.job set retry_count = retry_limit where data->>'versionId' = ${lost.versionId}`;
  });
  await using jobs = await createJobs(db, log);
  expect(await states(db)).toEqual(['retry']);
  const done: CheckVersion[] = [];
  await jobs.work('check-version', async (job) => void done.push(job), 1);
  await expect.poll(() => states(db), { timeout: 20_000 }).toEqual(['completed']);
  expect(done).toEqual([data]);
});

test('a job whose process died is given up, so that it can be asked for again', async () => {
  await using db = await openTestDatabase();
  const data = { tenantId: newId(), versionId: newId() };
  {
    await using jobs = await createJobs(db, log);
    await asSystem(db, (tx) => jobs.enqueue(tx, 'check-version', data, data.versionId));
  }
  await asSystem(db, (tx) => tx.$executeRaw`update pgboss.job set state = 'active', started_on = now() - interval '1 hour'`);
  await using jobs = await createJobs(db, log);
  await asSystem(db, (tx) => jobs.enqueue(tx, 'check-version', data, data.versionId));
  expect(await states(db)).toEqual(['created']);
});

/** Jobs that begin and do not end before the test says so. */
function held() {
  const begun: string[] = [];
  const released = Promise.withResolvers<void>();
  const work = async ({ versionId }: CheckVersion) => {
    begun.push(versionId);
    await released.promise;
  };
  return { begun, work, release: () => released.resolve() };
}

const jobOf = (tenantId: string): CheckVersion => ({ tenantId, versionId: newId() });

test("of one tenant's jobs one is done at a time, and those of others are not kept behind it", async () => {
  await using db = await openTestDatabase();
  await using jobs = await createJobs(db, log);
  const tenantId = newId();
  const all = [jobOf(tenantId), jobOf(tenantId), jobOf(tenantId), jobOf(newId())];
  for (const data of all) await asSystem(db, (tx) => jobs.enqueue(tx, 'check-version', data, data.versionId));
  const { begun, work, release } = held();
  await jobs.work('check-version', work, 2, 1);
  const [first, , , other] = all.map(({ versionId }) => versionId);
  await expect.poll(() => begun.toSorted(), { timeout: 20_000 }).toEqual([first, other].toSorted());
  release();
  await expect.poll(() => states(db), { timeout: 20_000 }).toEqual(all.map(() => 'completed'));
});

test("each tenant's first job is done before any tenant's second", async () => {
  await using db = await openTestDatabase();
  await using jobs = await createJobs(db, log);
  const [tenantId, other] = [newId(), newId()];
  const turns = [
    [jobOf(tenantId), 1],
    [jobOf(tenantId), 0],
    [jobOf(tenantId), 2],
    [jobOf(other), 0],
    [jobOf(other), 1],
  ] as const;
  for (const [data, turn] of turns) await asSystem(db, (tx) => jobs.enqueue(tx, 'check-version', data, data.versionId, { turn }));
  const done: CheckVersion[] = [];
  await jobs.work('check-version', async (data) => void done.push(data), 1);
  await expect.poll(() => done.length, { timeout: 20_000 }).toBe(turns.length);
  expect(done.map((data) => turns.findIndex(([one]) => one.versionId === data.versionId))).toEqual([1, 3, 0, 4, 2]);
});

test("a tenant's second job has the place of a first when its first is done", async () => {
  await using db = await openTestDatabase();
  await using jobs = await createJobs(db, log);
  const tenantId = newId();
  const [first, second, other] = [jobOf(tenantId), jobOf(tenantId), jobOf(newId())];
  const enqueue = (data: CheckVersion, turn: number) =>
    asSystem(db, (tx) => jobs.enqueue(tx, 'check-version', data, data.versionId, { turn }));
  await enqueue(first, 0);
  await enqueue(second, 1);
  const done: string[] = [];
  const work = async ({ versionId }: CheckVersion) => {
    if (versionId === first.versionId) await enqueue(other, 0);
    done.push(versionId);
  };
  await jobs.work('check-version', work, 1, 1);
  await expect.poll(() => done, { timeout: 20_000 }).toEqual([first, second, other].map(({ versionId }) => versionId));
});

test.skipIf(!onPostgres)('two processes that look for work at once do not both take of one tenant', async () => {
  await using db = await openTestDatabase();
  await using one = await createJobs(db, log);
  await using two = await createJobs(db, log);
  const tenantId = newId();
  const all = [jobOf(tenantId), jobOf(tenantId), jobOf(newId())];
  for (const data of all) await asSystem(db, (tx) => one.enqueue(tx, 'check-version', data, data.versionId));
  const HOLD = 4_711;
  await asAdmin(db, async (tx) => {
    await tx.$executeRawUnsafe(`create function pgboss.hold() returns trigger language plpgsql as
      $$ begin if new.state = 'active' then perform pg_advisory_xact_lock(${HOLD}); end if; return new; end $$`);
    await tx.$executeRawUnsafe('create trigger hold before update on pgboss.job_common for each row execute function pgboss.hold()');
  });
  const { begun, work, release } = held();
  await asAdmin(db, async (tx) => {
    await tx.$executeRaw`select pg_advisory_xact_lock(${HOLD}::bigint)`;
    for (const jobs of [one, two]) await jobs.work('check-version', work, 1, 1);
    const waiting = async () => {
      const [row] = await tx.$queryRaw<{ count: number }[]>`
        select count(*)::int from pg_locks l join pg_database d on d.oid = l.database
         where d.datname = current_database() and l.locktype = 'advisory' and not l.granted`;
      return row?.count;
    };
    await expect.poll(waiting, { timeout: 20_000 }).toBe(2);
  });
  const [first, , other] = all.map(({ versionId }) => versionId);
  await expect.poll(() => begun.toSorted(), { timeout: 20_000 }).toEqual([first, other].toSorted());
  release();
});
