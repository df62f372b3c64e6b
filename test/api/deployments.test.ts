import { afterAll, beforeAll, expect, test } from 'vitest';
import { encodeModel, graph, model as onnxModel } from '../../src/inference/onnx/onnx.ts';
import { Client, predictDigit } from '../support/client.ts';
import { offerLoop } from '../support/offer.ts';
import { signIn, signUp } from '../support/people.ts';
import { type Demo, type Market, openMarket, type Server } from '../support/server.ts';

let market: Market;
let server: Server;
let client: Client;
let demo: Demo;
let operator: string;
beforeAll(async () => {
  market = await openMarket();
  server = await market.start();
  client = new Client(server.url);
  demo = await market.demo();
  operator = await signIn(client, demo.operator);
}, 60_000);
afterAll(async () => {
  client[Symbol.dispose]();
  await market[Symbol.asyncDispose]();
});

const HOSTED =
  'hostedVersion { state device pinned memoryBytes queued running answered overloaded late failed replicas { pid runMs answered overloaded late failed } leftDevices { device until } modelVersion { id handle } }';
type Hosted = { state: string; device: string | null; pinned: boolean; memoryBytes: string; replicas: { pid: number }[] };
const DEPLOYMENTS = '{ deployments { state failure { code message } device pinned memoryBytes replicas { pid } modelVersion { handle } } }';
const listed = async (token: string) => (await client.ask<{ deployments: Hosted[] }>(DEPLOYMENTS, {}, token)).deployments;

async function change(name: string, modelVersionId: string, token: string, more: object = {}): Promise<Hosted> {
  const type = `${name.charAt(0).toUpperCase()}${name.slice(1)}Input`;
  const query = `mutation ($input: ${type}!) { ${name}(input: $input) { ${HOSTED} } }`;
  const answer = await client.ask<Record<string, { hostedVersion: Hosted }>>(query, { input: { modelVersionId, ...more } }, token);
  return answer[name]?.hostedVersion as Hosted;
}

async function versionId(handle: string): Promise<string> {
  const query = 'query ($handle: String!) { model(handle: $handle) { version { id } } }';
  const { model } = await client.ask<{ model: { version: { id: string } } }>(query, { handle }, operator);
  return model.version.id;
}
const digitsId = () => versionId('mercato/digits');

test('a version is loaded, shown with its runner, unloaded, and loaded again by the next call', async () => {
  const id = await digitsId();
  const loaded = await change('loadModelVersion', id, operator);
  expect(loaded).toMatchObject({ state: 'LOADED', device: 'cpu', pinned: false, replicas: [{ pid: expect.any(Number) }] });
  expect(Number(loaded.memoryBytes)).toBeGreaterThan(2 ** 20);
  expect(await listed(operator)).toMatchObject([{ state: 'LOADED', failure: null, modelVersion: { handle: 'mercato/digits@1' } }]);
  expect(await change('unloadModelVersion', id, operator)).toMatchObject({
    state: 'UNLOADED',
    device: null,
    memoryBytes: '0',
    replicas: [],
  });
  expect(await listed(operator)).toEqual([]);
  expect(await predictDigit(client, demo.apiKey)).toMatchObject({ usage: { units: 1 } });
  expect(await listed(operator)).toMatchObject([{ state: 'LOADED' }]);
});

test('the operator sees what the runners hold of the memory of each device, and nobody else does', async () => {
  const query = '{ devices { name hardware memoryBytes memoryBytesMax } }';
  const held = async () => {
    type Shown = Record<'name' | 'hardware' | 'memoryBytes' | 'memoryBytesMax', string>;
    const { devices } = await client.ask<{ devices: Shown[] }>(query, {}, operator);
    expect(devices).toMatchObject([{ name: 'cpu', hardware: expect.stringMatching(/ [0-9a-f]{8}$/) }]);
    const [cpu] = devices.map(({ memoryBytes, memoryBytesMax }) => [Number(memoryBytes), Number(memoryBytesMax)]);
    expect(cpu?.[1]).toBeGreaterThanOrEqual(64 * 2 ** 20);
    return cpu?.[0];
  };
  const id = await digitsId();
  await change('unloadModelVersion', id, operator);
  const before = (await held()) ?? Number.NaN;
  await change('loadModelVersion', id, operator);
  expect(await held()).toBeGreaterThan(before + 2 ** 20);
  const other = await signUp(client, 'onlooker');
  expect((await client.send(query, {}, other.token)).errors?.[0]).toMatchObject({ extensions: { code: 'FORBIDDEN' } });
});

