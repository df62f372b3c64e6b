import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { asSystem, asTenant } from '../../src/base/database.ts';
import { ERRORS, MercatoError } from '../../src/base/errors.ts';
import { newId } from '../../src/base/ids.ts';
import { createLog } from '../../src/base/log.ts';
import { type CheckVersion, checksOfVersions } from '../../src/catalog/catalog.ts';
import { createModel } from '../../src/catalog/models.ts';
import { DEFAULT_BOUNDS, insertVersion } from '../../src/catalog/versions.ts';
import { createJobs } from '../../src/prediction/jobs.ts';
import { openTestDatabase } from '../support/database.ts';

test('a publisher sees how far the check of its version is, and why an attempt failed; nobody else does', async () => {
  await using db = await openTestDatabase();
  await using jobs = await createJobs(db, createLog('silent'));
  const [tenantId, other] = [newId(), newId()];
  await asSystem(db, (tx) =>
    tx.tenant.createMany({ data: [tenantId, other].map((id, index) => ({ id, name: `t${index}`, displayName: id })) }),
  );
  const { id: modelId } = await createModel(db, tenantId, { name: 'model' });

  async function draft(): Promise<string> {
    const file = { sha256: randomBytes(32).toString('hex'), sizeBytes: 1 };
    const version = { tenantId, modelId, ...file, ...DEFAULT_BOUNDS, trusted: false };
    return (await asTenant(db, tenantId, (tx) => insertVersion(tx, version))).id;
  }
  const enqueue = (versionId: string) =>
    asSystem(db, (tx) => jobs.enqueue(tx, 'check-version', { tenantId, versionId }, versionId, { tries: 2 }));
  const progress = async (id: string, reader = tenantId) => (await asTenant(db, reader, (tx) => checksOfVersions(tx, [id]))).get(id);
  const settled = (id: string) =>
    asTenant(db, tenantId, (tx) => tx.modelVersion.updateMany({ where: { id }, data: { state: 'REJECTED', rejection: {} } }));
  /** Makes a retry due, as its time does. */
  async function due(): Promise<void> {
    await asSystem(db, (tx) => tx.$executeRaw`update pgboss.job set start_after = now() where state = 'retry'`);
    jobs.wake('check-version');
  }

  const first = await draft();
  const second = await draft();
  const waiting = { state: 'WAITING', failedAttempts: 0, problem: null, nextAttemptAt: null };
  expect(await progress(first)).toEqual({ ...waiting, ahead: 0 });
  for (const id of [first, second]) await enqueue(id);
  expect(await progress(second)).toEqual({ ...waiting, ahead: 1 });
  expect(await progress(second, other)).toBeUndefined();

  let answer = Promise.withResolvers<void>();
  const check = ({ versionId }: CheckVersion) => (versionId === first ? answer.promise : Promise.resolve());
  await jobs.work('check-version', check, 1, 1);
  jobs.wake('check-version');
  await expect.poll(() => progress(first)).toEqual({ ...waiting, ahead: 0, state: 'RUNNING' });

  const ended = answer;
  answer = Promise.withResolvers();
  ended.reject(new MercatoError('OVERLOADED', 'No device has room.', { retryAfterMs: 1_000 }));
  const putOff = { ahead: 0, state: 'PUT_OFF', failedAttempts: 1, problem: 'No device has room.', nextAttemptAt: expect.any(Date) };
  await expect.poll(() => progress(first)).toEqual(putOff);
  expect(await progress(first, other)).toBeUndefined();
  const jobsOf = (reader: string) =>
    asTenant(db, reader, (tx) => tx.$queryRaw<unknown[]>`select from mercato_checks(${[first, second]}::uuid[])`);
  expect(await jobsOf(other)).toEqual([]);
  expect(await jobsOf(tenantId)).not.toEqual([]);

  await due();
  await expect.poll(() => progress(first)).toEqual({ ...putOff, state: 'RUNNING', nextAttemptAt: null });
  answer.reject(new Error('ENOENT: /var/lib/mercato/models/1f'));
  await expect.poll(() => progress(first)).toEqual({ ...putOff, failedAttempts: 2, problem: ERRORS.INTERNAL.text });

  await settled(first);
  expect(await progress(first)).toBeUndefined();
  expect(await progress(second)).toMatchObject({ ahead: 0 });
});
