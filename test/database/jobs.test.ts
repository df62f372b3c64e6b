import { expect, test } from 'vitest';
import { asSystem, type Database } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { createLog } from '../../src/base/log.ts';
import type { CheckVersion } from '../../src/catalog/catalog.ts';
import { createJobs } from '../../src/prediction/jobs.ts';
import { openTestDatabase } from '../support/database.ts';

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
