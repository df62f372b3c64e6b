import { randomBytes } from 'node:crypto';
import { beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { register, signOff } from '../../src/access/process-rows.ts';
import { asSystem, asTenant, type Tx } from '../../src/base/database.ts';
import { MercatoError } from '../../src/base/errors.ts';
import { newId } from '../../src/base/ids.ts';
import { createLog } from '../../src/base/log.ts';
import { type Checks, createChecks } from '../../src/catalog/checks.ts';
import type { CheckVersion, Jobs } from '../../src/catalog/jobs.ts';
import type { ModelStore } from '../../src/catalog/store.ts';
import { textOf } from '../../src/catalog/verifications.ts';
import { createVersion, DEFAULT_BOUNDS, insertVersion } from '../../src/catalog/versions.ts';
import type { Grounds, Inference, Inspection } from '../../src/inference/inference.ts';
import { type CatalogRig, openCatalog } from '../support/catalog.ts';
import { onPostgres, race } from '../support/races.ts';

let rig: CatalogRig;
/** Living processes that have not told yet what computes there. */
const processes = Array.from({ length: 60 }, newId);
beforeAll(async () => {
  rig = await openCatalog();
  await asSystem(rig.db, async (tx) => {
    for (const processId of processes) await register(tx, processId);
  });
  beforeEach(() => asSystem(rig.db, (tx) => tx.$executeRaw`update server_process set heartbeat_at = mercato_now()`));
  return () => rig[Symbol.asyncDispose]();
});

const grounds = { devices: ['cuda:0', 'cpu'], runtime: 'onnxruntime-node 1' } as const;
const hardware = { 'cuda:0': 'a GPU', webgpu: 'another GPU', cpu: 'a CPU' };
const measured = { loadMs: 1, threads: 1, latencies: [{ rows: 1, p50Ms: 1, rowsPerSecond: 1_000 }], peakMemoryBytes: 1 };
const inspection: Inspection = {
  signature: { inputs: [], outputs: [], batchDimension: 'N' },
  ...{ joinable: true, batchFinding: '', maxBatchRows: 64 },
  profile: {
    device: 'cuda:0',
    partlyOnCpu: true,
    fallbacks: [],
    peakOnDevice: null,
    fixedRows: null,
    runLimitMs: 10_000,
    verifiedOn: [],
    ...grounds,
    ...measured,
  },
};

function checksOf(inference: Partial<Inference>) {
  const store = { read: async () => new Uint8Array(), deleteFile: vi.fn(async () => {}) };
  const jobs = { enqueue: vi.fn(async () => {}), wake() {}, work: vi.fn(async () => {}) };
  const processId = processes.pop() ?? '';
  const checks = createChecks({
    db: rig.db,
    store: store as Partial<ModelStore> as ModelStore,
    inference: inference as Inference,
    invalidations: rig.access.invalidations,
    jobs: jobs as Jobs,
    processId,
    log: createLog('silent'),
  });
  return { checks, store, jobs, processId };
}

/** A version that nobody checked, with a sample that nobody looks at; of the tenant that another is of, where one is given. */
async function draft(beside?: CheckVersion): Promise<CheckVersion> {
  const tenantId = beside?.tenantId ?? (await rig.tenant()).id;
  const { id: modelId } = await rig.catalog.createModel(tenantId, { name: `m${randomBytes(6).toString('hex')}` });
  const file = { sha256: randomBytes(32).toString('hex'), sizeBytes: 1 };
  const samples = [{ inputs: [], outputs: [], tolerance: 0 }];
  const version = { tenantId, modelId, ...file, ...DEFAULT_BOUNDS, trusted: false, samples };
  const { id: versionId } = await asTenant(rig.db, tenantId, (tx) => insertVersion(tx, version));
  return { tenantId, versionId };
}

const reread = ({ tenantId, versionId }: CheckVersion) =>
  asTenant(rig.db, tenantId, (tx) => tx.modelVersion.findUniqueOrThrow({ where: { id: versionId } }));

test.each([
  ['REJECTED', () => Promise.reject(new MercatoError('MODEL_REJECTED', 'The model crashed.'))],
  ['READY', () => Promise.resolve(inspection)],
])('what comes out %s of a gate that was stopped is not kept, and its file is', async (state, verdict) => {
  const data = await draft();
  let stopping: Checks | undefined;
  const inspect = async () => {
    await stopping?.stop();
    return verdict();
  };
  const { checks, store } = checksOf({ inspect });
  stopping = checks;
  await expect(checks.check(data)).rejects.toThrow(/checked again/);
  expect(await reread(data)).toMatchObject({ state: 'DRAFT', rejection: null, profile: null });
  expect(store.deleteFile).not.toHaveBeenCalled();
  await checksOf({ inspect: verdict }).checks.check(data);
  expect(await reread(data)).toMatchObject({ state });
});

test('what no device of one host answers suspends a version where no other host is known to, until one does', async () => {
  const data = await draft();
  const fault = new MercatoError('MODEL_REJECTED', 'Sample 0 is not answered.');
  const here = { devices: ['webgpu'], hardware, runtime: grounds.runtime } as const;
  const there = { ...grounds, hardware };
  const fallbacks = [{ device: 'webgpu', hardware: hardware.webgpu, fault: fault.message }];
  const wrong = { verify: async () => ({ verifiedOn: [], fallbacks, fault, ...here }), grounds: async () => here, unload: async () => {} };
  const answered = there.devices.map((device) => ({ device, hardware: hardware[device], runtime: grounds.runtime }));
  const right = { verify: async () => ({ verifiedOn: answered, fallbacks: [], fault: null, ...there }), grounds: async () => there };
  const suspensions = () => asSystem(rig.db, (tx) => tx.suspension.count({ where: { versionId: data.versionId, endedAt: null } }));
  const profile = async () => (await reread(data)).profile;
  await checksOf({ inspect: async () => inspection }).checks.check(data);
  const again = (host: Partial<Inference>, on: Grounds) => checksOf(host).checks.check({ ...data, grounds: textOf(on) });
  await again(wrong, here);
  expect(await profile()).toMatchObject({ verifiedOn: [], fallbacks });
  expect(await suspensions()).toBe(1);
  await again(right, there);
  expect(await suspensions()).toBe(0);
  await again(wrong, here);
  expect(await suspensions()).toBe(0);
  expect(await profile()).toMatchObject({ verifiedOn: answered, fallbacks });
  const elsewhere = checksOf(right).checks.check({ ...data, grounds: 'webgpu (another GPU) onnxruntime-node 1' });
  await expect(elsewhere).rejects.toThrow(/another host/);
});

/** What a host that starts asks for of a version. */
async function askedBy(checks: Checks, jobs: ReturnType<typeof checksOf>['jobs'], { versionId }: CheckVersion): Promise<CheckVersion[]> {
  jobs.enqueue.mockClear();
  await checks.start();
  const asked = (jobs.enqueue.mock.calls as unknown[][]).map(([, , job]) => job as CheckVersion);
  // A listing that changed meanwhile may have been asked for, too.
  return asked.filter((job, index) => job.versionId === versionId && asked.findIndex((other) => other.versionId === versionId) === index);
}

test('what was measured keeps its device where samples are answered on another, and is verified there once', async () => {
  const data = await draft();
  const now = { devices: ['cpu'], hardware, runtime: 'onnxruntime-node 2' } as const;
  const answered = { device: 'cpu', hardware: hardware.cpu, runtime: now.runtime };
  const fallbacks = [{ device: 'cuda:0', fault: 'seen on another host' }];
  const elsewhere = { device: 'cpu', runtime: grounds.runtime };
  const { checks, jobs } = checksOf({
    inspect: async () => ({ ...inspection, profile: { ...inspection.profile, fallbacks, verifiedOn: [elsewhere] } }),
    verify: async () => ({ verifiedOn: [answered], fallbacks: [], fault: null, ...now }),
    grounds: async () => now,
  });
  const asked = async () => (await askedBy(checks, jobs, data)).length;
  await checks.check(data);
  const { profile } = await reread(data);
  expect(await asked()).toBe(1);
  await checks.check(data);
  expect((await reread(data)).profile).toEqual(profile);
  await checks.check({ ...data, grounds: textOf(now) });
  const verifiedOn = [elsewhere, answered];
  expect((await reread(data)).profile).toEqual({ ...(profile as object), verifiedOn });
  expect(profile).toMatchObject({ ...grounds, ...measured, device: 'cuda:0', partlyOnCpu: true, fallbacks });
  expect(await asked()).toBe(0);
  await checks.stop();
});

test("a check has as many before it as its tenant's older versions that wait, and one tenant has one at a time", async () => {
  const first = await draft();
  const second = await draft(first);
  const other = await draft();
  const { checks, jobs } = checksOf({
    inspect: async () => inspection,
    grounds: async () => ({ devices: ['cpu'], hardware: { cpu: 'a CPU' }, runtime: 'onnxruntime-node 3' }),
  });
  const turnsOf = (...versions: CheckVersion[]) => {
    const calls = jobs.enqueue.mock.calls as unknown[][];
    return versions.map(({ versionId }) => calls.findLast(([, , job]) => (job as CheckVersion).versionId === versionId)?.[4]);
  };
  for (const data of [second, first, other]) await checks.request(data);
  expect(turnsOf(first, second, other)).toEqual([{ turn: 0 }, { turn: 1 }, { turn: 0 }]);
  await checks.request(second, 0);
  expect(turnsOf(second)).toEqual([{ turn: 0 }]);
  await checks.check(first);
  await checks.request(second);
  expect(turnsOf(second)).toEqual([{ turn: 0 }]);
  for (const data of [second, other]) await checks.check(data);
  await checks.start();
  expect(jobs.work).toHaveBeenCalledWith('check-version', expect.any(Function), 2, 1);
  expect(turnsOf(first, second, other)).toEqual([0, 1, 0].map((turn) => ({ tries: 100, turn })));
  await checks.stop();
});

describe('versions of a tenant that wait for their check', () => {
  const overloaded = expect.objectContaining({ code: 'OVERLOADED', data: { limit: '20', retryAfterMs: 10_000 } });

  /** A tenant with so many that wait; `make` makes one more, which nobody checks, of a new upload where none is given. */
  async function waiting(count: number) {
    const first = await draft();
    for (let i = 1; i < count; i++) await draft(first);
    const { tenantId } = first;
    const { checks } = checksOf({});
    await checks.stop();
    const { id: modelId } = await rig.catalog.createModel(tenantId, { name: 'one-more' });
    const upload = (bytes = randomBytes(32)) => rig.upload(tenantId, bytes);
    const make = (uploadId: string) => createVersion(rig.db, checks, tenantId, { modelId, uploadId });
    return { first, upload, make };
  }

  test('are 20 at most; what made one of them makes it again, and what was refused is made when another is checked', async () => {
    const { first, upload, make } = await waiting(19);
    const bytes = randomBytes(32);
    const [last, again, more] = [await upload(bytes), await upload(bytes), await upload()];
    const made = await make(last);
    const trained = await draft(first);
    await expect(make(more)).rejects.toEqual(overloaded);
    for (const uploadId of [last, again]) expect(await make(uploadId)).toMatchObject({ id: made.id, state: 'DRAFT' });
    for (const data of [first, trained]) await checksOf({ inspect: async () => inspection }).checks.check(data);
    expect(await make(more)).toMatchObject({ number: 2, state: 'DRAFT' });
  });

  test.skipIf(!onPostgres)('are as many where two are made at once', async () => {
    const { first, upload, make } = await waiting(19);
    const uploadId = await upload();
    const another = await upload();
    const { id: modelId } = await rig.catalog.createModel(first.tenantId, { name: 'another' });
    const version = { ...first, modelId, sha256: randomBytes(32).toString('hex'), sizeBytes: 1, ...DEFAULT_BOUNDS, trusted: false };
    const before = async (tx: Tx) => {
      await tx.$executeRaw`select set_config('role', 'none', true), pg_advisory_xact_lock(hashtext('mercato.open_versions'), hashtext(${first.tenantId}))`;
      await insertVersion(tx, version);
    };
    expect(await race(rig.db, before, () => make(uploadId))).toMatchObject({
      waited: true,
      result: { status: 'rejected', reason: overloaded },
    });
    await expect(make(another)).rejects.toEqual(overloaded);
  });
});

/** A host whose one device is `cpu`. `fault`: what it says of the samples. */
function hostOf(cpu: string, fault: MercatoError | null = null) {
  const here = { devices: ['cpu'], hardware: { cpu }, runtime: grounds.runtime } as const;
  const seen = { device: 'cpu', hardware: cpu };
  const verifiedOn = fault === null ? [{ ...seen, runtime: grounds.runtime }] : [];
  const fallbacks = fault === null ? [] : [{ ...seen, fault: fault.message }];
  const host = checksOf({
    inspect: async () => ({ ...inspection, profile: { ...inspection.profile, device: 'cpu', devices: ['cpu'], verifiedOn } }),
    verify: async () => ({ ...here, verifiedOn, fallbacks, fault }),
    grounds: async () => here,
    unload: async () => {},
  });
  return { ...host, verifiedOn, fallbacks, grounds: textOf(here), asked: (data: CheckVersion) => askedBy(host.checks, host.jobs, data) };
}

test('a version that another host measured is asked for as soon as it is READY, where the hardware is another', async () => {
  const data = await draft();
  const [first, second] = [hostOf('a CPU with VNNI'), hostOf('a CPU without')];
  await second.checks.start();
  second.jobs.enqueue.mockClear();
  await first.checks.check(data);
  const asked = () => (second.jobs.enqueue.mock.calls as unknown[][]).map(([, , job]) => (job as CheckVersion).versionId);
  await expect.poll(asked).toEqual([data.versionId]);
  await second.checks.stop();
});

test('other hardware under the name of a device must answer the samples too, on each host once', async () => {
  const data = await draft();
  const first = hostOf('a CPU with VNNI');
  const second = hostOf('a CPU without', new MercatoError('MODEL_REJECTED', 'Sample 0 is not answered.'));
  const seen = async () => (await reread(data)).profile;
  await first.checks.check(data);
  expect(await first.asked(data)).toEqual([]);
  const [job] = await second.asked(data);
  await expect(first.checks.check(job ?? data)).rejects.toThrow(/another host/);
  await second.checks.check(job ?? data);
  for (const host of [first, second, first, second]) expect(await host.asked(data)).toEqual([]);
  expect(await seen()).toMatchObject({ verifiedOn: first.verifiedOn, fallbacks: second.fallbacks });

  const profile = { ...((await seen()) as object), verifiedOn: [{ device: 'cpu', runtime: grounds.runtime }], fallbacks: [] };
  await asTenant(rig.db, data.tenantId, (tx) => tx.modelVersion.updateMany({ where: { id: data.versionId }, data: { profile } }));
  expect(await first.asked(data)).toHaveLength(1);
  await first.checks.check({ ...data, grounds: first.grounds });
  expect(await seen()).toMatchObject({ verifiedOn: first.verifiedOn });
  expect([(await first.asked(data)).length, (await second.asked(data)).length]).toEqual([0, 1]);
  for (const { checks } of [first, second]) await checks.stop();
});

test('what only hardware answered that no living host has is suspended', async () => {
  const data = await draft();
  const first = hostOf('a CPU that goes');
  const second = hostOf('a CPU that stays', new MercatoError('MODEL_REJECTED', 'Sample 0 is not answered.'));
  const suspensions = () => asSystem(rig.db, (tx) => tx.suspension.count({ where: { versionId: data.versionId, endedAt: null } }));
  await asSystem(rig.db, (tx) => tx.$executeRaw`update server_process set hardware = '{}' where hardware is null`);
  await first.checks.check(data);
  expect(await first.asked(data)).toEqual([]);
  const again = { ...data, grounds: second.grounds };
  expect(await second.asked(data)).toEqual([again]);
  await second.checks.check(again);
  expect(await suspensions()).toBe(0);
  expect(await second.asked(data)).toEqual([]);
  await asSystem(rig.db, (tx) => signOff(tx, first.processId));
  expect(await second.asked(data)).toEqual([again]);
  await second.checks.check(again);
  expect(await suspensions()).toBe(1);
  for (const { checks } of [first, second]) await checks.stop();
  await asSystem(rig.db, (tx) => tx.$executeRaw`update server_process set hardware = null`);
});