test('only the operator pins, and what is pinned is loaded after a restart', { timeout: 60_000 }, async () => {
  const id = await digitsId();
  const other = await signUp(client, 'somebody');
  const query = 'mutation ($input: PinModelVersionInput!) { pinModelVersion(input: $input) { hostedVersion { pinned } } }';
  const refused = await client.send(query, { input: { modelVersionId: id, pinned: true } }, other.token);
  expect(refused.errors?.[0]).toMatchObject({ extensions: { code: 'FORBIDDEN' } });
  expect(await change('pinModelVersion', id, operator, { pinned: true })).toMatchObject({ state: 'LOADED', pinned: true });
  client[Symbol.dispose]();
  expect(await server.kill('SIGTERM')).toBe(0);
  server = await market.start();
  client = new Client(server.url);
  await expect.poll(() => listed(operator), { timeout: 20_000 }).toMatchObject([{ state: 'LOADED', pinned: true }]);
  expect(await change('pinModelVersion', id, operator, { pinned: false })).toMatchObject({ pinned: false });
});

test("replicas are bounded: by the publisher upwards, by the operator both ways, of nobody else's, and within reason", async () => {
  const { token } = await offerLoop(client, 1_000, 'scaled');
  const modelVersionId = await versionId('scaled/loop');
  const bounds = 'hostedVersion { state minReplicas maxReplicas replicas { pid } }';
  const query = `mutation ($input: ScaleModelVersionInput!) { scaleModelVersion(input: $input) { ${bounds} } }`;
  const scale = async (input: object, by: string) => {
    const { data, errors } = await client.send(query, { input: { modelVersionId, ...input } }, by);
    return errors?.[0]?.extensions ?? (data?.scaleModelVersion as { hostedVersion: object } | undefined)?.hostedVersion;
  };
  expect(await scale({ maxReplicas: 3 }, token)).toMatchObject({ minReplicas: 0, maxReplicas: 3 });
  expect(await scale({ minReplicas: 1 }, token)).toMatchObject({ code: 'FORBIDDEN', field: 'minReplicas' });
  expect(await scale({ minReplicas: 1 }, operator)).toMatchObject({ state: 'LOADED', minReplicas: 1, maxReplicas: 3 });
  expect(await scale({ minReplicas: 1, maxReplicas: null }, token)).toMatchObject({ minReplicas: 1, maxReplicas: null });
  const unload = 'mutation ($input: UnloadModelVersionInput!) { unloadModelVersion(input: $input) { hostedVersion { state } } }';
  const refused = await client.send(unload, { input: { modelVersionId } }, token);
  expect(refused.errors?.[0]).toMatchObject({ extensions: { code: 'CONFLICT', field: 'modelVersionId' } });
  for (const [input, field, expected] of [
    [{ minReplicas: 65 }, 'minReplicas', '0 to 64'],
    [{ maxReplicas: 0 }, 'maxReplicas', '1 to 64'],
    [{ minReplicas: 3, maxReplicas: 2 }, 'maxReplicas', 'at least minReplicas, 3'],
  ] as const)
    expect(await scale(input, operator)).toMatchObject({ code: 'BAD_USER_INPUT', field, expected });
  expect(await scale({ maxReplicas: 1 }, (await signUp(client, 'scaler')).token)).toMatchObject({ code: 'NOT_FOUND' });
  expect(await scale({ minReplicas: 0 }, operator)).toMatchObject({ minReplicas: 0, maxReplicas: null });
  expect(await change('unloadModelVersion', modelVersionId, token)).toMatchObject({ state: 'UNLOADED' });
});

