import { createHash, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { beforeAll, expect, test } from 'vitest';
import type { Invalidations } from '../../src/access/access.ts';
import { asSystem, asTenant } from '../../src/base/database.ts';
import type { PageRequest } from '../../src/base/ids.ts';
import { LIMITS } from '../../src/base/limits.ts';
import type { ModelView, PlanInput, PlanView } from '../../src/catalog/catalog.ts';
import { versionsByModel } from '../../src/catalog/catalog.ts';
import { createEntitlements } from '../../src/catalog/entitlements.ts';
import { runnable } from '../../src/catalog/runnable.ts';
import { toVersionView } from '../../src/catalog/views.ts';
import type { Prisma } from '../../src/generated/prisma/client.ts';
import type { Signature } from '../../src/inference/inference.ts';
import { encodeModel, graph, node, model as onnxModel, tensor, value } from '../../src/inference/onnx/onnx.ts';
import { identityModel, mixingModel } from '../inference/tiny-models.ts';
import { type CatalogRig, openCatalog, tokenOf } from '../support/catalog.ts';

let rig: CatalogRig;
beforeAll(async () => {
  rig = await openCatalog();
  return () => rig[Symbol.asyncDispose]();
});

const code = (expected: string) => expect.objectContaining({ code: expected });
const field = (expected: string, name: string) =>
  expect.objectContaining({ code: expected, data: expect.objectContaining({ field: name }) });
const basic: PlanInput = { name: 'basic', unitPriceNanos: '1000' };

/** y = x + c, with bytes that no other call makes. */
function uniqueModel(): Uint8Array {
  return encodeModel(
    onnxModel(
      graph({
        name: 'add',
        inputs: [value('x', 'INT64', ['N', 2])],
        outputs: [value('y', 'INT64', ['N', 2])],
        initializers: [tensor('c', 'INT64', [2], new BigInt64Array(new Uint8Array(randomBytes(16)).buffer))],
        nodes: [node('Add', ['x', 'c'], ['y'])],
      }),
    ),
  );
}

/** Every page of a listing of the marketplace, two at a time. */
async function allPages(tenantId: string | null, search: string): Promise<ModelView[]> {
  const models: ModelView[] = [];
  let page: PageRequest | null = { first: 2, afterId: null };
  while (page !== null) {
    const current: PageRequest = page;
    const { nodes, pageInfo } = await asTenant(rig.db, tenantId, (tx) => rig.catalog.models(tx, tenantId, search, current));
    models.push(...nodes);
    page = pageInfo.hasNextPage ? { first: 2, afterId: nodes.at(-1)?.id ?? null } : null;
  }
  return models;
}

function firstPlan(model: ModelView): PlanView {
  const [plan] = model.plans;
  if (!plan) throw new Error('the model has no plan');
  return plan;
}

const see = (tenantId: string | null, handle: string) => asTenant(rig.db, tenantId, (tx) => rig.catalog.model(tx, tenantId, handle));

test('an upload is made once for a key, and its URL is shown once', async () => {
  const { id: tenantId } = await rig.tenant();
  const made = await Promise.all(Array.from({ length: 5 }, () => rig.catalog.createUploadOnce(tenantId, 'file 1')));
  expect(new Set(made.map(({ upload }) => upload.id)).size).toBe(1);
  expect(made.filter(({ url }) => url !== null)).toHaveLength(1);
  expect((await rig.catalog.createUploadOnce(tenantId, 'file 2')).url).not.toBeNull();
});

test('an upload takes one file: the token is refused afterwards like an unknown one', async () => {
  const { id: tenantId } = await rig.tenant();
  const { upload, url, maxSizeBytes } = await rig.catalog.createUpload(tenantId);
  expect(upload).toMatchObject({ state: 'OPEN', sha256: null });
  expect(maxSizeBytes).toBe(LIMITS.modelBytesMax);
  const received = await rig.catalog.receiveUpload(tokenOf(url), Readable.from([Buffer.from('abc')]));
  expect(received).toMatchObject({ state: 'COMPLETE', sizeBytes: 3n, sha256: expect.stringMatching(/^ba7816bf/) });
  const again = await rig.catalog.receiveUpload(tokenOf(url), Readable.from(['x'])).catch((error: unknown) => error);
  const unknown = await rig.catalog.receiveUpload('A'.repeat(43), Readable.from(['x'])).catch((error: unknown) => error);
  expect(again).toEqual(unknown);
  expect(again).toEqual(code('NOT_FOUND'));
});

test('the token of an upload is stored nowhere', async () => {
  const { id: tenantId } = await rig.tenant();
  const { upload, url } = await rig.catalog.createUpload(tenantId);
  const row = await asTenant(rig.db, tenantId, (tx) => tx.upload.findUniqueOrThrow({ where: { id: upload.id } }));
  expect(
    JSON.stringify({ ...row, text: Buffer.from(row.tokenHash).toString('latin1') }, (_, v) => (typeof v === 'bigint' ? String(v) : v)),
  ).not.toContain(tokenOf(url));
});

test('an expired upload is refused like an unknown one', async () => {
  const { id: tenantId } = await rig.tenant();
  const { upload, url } = await rig.catalog.createUpload(tenantId);
  await asSystem(rig.db, (tx) => tx.$executeRaw`update upload set expires_at = mercato_now() where id = ${upload.id}::uuid`);
  await expect(rig.catalog.receiveUpload(tokenOf(url), Readable.from(['x']))).rejects.toEqual(code('NOT_FOUND'));
});

test('of two files for one upload at once one is taken, and nothing of the other stays', async () => {
  const { id: tenantId } = await rig.tenant();
  const { url } = await rig.catalog.createUpload(tenantId);
  const before = (await rig.stored()).length;
  const sent = [randomBytes(50_000), randomBytes(50_000)].map((bytes) => rig.catalog.receiveUpload(tokenOf(url), Readable.from([bytes])));
  const outcomes = await Promise.allSettled(sent);
  expect(outcomes.filter((outcome) => outcome.status === 'fulfilled')).toHaveLength(1);
  expect(await rig.stored()).toHaveLength(before + 1);
  expect(await rig.staged()).toEqual([]);
});

test('a file that breaks off leaves nothing behind, and its upload open', async () => {
  const { id: tenantId } = await rig.tenant();
  const { url } = await rig.catalog.createUpload(tenantId);
  const before = await rig.stored();
  const broken = Readable.from(
    (async function* () {
      yield randomBytes(1000);
      throw new Error('connection reset');
    })(),
  );
  await expect(rig.catalog.receiveUpload(tokenOf(url), broken)).rejects.toThrow('connection reset');
  await expect(rig.catalog.receiveUpload(tokenOf(url), Readable.from([]))).rejects.toEqual(field('BAD_USER_INPUT', 'body'));
  expect([await rig.stored(), await rig.staged()]).toEqual([before, []]);
  await expect(rig.catalog.receiveUpload(tokenOf(url), Readable.from(['ok']))).resolves.toMatchObject({ state: 'COMPLETE' });
});

test('a version is checked, and READY with its signature, when createModelVersion returns', async () => {
  const tenant = await rig.tenant();
  const { id: modelId } = await rig.catalog.createModel(tenant.id, { name: 'echo' });
  const version = await rig.version(tenant.id, modelId, uniqueModel());
  expect(version).toMatchObject({
    number: 1,
    state: 'READY',
    handle: `${tenant.name}/echo@1`,
    joinable: true,
    rejection: null,
    trusted: false,
  });
  expect(version.signature).toEqual({
    inputs: [{ name: 'x', datatype: 'INT64', shape: [-1, 2], dimensions: ['N', null] }],
    outputs: [{ name: 'y', datatype: 'INT64', shape: [-1, 2], dimensions: ['N', null] }],
    batchDimension: 'N',
  });
});

test('what is no acceptable model is REJECTED with a reason', async () => {
  const { id: tenantId } = await rig.tenant();
  const { id: modelId } = await rig.catalog.createModel(tenantId, { name: 'broken' });
  const version = await rig.version(tenantId, modelId, Buffer.from('this is no model'));
  expect(version).toMatchObject({ state: 'REJECTED', signature: null, rejection: { code: 'MODEL_REJECTED', rule: 'MALFORMED_FILE' } });
});

test('what the reader found is told of a version that was rejected later, and of none that it rejected itself', async () => {
  const { id: tenantId } = await rig.tenant();
  const { id: modelId } = await rig.catalog.createModel(tenantId, { name: 'late' });
  const nodes = [node('MatMul', ['x', 'w'], ['y'])];
  const io = { inputs: [value('x', 'FP32', ['N', 2])], outputs: [value('y', 'FP32', ['N', 3])] };
  const unfit = graph({ name: 'unfit', nodes, ...io, initializers: [tensor('w', 'FP32', [5, 3], new Float32Array(15))] });
  const late = await rig.version(tenantId, modelId, encodeModel(onnxModel(unfit)));
  expect(late).toMatchObject({ state: 'REJECTED', contents: { operators: [{ name: 'MatMul', count: 1 }] } });
  expect(late.rejection).toMatchObject({ rule: 'LOAD_FAILED', message: expect.stringContaining('cannot be loaded'), place: null });
  const early = await rig.version(tenantId, modelId, randomBytes(100));
  expect(early).toMatchObject({ state: 'REJECTED', contents: null });
});

test('the file of a rejected version is deleted, unless something else of any tenant refers to it', async () => {
  const [owner, other] = [await rig.tenant(), await rig.tenant()];
  const bytes = randomBytes(100);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const isStored = async () => (await rig.stored()).some((path) => path.endsWith(sha256));
  const reject = async ({ id }: { id: string }, name: string) => {
    const { id: modelId } = await rig.catalog.createModel(id, { name });
    const uploadId = await rig.upload(id, bytes);
    expect(await rig.catalog.createModelVersion(id, { modelId, uploadId })).toMatchObject({ state: 'REJECTED', sha256 });
    return modelId;
  };
  const kept = await rig.upload(other.id, bytes);
  const modelId = await reject(owner, 'first');
  expect(await isStored()).toBe(true);
  const { id: elsewhere } = await rig.catalog.createModel(other.id, { name: 'elsewhere' });
  expect(await rig.catalog.createModelVersion(other.id, { modelId: elsewhere, uploadId: kept })).toMatchObject({ state: 'REJECTED' });
  expect(await isStored()).toBe(false);

  const uploadId = await rig.upload(owner.id, bytes);
  expect(await isStored()).toBe(true);
  expect(await rig.catalog.createModelVersion(owner.id, { modelId, uploadId })).toMatchObject({ state: 'REJECTED', number: 2 });
  expect(await isStored()).toBe(false);
  await reject(owner, 'second');
  expect(await isStored()).toBe(false);
});

test('the same bytes in one model are one version, also when they come at once', async () => {
  const { id: tenantId } = await rig.tenant();
  const { id: modelId } = await rig.catalog.createModel(tenantId, { name: 'same' });
  const bytes = uniqueModel();
  const uploads = [await rig.upload(tenantId, bytes), await rig.upload(tenantId, bytes)];
  const made = await Promise.all(uploads.map((uploadId) => rig.catalog.createModelVersion(tenantId, { modelId, uploadId })));
  expect(new Set(made.map((version) => version.id)).size).toBe(1);
  const [uploadId = ''] = uploads;
  const retried = await rig.catalog.createModelVersion(tenantId, { modelId, uploadId });
  expect(retried).toMatchObject({ id: made[0]?.id, number: 1, state: 'READY' });
});

test('versions made at once get numbers without gaps', async () => {
  const { id: tenantId } = await rig.tenant();
  const { id: modelId } = await rig.catalog.createModel(tenantId, { name: 'many' });
  const made = await Promise.all([1, 2, 3].map(() => rig.version(tenantId, modelId, uniqueModel())));
  expect(made.map((version) => version.number).sort()).toEqual([1, 2, 3]);
  const views = await asTenant(rig.db, tenantId, (tx) => versionsByModel(tx, [modelId]));
  expect(views.get(modelId)?.map((version) => version.number)).toEqual([3, 2, 1]);
});

test('an upload makes versions of one model only, and only of its own tenant', async () => {
  const [a, b] = [await rig.tenant(), await rig.tenant()];
  const [one, two, foreign] = [
    await rig.catalog.createModel(a.id, { name: 'one' }),
    await rig.catalog.createModel(a.id, { name: 'two' }),
    await rig.catalog.createModel(b.id, { name: 'foreign' }),
  ];
  const uploadId = await rig.upload(a.id, uniqueModel());
  const make = (tenantId: string, modelId: string, id = uploadId) => rig.catalog.createModelVersion(tenantId, { modelId, uploadId: id });
  await expect(make(a.id, foreign.id)).rejects.toEqual(code('NOT_FOUND'));
  await expect(make(b.id, foreign.id)).rejects.toEqual(code('NOT_FOUND'));
  const open = await rig.catalog.createUpload(a.id);
  await expect(make(a.id, one.id, open.upload.id)).rejects.toEqual(field('CONFLICT', 'uploadId'));
  await make(a.id, one.id);
  await expect(make(a.id, two.id)).rejects.toEqual(field('CONFLICT', 'uploadId'));
});

test('a version whose job was lost is found and checked', async () => {
  const { id: tenantId } = await rig.tenant();
  const { id: modelId } = await rig.catalog.createModel(tenantId, { name: 'lost' });
  const { id, sha256, sizeBytes } = await rig.version(tenantId, modelId, uniqueModel());
  expect(id).toBeTruthy();
  const other = await rig.catalog.createModel(tenantId, { name: 'found' });
  await asTenant(
    rig.db,
    tenantId,
    (tx) => tx.$executeRaw`
      insert into model_version (id, tenant_id, model_id, number, sha256, size_bytes, created_at)
      values (gen_random_uuid(), ${tenantId}::uuid, ${other.id}::uuid, 1, ${sha256}, ${sizeBytes}, mercato_now() - interval '2 minutes')`,
  );
  await rig.catalog.start();
  await expect
    .poll(() => asTenant(rig.db, tenantId, (tx) => tx.modelVersion.findFirst({ where: { modelId: other.id } })), { timeout: 20_000 })
    .toMatchObject({ state: 'READY' });
});

test('a draft is absent for everyone but its owner', async () => {
  const [owner, other] = [await rig.tenant(), await rig.tenant()];
  const model = await rig.catalog.createModel(owner.id, { name: 'draft' });
  const version = await rig.version(owner.id, model.id, uniqueModel());
  expect(await see(owner.id, model.handle)).toMatchObject({ id: model.id, published: false, version: null });
  for (const viewer of [other.id, null]) {
    expect(await see(viewer, model.handle)).toBeNull();
    await asTenant(rig.db, viewer, async (tx) => {
      expect(await rig.catalog.findModel(tx, viewer, model.id)).toBeNull();
      expect(await rig.catalog.findModelVersion(tx, viewer, version.id)).toBeNull();
      expect((await versionsByModel(tx, [model.id])).size).toBe(0);
    });
  }
  const refusal = async (handle: string) => {
    const error = await Promise.resolve(rig.catalog.entitlement({ tenantId: other.id }, handle)).catch((given: unknown) => given);
    expect(error).toMatchObject({ code: 'NOT_FOUND', data: { field: 'model' }, message: expect.stringContaining(handle) });
    return String(error).replaceAll(handle, 'HANDLE');
  };
  expect(await refusal(model.handle)).toBe(await refusal(`${owner.name}/none`));
});

test('the application hides drafts by itself where row-level security does not', async () => {
  const [owner, other] = [await rig.tenant(), await rig.tenant()];
  const model = await rig.catalog.createModel(owner.id, { name: 'draft' });
  const version = await rig.version(owner.id, model.id, uniqueModel());
  const { upload } = await rig.catalog.createUpload(owner.id);
  await asTenant(rig.db, owner.id, async (tx) => {
    expect(await rig.catalog.findModel(tx, other.id, model.id)).toBeNull();
    expect(await rig.catalog.model(tx, null, model.handle)).toBeNull();
    expect(await rig.catalog.findModelVersion(tx, other.id, version.id)).toBeNull();
    expect(await rig.catalog.findUpload(tx, other.id, upload.id)).toBeNull();
    expect(await rig.catalog.findUpload(tx, owner.id, upload.id)).toMatchObject({ id: upload.id });
  });
});

test('published, subscribed and called: the entitlement says under which terms', async () => {
  const [publisher, consumer] = [await rig.tenant(), await rig.tenant()];
  const plan = {
    name: 'pro',
    unitPriceNanos: '250',
    freeUnitsPerMonth: '10',
    quotaUnitsPerMonth: '1000',
    requestsPerMinute: 90,
    priority: 3,
  };
  const model = await rig.publish(publisher.id, { plans: [plan], bytes: uniqueModel() });
  expect(model).toMatchObject({ published: true, publisher: { name: publisher.name }, version: { number: 1, state: 'READY' } });
  const call = async () => rig.catalog.entitlement({ tenantId: consumer.id }, model.handle);
  await expect(call()).rejects.toEqual(code('NOT_SUBSCRIBED'));
  const subscription = await rig.catalog.subscribe(consumer.id, firstPlan(model).id);
  expect(subscription).toMatchObject({ state: 'ACTIVE', model: { id: model.id }, plan: { name: 'pro', number: 1 } });
  const entitlement = await call();
  expect(entitlement).toMatchObject({
    consumerTenantId: consumer.id,
    publisherTenantId: publisher.id,
    subscriptionId: subscription.id,
    terms: { unitPriceNanos: 250n, freeUnits: 10n, quotaUnits: 1000n, requestsPerMinute: 90, burst: 1, priority: 3, currency: 'EUR' },
    runnable: { joinable: true, shared: true, trusted: false, maxBatchRows: 64 },
    deadlineMs: 10_000,
  });
  expect(entitlement.runnable.file).toBe(entitlement.version.sha256);
  expect(rig.catalog.entitlement({ tenantId: consumer.id }, model.handle)).toBe(entitlement);
  expect(await rig.catalog.entitlement({ tenantId: consumer.id }, `${model.handle}@1`)).toMatchObject({ version: { number: 1 } });
});

test('tenants share the runs of a version whose operators keep rows apart, and of no other', async () => {
  const publisher = await rig.tenant();
  for (const [name, bytes, shared, finding] of [
    ['apart', identityModel('FP32', ['N', 5]), true, 'Every operator keeps the rows apart.'],
    ['mixing', mixingModel(), false, 'That rows stay apart is not proved: graph.node[0]'],
  ] as const) {
    const model = await rig.publish(publisher.id, { name, bytes });
    expect(model.version?.contents?.findings[0]).toContain(finding);
    expect(await rig.catalog.entitlement({ tenantId: publisher.id }, model.handle)).toMatchObject({ runnable: { shared, trusted: false } });
  }
});

test('what other rules proved of a version does not let tenants share its runs', async () => {
  const publisher = await rig.tenant();
  const model = await rig.publish(publisher.id, { bytes: identityModel('FP32', ['N', 5]) });
  const { id = '', contents } = model.version ?? {};
  for (const rowRules of [1, null]) {
    const data = { contents: { ...contents, rowRules } as unknown as Prisma.InputJsonObject };
    await asTenant(rig.db, publisher.id, (tx) => tx.modelVersion.updateMany({ where: { id, tenantId: publisher.id }, data }));
    const version = await asTenant(rig.db, publisher.id, (tx) => tx.modelVersion.findUniqueOrThrow({ where: { id } }));
    const view = toVersionView(version, model.handle);
    expect(view.contents).toMatchObject({ rowsProved: false, findings: [expect.stringContaining('publish the version again')] });
    expect(runnable(view, view.signature as Signature)).toMatchObject({ shared: false });
  }
});

test('a publisher calls its own model freely, published or not, and any READY version', async () => {
  const owner = await rig.tenant();
  const model = await rig.catalog.createModel(owner.id, { name: 'own' });
  const call = async (name = model.handle) => rig.catalog.entitlement({ tenantId: owner.id }, name);
  await expect(call()).rejects.toThrow('no READY version');
  await rig.version(owner.id, model.id, uniqueModel());
  expect(await call()).toMatchObject({ subscriptionId: null, terms: null, version: { number: 1 } });
  await rig.version(owner.id, model.id, uniqueModel());
  expect(await call()).toMatchObject({ version: { number: 2 } });
  expect(await call(`${model.handle}@1`)).toMatchObject({ version: { number: 1 } });
  await expect(call(`${model.handle}@3`)).rejects.toEqual(code('NOT_FOUND'));
});

test('a cancelled subscription and a newly published version take effect when the mutation returns', async () => {
  const [publisher, consumer] = [await rig.tenant(), await rig.tenant()];
  const model = await rig.publish(publisher.id, { bytes: uniqueModel() });
  const subscription = await rig.catalog.subscribe(consumer.id, firstPlan(model).id);
  const call = async (name = model.handle) => rig.catalog.entitlement({ tenantId: consumer.id }, name);
  expect(await call()).toMatchObject({ version: { number: 1 } });
  const second = await rig.version(publisher.id, model.id, uniqueModel());
  expect(await call()).toMatchObject({ version: { number: 1 } });
  const [unpublished, absent] = await Promise.all([2, 3].map((number) => call(`${model.handle}@${number}`).catch((e: Error) => e.message)));
  expect([unpublished, absent]).toEqual([2, 3].map((number) => `No published version is named ${model.handle}@${number}.`));
  const offer = { modelId: model.id, modelVersionId: second.id, plans: [basic], summary: null, tags: null };
  await rig.catalog.publishListing(publisher.id, offer);
  expect(await call()).toMatchObject({ version: { number: 2 } });
  const cancelled = await rig.catalog.cancelSubscription(consumer.id, subscription.id);
  expect(cancelled).toMatchObject({ state: 'CANCELLED', cancelledAt: expect.any(Date) });
  await expect(call()).rejects.toEqual(code('NOT_SUBSCRIBED'));
  expect(await rig.catalog.cancelSubscription(consumer.id, subscription.id)).toEqual(cancelled);
});

test('what a tenant may call comes from memory only while the process hears from the database', async () => {
  const [publisher, consumer] = [await rig.tenant(), await rig.tenant()];
  const model = await rig.publish(publisher.id, { bytes: uniqueModel() });
  const { id } = await rig.catalog.subscribe(consumer.id, firstPlan(model).id);
  let fresh = true;
  const invalidations = { on: () => {}, isFresh: () => fresh } as unknown as Invalidations;
  const entitlements = createEntitlements({ db: rig.db, invalidations });
  const call = async () => entitlements.of({ tenantId: consumer.id }, model.handle);
  const known = await call();
  await rig.catalog.cancelSubscription(consumer.id, id);
  expect(await call()).toBe(known);
  fresh = false;
  await expect(call()).rejects.toEqual(code('NOT_SUBSCRIBED'));
  await expect(rig.catalog.entitlement({ tenantId: consumer.id }, 'no handle')).rejects.toEqual(code('BAD_USER_INPUT'));
});

test('a changed plan is a new version; who subscribed before keeps the terms', async () => {
  const [publisher, early, late] = [await rig.tenant(), await rig.tenant(), await rig.tenant()];
  const model = await rig.publish(publisher.id, { plans: [basic, { name: 'old', unitPriceNanos: '5' }], bytes: uniqueModel() });
  const before = firstPlan(model);
  await rig.catalog.subscribe(early.id, before.id);
  const publish = (plans: PlanInput[]) =>
    rig.catalog.publishListing(publisher.id, { modelId: model.id, modelVersionId: null, plans, summary: null, tags: null });
  expect(firstPlan(await publish([basic])).id).toBe(before.id);
  const changed = await publish([{ ...basic, unitPriceNanos: '2000' }]);
  expect(changed.plans).toMatchObject([{ name: 'basic', number: 2, planId: before.planId, terms: { unitPriceNanos: 2000n } }]);
  await expect(rig.catalog.subscribe(late.id, before.id)).rejects.toEqual(code('CONFLICT'));
  await rig.catalog.subscribe(late.id, firstPlan(changed).id);
  const price = async (tenantId: string) => (await rig.catalog.entitlement({ tenantId }, model.handle)).terms?.unitPriceNanos;
  expect([await price(early.id), await price(late.id)]).toEqual([1000n, 2000n]);
  const again = await publish([basic, { name: 'old', unitPriceNanos: '5' }]);
  expect(again.plans).toMatchObject([
    { name: 'basic', number: 3 },
    { name: 'old', number: 1 },
  ]);
});

test('a plan left out is retired and cannot be subscribed to', async () => {
  const [publisher, consumer] = [await rig.tenant(), await rig.tenant()];
  const model = await rig.publish(publisher.id, { plans: [basic], bytes: uniqueModel() });
  const plans = [{ name: 'other', unitPriceNanos: '1' }];
  await rig.catalog.publishListing(publisher.id, { modelId: model.id, modelVersionId: null, plans, summary: null, tags: null });
  await expect(rig.catalog.subscribe(consumer.id, firstPlan(model).id)).rejects.toEqual(code('CONFLICT'));
});

test('one active subscription per model, none to an own model, none to what is not there', async () => {
  const [publisher, consumer] = [await rig.tenant(), await rig.tenant()];
  const model = await rig.publish(publisher.id, { plans: [basic, { name: 'b', unitPriceNanos: '1' }], bytes: uniqueModel() });
  const [first, second] = model.plans.map((plan) => plan.id);
  const outcomes = await Promise.allSettled([first, second, first].map((id) => rig.catalog.subscribe(consumer.id, id ?? '')));
  const refused = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? outcome.reason : []));
  expect(refused).toEqual([code('CONFLICT'), code('CONFLICT')]);
  await expect(rig.catalog.subscribe(publisher.id, first ?? '')).rejects.toEqual(code('CONFLICT'));
  await expect(rig.catalog.subscribe(consumer.id, model.id)).rejects.toEqual(code('NOT_FOUND'));
});

