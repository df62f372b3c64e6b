import { beforeAll, expect, test } from 'vitest';
import { asSystem, asTenant } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import type { ModelVersionView } from '../../src/catalog/catalog.ts';
import { suspendUntilVerified } from '../../src/catalog/suspensions.ts';
import type { VersionInput } from '../../src/catalog/versions.ts';
import type { Prisma } from '../../src/generated/prisma/client.ts';
import { encodeModel, graph, node, model as onnxModel, tensor, value } from '../../src/inference/onnx/onnx.ts';
import { type CatalogRig, openCatalog } from '../support/catalog.ts';

let rig: CatalogRig;
beforeAll(async () => {
  rig = await openCatalog();
  return () => rig[Symbol.asyncDispose]();
});

type Samples = NonNullable<VersionInput['samples']>;
type Given = Samples[number]['inputs'][number];

const floats = (name: string, data: unknown[], shape?: number[]): Given => ({ name, datatype: 'FP32', data, ...(shape ? { shape } : {}) });
const x = floats('x', [[1, 2]]);
const y = (...row: unknown[]) => floats('y', [row]);

/** y = x + 0.5 and z = x · 0.5, in a file of its own. */
function addModel(): Uint8Array {
  return encodeModel(
    onnxModel(
      graph({
        name: newId(),
        inputs: [value('x', 'FP32', ['N', 2])],
        outputs: [value('y', 'FP32', ['N', 2]), value('z', 'FP32', ['N', 2])],
        initializers: [tensor('c', 'FP32', [2], Float32Array.of(0.5, 0.5))],
        nodes: [node('Add', ['x', 'c'], ['y']), node('Mul', ['x', 'c'], ['z'])],
      }),
    ),
  );
}

async function make(samples: Samples): Promise<ModelVersionView> {
  const { id: tenantId } = await rig.tenant();
  const { id: modelId } = await rig.catalog.createModel(tenantId, { name: 'add' });
  return rig.catalog.createModelVersion(tenantId, { modelId, uploadId: await rig.upload(tenantId, addModel()), samples });
}

const tenantName = ({ handle }: ModelVersionView) => handle.slice(0, handle.indexOf('/'));
const reread = (version: ModelVersionView) =>
  asTenant(rig.db, version.tenantId, (tx) => tx.modelVersion.findUniqueOrThrow({ where: { id: version.id } }));
const openSuspensions = (version: ModelVersionView) =>
  asSystem(rig.db, (tx) => tx.suspension.findMany({ where: { versionId: version.id, endedAt: null } }));

test('a version that answers its samples is READY, within the tolerance and for the outputs that they name', async () => {
  const base64 = Buffer.from(Float32Array.of(1.5, 2.5).buffer).toString('base64');
  const version = await make([
    { inputs: [x], outputs: [y(1.5004, 2.5)] },
    { inputs: [x], outputs: [{ name: 'y', datatype: 'FP32', shape: [1, 2], data: base64 }, floats('z', [[0.5, 1]])], tolerance: 0 },
    { inputs: [floats('x', [['Infinity', 'NaN']])], outputs: [y('Infinity', 'NaN')], tolerance: 0 },
  ]);
  expect(version).toMatchObject({ state: 'READY', sampleCount: 3 });
});

test.each<[string, Samples[number], RegExp, object]>([
  [
    'a value',
    { inputs: [x], outputs: [y(1.5, 2.75)] },
    /Sample 1 .* output "y" has 2.5 at element 1, not 2.75 within 0.001/,
    { rule: 'SAMPLE_MISMATCH', given: '2.5', expected: '2.75' },
  ],
  [
    'a value under a tighter tolerance',
    { inputs: [x], outputs: [y(1.501953125, 2.5)], tolerance: 1e-5 },
    /has 1.5 at element 0, not 1.501953125 within 0.00001/,
    { rule: 'SAMPLE_MISMATCH' },
  ],
  ['a NaN', { inputs: [x], outputs: [y('NaN', 2.5)], tolerance: 1 }, /has 1.5 at element 0, not "NaN"/, { rule: 'SAMPLE_MISMATCH' }],
  [
    'a shape',
    { inputs: [x], outputs: [floats('y', [1.5, 2.5])] },
    /output "y" is FP32 \[1,2\], not FP32 \[2\]/,
    { rule: 'SAMPLE_MISMATCH', given: 'FP32 [1,2]', expected: 'FP32 [2]' },
  ],
  [
    'an output that there is not',
    { inputs: [x], outputs: [floats('w', [[1, 2]])] },
    /no output "w"/,
    { rule: 'SAMPLE_INVALID', limit: null },
  ],
  [
    'an input that does not fit',
    { inputs: [floats('x', [[1, 2, 3]])], outputs: [y(1.5, 2.5)] },
    /the model wants FP32 \[N,2\]/,
    { rule: 'SAMPLE_INVALID' },
  ],
  [
    'too many rows',
    { inputs: [floats('x', new Array(130).fill(1), [65, 2])], outputs: [y(1.5, 2.5)] },
    /65 rows, and a run at most 64/,
    { rule: 'SAMPLE_INVALID', limit: '64', given: '65' },
  ],
])('a sample that differs in %s rejects the version, and says where', async (_, wrong, message, facts) => {
  const version = await make([{ inputs: [x], outputs: [y(1.5, 2.5)] }, wrong]);
  expect(version).toMatchObject({ state: 'REJECTED', rejection: { code: 'MODEL_REJECTED', field: 'samples[1]', ...facts } });
  expect(version.rejection?.message).toMatch(message);
});