test('what the operator has pinned its publisher cannot unload', async () => {
  const { token } = await offerLoop(client, 1_000, 'pinned');
  const id = await versionId('pinned/loop');
  await change('pinModelVersion', id, operator, { pinned: true });
  const query = 'mutation ($input: UnloadModelVersionInput!) { unloadModelVersion(input: $input) { hostedVersion { state } } }';
  const refused = await client.send(query, { input: { modelVersionId: id } }, token);
  expect(refused.errors?.[0]).toMatchObject({ extensions: { code: 'CONFLICT', field: 'modelVersionId' } });
  expect(await listed(token)).toMatchObject([{ state: 'LOADED', pinned: true }]);
  await change('pinModelVersion', id, operator, { pinned: false });
  expect(await change('unloadModelVersion', id, token)).toMatchObject({ state: 'UNLOADED' });
});

// One process at a time has an embedded database.
test.runIf(process.env.MERCATO_TEST_DATABASE_URL !== undefined)('a pin, and its end, reach every host at once', async () => {
  const other = await market.start();
  using there = new Client(other.url);
  const listedThere = async () => (await there.ask<{ deployments: Hosted[] }>(DEPLOYMENTS, {}, operator)).deployments;
  const id = await digitsId();
  expect(await change('pinModelVersion', id, operator, { pinned: true })).toMatchObject({ state: 'LOADED', pinned: true });
  await expect.poll(listedThere, { timeout: 20_000 }).toMatchObject([{ state: 'LOADED', pinned: true }]);
  expect(await change('pinModelVersion', id, operator, { pinned: false })).toMatchObject({ pinned: false });
  expect(await listedThere()).toMatchObject([{ pinned: false }]);
  await other.kill('SIGTERM');
});

test("a publisher neither sees nor loads another's version; a typo is NOT_FOUND", async () => {
  const { token } = await signUp(client, 'elsewhere');
  expect(await listed(token)).toEqual([]);
  for (const modelVersionId of [await digitsId(), 'typo']) {
    const query = 'mutation ($input: LoadModelVersionInput!) { loadModelVersion(input: $input) { hostedVersion { state } } }';
    const refused = await client.send(query, { input: { modelVersionId } }, token);
    expect(refused.errors?.[0]).toMatchObject({ extensions: { code: 'NOT_FOUND' } });
  }
});

test('anybody sees what the check read and measured of a version on offer', async () => {
  const contents =
    '{ model(handle: "mercato/digits") { version { inspection { operators { name count } parameters opsets { domain version } rowsProved findings estimates { rows flops activationBytes } } } } }';
  const read = await client.ask<{ model: { version: { inspection: object } } }>(contents, {}, null);
  expect(read.model.version.inspection).toMatchObject({
    parameters: expect.stringMatching(/^10\d{4}$/),
    opsets: [{ domain: '', version: 17 }],
    rowsProved: true,
    estimates: [
      { rows: 1, flops: expect.closeTo(204_000, -4), activationBytes: expect.stringMatching(/^\d{4,5}$/) },
      { rows: 64, flops: expect.closeTo(64 * 204_000, -6) },
    ],
  });
  const query =
    '{ model(handle: "mercato/digits") { version { profile { device runtime threads loadMs peakMemoryBytes latencies { rows rowsPerSecond } } } } }';
  const { model } = await client.ask<{ model: { version: { profile: { peakMemoryBytes: string; latencies: { rows: number }[] } } } }>(
    query,
    {},
    null,
  );
  expect(model.version.profile).toMatchObject({ device: 'cpu', threads: 1 });
  expect(Number(model.version.profile.peakMemoryBytes)).toBeGreaterThan(2 ** 24);
  expect(model.version.profile.latencies.map(({ rows }) => rows)).toEqual([1, 2, 4, 8, 16, 32, 64]);
});