test('a subscription is seen and cancelled by its consumer alone', async () => {
  const [publisher, consumer, other] = [await rig.tenant(), await rig.tenant(), await rig.tenant()];
  const model = await rig.publish(publisher.id, { bytes: uniqueModel() });
  const { id } = await rig.catalog.subscribe(consumer.id, firstPlan(model).id);
  for (const tenantId of [publisher.id, other.id]) {
    expect(await asTenant(rig.db, tenantId, (tx) => rig.catalog.findSubscription(tx, tenantId, id))).toBeNull();
    await expect(rig.catalog.cancelSubscription(tenantId, id)).rejects.toEqual(code('NOT_FOUND'));
  }
  const page = { first: 10, afterId: null };
  const list = await asTenant(rig.db, consumer.id, (tx) => rig.catalog.subscriptions(tx, consumer.id, page));
  expect(list.nodes).toMatchObject([{ id, state: 'ACTIVE', model: { handle: model.handle } }]);
});

test('only a READY version of the model itself can be published', async () => {
  const [owner, other] = [await rig.tenant(), await rig.tenant()];
  const model = await rig.catalog.createModel(owner.id, { name: 'a' });
  const publish = (tenantId: string, modelVersionId: string | null, modelId = model.id) =>
    rig.catalog.publishListing(tenantId, { modelId, modelVersionId, plans: [basic], summary: null, tags: null });
  await expect(publish(owner.id, null)).rejects.toEqual(code('CONFLICT'));
  const rejected = await rig.version(owner.id, model.id, Buffer.from('no model'));
  await expect(publish(owner.id, rejected.id)).rejects.toEqual(code('CONFLICT'));
  const elsewhere = await rig.publish(owner.id, { name: 'b', bytes: uniqueModel() });
  await expect(publish(owner.id, elsewhere.version?.id ?? '')).rejects.toEqual(code('NOT_FOUND'));
  await expect(publish(other.id, null, elsewhere.id)).rejects.toEqual(code('NOT_FOUND'));
});

