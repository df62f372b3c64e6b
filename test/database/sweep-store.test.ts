import { createHash, randomBytes } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { asTenant } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { createLog } from '../../src/base/log.ts';
import { isOwnStore, sweepFiles } from '../../src/catalog/catalog.ts';
import { lockFile } from '../../src/catalog/files.ts';
import { sweepReplays } from '../../src/prediction/prediction.ts';
import { sweepCheckpoints } from '../../src/training/training.ts';
import { identityModel } from '../inference/tiny-models.ts';
import { asAdmin } from '../support/admin.ts';
import { type CatalogRig, openCatalog } from '../support/catalog.ts';
import { onPostgres, race } from '../support/races.ts';

let rig: CatalogRig;
beforeAll(async () => {
  rig = await openCatalog();
}, 60_000);
afterAll(() => rig[Symbol.asyncDispose]());

const digestOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const sweep = () => sweepFiles(rig.db, rig.store);
const isStored = async (sha256: string) => (await rig.stored()).some((path) => path.endsWith(sha256));

/** A file that nothing refers to, brought two days ago. */
async function orphan(): Promise<{ bytes: Buffer; sha256: string }> {
  const bytes = randomBytes(100);
  const { sha256 } = await rig.store.put(Readable.from([bytes]), 1_000);
  await rig.age(sha256);
  return { bytes, sha256 };
}

/** As if an upload's time had been over for so many days. */
async function overFor(days: number, uploadId: string): Promise<void> {
  await asAdmin(
    rig.db,
    (tx) => tx.$executeRaw`
    update upload set expires_at = mercato_now() - make_interval(days => ${days}::int) where id = ${uploadId}::uuid`,
  );
}

test('an upload that nothing was made of within a week ends, its file is deleted, and whoever uses it is told', async () => {
  const { id: tenantId } = await rig.tenant();
  const { id: modelId } = await rig.catalog.createModel(tenantId, { name: 'late' });
  const bring = async (days: number) => {
    const bytes = randomBytes(100);
    const uploadId = await rig.upload(tenantId, bytes);
    await overFor(days, uploadId);
    await rig.age(digestOf(bytes));
    return { uploadId, sha256: digestOf(bytes) };
  };
  const [late, inTime] = [await bring(8), await bring(6)];
  await sweep();
  expect([await isStored(late.sha256), await isStored(inTime.sha256)]).toEqual([false, true]);
  const upload = await asTenant(rig.db, tenantId, (tx) => rig.catalog.findUpload(tx, tenantId, late.uploadId));
  expect(upload).toMatchObject({ state: 'EXPIRED' });
  const make = (uploadId: string) => rig.catalog.createModelVersion(tenantId, { modelId, uploadId });
  await expect(make(late.uploadId)).rejects.toMatchObject({
    code: 'CONFLICT',
    data: { field: 'uploadId' },
    message: expect.stringContaining('in time'),
  });
  expect(await make(inTime.uploadId)).toMatchObject({ state: 'REJECTED' });
});

test('a file that nothing refers to is deleted once nobody brought it for a day; that of a version stays however old', async () => {
  const { id: tenantId } = await rig.tenant();
  const { id: modelId } = await rig.catalog.createModel(tenantId, { name: 'kept' });
  const { sha256: used } = await rig.version(tenantId, modelId, identityModel('FP32', ['N', 7]));
  await rig.age(used);
  const [old, again] = [await orphan(), await orphan()];
  await rig.store.put(Readable.from([again.bytes]), 1_000);
  await sweep();
  expect(await Promise.all([used, old.sha256, again.sha256].map(isStored))).toEqual([true, false, true]);
});

test('a file that was swept is had back by whoever reads it within a month', async () => {
  const [read, copied, late] = [await orphan(), await orphan(), await orphan()];
  await sweep();
  expect(await Promise.all([read, copied, late].map(({ sha256 }) => isStored(sha256)))).toEqual([false, false, false]);
  await rig.store.removeAbandoned();
  expect(Buffer.from(await rig.store.read(read.sha256))).toEqual(read.bytes);
  const copy = join(tmpdir(), newId());
  await rig.store.copyTo(copied.sha256, copy);
  expect(await readFile(copy)).toEqual(copied.bytes);
  await rm(copy);
  await rig.age(`removed/${late.sha256}`, 31);
  await rig.store.removeAbandoned();
  await expect(rig.store.read(late.sha256)).rejects.toThrow(/missing/);
});

test.runIf(onPostgres)('a file that is being brought again while it is swept stays', async () => {
  const { id: tenantId } = await rig.tenant();
  const { sha256 } = await orphan();
  const bring = async () => {
    await asTenant(
      rig.db,
      tenantId,
      (tx) => tx.$executeRaw`
      insert into upload (id, tenant_id, token_hash, expires_at, state, sha256, size_bytes)
      values (${newId()}::uuid, ${tenantId}::uuid, ${randomBytes(32)}::bytea, mercato_now(), 'COMPLETE', ${sha256}, 100)`,
    );
  };
  const { waited, result } = await race(rig.db, (tx) => lockFile(tx, sha256), sweep, bring);
  expect([waited, result.status, await isStored(sha256)]).toEqual([true, 'fulfilled', true]);
});

test('answers without a row, and checkpoints of what is not at work, are deleted from the store a day later; others stay', async () => {
  const { id: tenantId } = await rig.tenant();
  const [stored, lost, young, ended, waiting] = [newId(), newId(), newId(), newId(), newId()];
  const keys = [`replays/${stored}`, `replays/${lost}`, `replays/${young}`, `checkpoints/${ended}`, `checkpoints/${waiting}`];
  for (const key of keys) await rig.store.putBytes(key, Buffer.from('x'));
  for (const key of keys) if (!key.endsWith(young)) await rig.age(key);
  await asAdmin(rig.db, async (tx) => {
    await tx.replay.create({ data: { recordId: stored, tenantId, storeKey: `replays/${stored}`, expiresAt: new Date() } });
    const work = { tenantId, kind: 'TRAIN', timeLimitMs: 1_000, memoryLimitMib: 512 } as const;
    await tx.work.create({ data: { ...work, id: ended, state: 'CANCELLED', endedAt: new Date() } });
    await tx.work.create({ data: { ...work, id: waiting } });
  });
  await sweepReplays(rig.db, rig.store);
  await sweepCheckpoints(rig.db, rig.store);
  const left = await Promise.all(keys.map(async (key) => (await rig.store.readBytes(key)) !== null));
  expect(left).toEqual([true, false, true, false, true]);
});

test('a store is swept once it has been of one database alone for a day', async () => {
  const isOwn = (db = rig.db) => isOwnStore(db, rig.store, createLog('silent'));
  await rig.tenant();
  expect([await isOwn(), await isOwn()]).toEqual([false, false]);
  const [own] = await rig.store.keys('databases');
  await rig.age(`databases/${own}`);
  expect(await isOwn()).toBe(true);
  await using other = await openCatalog();
  expect(await isOwn(other.db)).toBe(false);
  expect(await isOwn()).toBe(true);
  await other.tenant();
  expect([await isOwn(other.db), await isOwn()]).toEqual([false, false]);
});