test('a run is estimated for the shapes of a call, and for no others', async () => {
  const modelVersionId = await digitsId();
  const query =
    'query ($modelVersionId: ID!, $inputs: [InputShape!]!) { estimateRun(modelVersionId: $modelVersionId, inputs: $inputs) { rows flops activationBytes weightBytes peakMemoryBytes reason } }';
  const estimate = async (inputs: object[], token: string | null = operator) => {
    const { data, errors } = await client.send(query, { modelVersionId, inputs }, token);
    return errors?.[0]?.extensions ?? data?.estimateRun;
  };
  const contents =
    '{ model(handle: "mercato/digits") { signature { inputs { name shape } } version { inspection { estimates { rows flops activationBytes weightBytes peakMemoryBytes reason } } } } }';
  type Read = { model: { signature: { inputs: { name: string; shape: number[] }[] }; version: { inspection: { estimates: object[] } } } };
  const { model } = await client.ask<Read>(contents, {}, null);
  const [input] = model.signature.inputs;
  const [name, rest] = [input?.name ?? '', input?.shape.slice(1) ?? []];
  expect(await estimate([{ name, shape: [64, ...rest] }])).toEqual(model.version.inspection.estimates[1]);
  const large = await estimate([{ name, shape: [1000, ...rest] }]);
  expect(large).toMatchObject({ rows: 1000, flops: expect.closeTo(204e6, -7), reason: null });
  // The weights of 784 × 128 × 10, and the sum of both.
  const { activationBytes, weightBytes, peakMemoryBytes } = large as Record<string, string>;
  expect(Number(weightBytes)).toBeGreaterThanOrEqual(4 * (784 * 128 + 128 * 10));
  expect(Number(peakMemoryBytes)).toBe(Number(activationBytes) + Number(weightBytes));
  for (const [inputs, field, expected] of [
    [[{ name, shape: [1, ...rest, 2] }], 'inputs[0]', `[${['N', ...rest]}]`],
    [[{ name: 'nothing', shape: [1] }], 'inputs[0].name', name],
    [[{ name, shape: [-1, ...rest] }], 'inputs[0].shape', '0 or more'],
    [Array.from({ length: 257 }, (_, i) => ({ name: `${i}`, shape: [] })), 'inputs', 'at most 256'],
    [[{ name, shape: Array(17).fill(1) }], 'inputs[0].shape', 'at most 16'],
    [[1, 2].map(() => ({ name, shape: [1, ...rest] })), 'inputs[1].name', 'different names'],
    [[], 'inputs', name],
  ] as const)
    expect(await estimate([...inputs])).toMatchObject({ code: 'BAD_USER_INPUT', field, expected: expect.stringContaining(expected) });
  expect(await estimate([{ name, shape: [1, ...rest] }], null)).toMatchObject({ code: 'UNAUTHENTICATED' });
});

test('a publisher sees afterwards by which rule its model was rejected, where, and with which figures', async () => {
  const { token } = await signUp(client, 'hasty');
  type Node = { id: string };
  const made = 'mutation { createModel(input: { name: "late" }) { model { id } } createUpload { upload { id } url } }';
  const { createModel, createUpload } = await client.ask<{ createModel: { model: Node }; createUpload: { upload: Node; url: string } }>(
    made,
    {},
    token,
  );
  const io = { nodes: [], inputs: [], outputs: [] };
  const future = encodeModel({ ...onnxModel(graph({ name: 'g', ...io })), opsetImport: [{ domain: '', version: 99n }] });
  await fetch(createUpload.url, { method: 'PUT', body: new Uint8Array(future) });
  const query = 'mutation ($input: CreateModelVersionInput!) { createModelVersion(input: $input) { modelVersion { state } } }';
  await client.ask(query, { input: { modelId: createModel.model.id, uploadId: createUpload.upload.id } }, token);
  const read = '{ ownModels { nodes { versions { state rejection { code rule message place field limit given expected } } } } }';
  const rejection = {
    code: 'MODEL_REJECTED',
    rule: 'OPSET_UNSUPPORTED',
    message: expect.stringContaining('Version 99'),
    place: 'opset_import[0]',
    limit: '26',
    given: '99',
    ...{ field: null, expected: null },
  };
  expect(await client.ask(read, {}, token)).toEqual({ ownModels: { nodes: [{ versions: [{ state: 'REJECTED', rejection }] }] } });
});