test('a tenant has one model of a name', async () => {
  const owner = await rig.tenant();
  await rig.catalog.createModel(owner.id, { name: 'twice' });
  await expect(rig.catalog.createModel(owner.id, { name: 'twice' })).rejects.toEqual(field('CONFLICT', 'name'));
});

test('a search finds every match once, best first, page by page', async () => {
  const word = `w${randomBytes(5).toString('hex')}`;
  const owner = await rig.tenant();
  const bytes = uniqueModel();
  for (const name of ['a', 'b', 'c', 'd']) await rig.publish(owner.id, { name, summary: `Reads ${word} well.`, tags: ['vision'], bytes });
  await rig.publish(owner.id, { name: word, bytes });
  expect((await allPages(null, word.toUpperCase())).map((model) => model.name)).toEqual([word, 'd', 'c', 'b', 'a']);
  const count = (search: string) =>
    asTenant(rig.db, null, async (tx) => (await rig.catalog.models(tx, null, search, { first: 10, afterId: null })).nodes.length);
  expect(await count(word.slice(0, 8))).toBe(5);
  expect(await count(`vision ${word}`)).toBe(4);
  expect(await count(`${word} absent`)).toBe(0);
  expect(await count(`${owner.name} ${word}`)).toBe(5);
  expect(await count(`${word}' | !x:* & (`)).toBe(0);
});