test.each<[string, Samples[number], string]>([
  ['a tolerance above 1', { inputs: [x], outputs: [y(1, 2)], tolerance: 1.1 }, 'samples[0].tolerance'],
  ['a tolerance that is no number', { inputs: [x], outputs: [y(1, 2)], tolerance: Number.NaN }, 'samples[0].tolerance'],
  ['no outputs', { inputs: [x], outputs: [] }, 'samples[0].outputs'],
  ['a ragged input', { inputs: [floats('x', [[1], [2, 3]])], outputs: [y(1, 2)] }, 'samples[0].inputs[0].data'],
  ['an output with a word', { inputs: [x], outputs: [y('one', 2)] }, 'samples[0].outputs[0].data'],
])('a sample with %s is refused before the upload is used', async (_, sample, field) => {
  await expect(make([sample])).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field } });
});

test('bytes that were rejected may come again with other samples, and a retry of either upload answers its newest version', async () => {
  const { id: tenantId } = await rig.tenant();
  const { id: modelId } = await rig.catalog.createModel(tenantId, { name: 'again' });
  const bytes = addModel();
  const give = async (uploadId: string, expected: number) =>
    rig.catalog.createModelVersion(tenantId, { modelId, uploadId, samples: [{ inputs: [x], outputs: [y(expected, 2.5)] }] });
  const wrong = await rig.upload(tenantId, bytes);
  const rejected = await give(wrong, 7);
  expect(rejected).toMatchObject({ state: 'REJECTED', number: 1 });
  expect(await give(wrong, 1.5)).toMatchObject({ id: rejected.id });
  const right = await rig.upload(tenantId, bytes);
  const made = await give(right, 1.5);
  expect(made).toMatchObject({ state: 'READY', number: 2 });
  for (const uploadId of [wrong, right, await rig.upload(tenantId, bytes)])
    expect(await give(uploadId, 1.5)).toMatchObject({ id: made.id });
});

test('samples never change', async () => {
  const version = await make([{ inputs: [x], outputs: [y(1.5, 2.5)] }]);
  const change = asTenant(rig.db, version.tenantId, (tx) =>
    tx.versionSamples.updateMany({ where: { versionId: version.id }, data: { samples: [] } }),
  );
  await expect(change).rejects.toThrow(/permission denied/);
});

test('other hardware under the name of a device must answer them too', async () => {
  const version = await make([{ inputs: [x], outputs: [y(1.5, 2.5)] }]);
  const profile = (await reread(version)).profile as { verifiedOn: { device: string }[] };
  const verifiedOn = profile.verifiedOn.map((one) => ({ ...one, hardware: 'another' }));
  const where = { id: version.id, tenantId: version.tenantId };
  await asTenant(rig.db, version.tenantId, (tx) => tx.modelVersion.updateMany({ where, data: { profile: { ...profile, verifiedOn } } }));
  await rig.catalog.start();
  await expect
    .poll(async () => (await reread(version)).profile, { timeout: 20_000 })
    .toEqual({ ...profile, verifiedOn: [...verifiedOn, ...profile.verifiedOn] });
});

test('another device or runtime must answer them too: a version is suspended until it does', async () => {
  const right = await make([{ inputs: [x], outputs: [y(1.5, 2.5)] }]);
  const { tenantId } = right;
  const row = await reread(right);
  const { verifiedOn } = row.profile as { verifiedOn: { device: string }[] };
  const older = verifiedOn.map(({ device }) => ({ device, runtime: 'an older one' }));
  const profile = { ...(row.profile as object), verifiedOn: older };
  await asTenant(rig.db, tenantId, (tx) => tx.modelVersion.updateMany({ where: { id: right.id, tenantId }, data: { profile } }));
  await asSystem(rig.db, (tx) => suspendUntilVerified(tx, right, 'as after an earlier start'));
  // READY by an older runtime, as it were, which answered otherwise.
  const { id: modelId } = await rig.catalog.createModel(tenantId, { name: 'moved' });
  const wrong = { ...right, id: newId(), modelId };
  const samples = [{ inputs: [x], outputs: [y(9, 9)], tolerance: 0 }] as Prisma.InputJsonArray;
  const { rejection: _, contents: __, ...same } = row;
  const data = {
    ...same,
    id: wrong.id,
    modelId,
    profile,
    sampleCount: 1,
    samples: { create: { tenantId, samples } },
    signature: row.signature as Prisma.InputJsonObject,
  };
  await asTenant(rig.db, tenantId, (tx) => tx.modelVersion.create({ data }));
  const call = () => rig.catalog.entitlement({ tenantId }, `${tenantName(right)}/moved@1`);
  expect((await call()).suspended).toEqual([]);

  await rig.catalog.start();
  await expect
    .poll(async () => (await reread(right)).profile, { timeout: 20_000 })
    .toEqual({ ...profile, verifiedOn: [...older, ...verifiedOn] });
  expect(await openSuspensions(right)).toEqual([]);
  await expect.poll(() => openSuspensions(wrong), { timeout: 20_000 }).toHaveLength(1);
  expect(await openSuspensions(wrong)).toMatchObject([
    { consumerTenantId: null, reason: expect.stringContaining('has 1.5 at element 0, not 9') },
  ]);
  await expect.poll(async () => (await call()).suspended.length, { timeout: 20_000 }).toBe(1);
  const entitled = await call();
  const refused = expect.objectContaining({ code: 'MODEL_SUSPENDED', data: expect.objectContaining({ retryAfterMs: 3_600_000 }) });
  expect(() => rig.catalog.suspensions.pass(entitled)).toThrow(refused);
});