test('the newest published models come first, page by page, drafts never', async () => {
  const owner = await rig.tenant();
  const bytes = uniqueModel();
  for (const name of ['a', 'b', 'c']) await rig.publish(owner.id, { name, bytes });
  await rig.catalog.createModel(owner.id, { name: 'draft' });
  const names = (await allPages(owner.id, '  ')).map((model) => model.handle);
  expect(names.slice(0, 3)).toEqual(['c', 'b', 'a'].map((name) => `${owner.name}/${name}`));
  expect(new Set(names).size).toBe(names.length);
  const own = await asTenant(rig.db, owner.id, (tx) => rig.catalog.ownModels(tx, owner.id, { first: 2, afterId: null }));
  expect(own.nodes.map((model) => model.name)).toEqual(['draft', 'c']);
});

test('a shipped model is imported through the same gate, trusted, and once', async () => {
  const owner = await rig.tenant();
  const dir = new URL('../../models/digits', import.meta.url).pathname;
  const version = await rig.catalog.importShipped(owner.id, 'digits', dir);
  expect(version).toMatchObject({
    state: 'READY',
    trusted: true,
    joinable: true,
    sizeBytes: BigInt((await readFile(`${dir}/model.onnx`)).length),
  });
  expect(await rig.catalog.importShipped(owner.id, 'digits', dir)).toEqual(version);
});
