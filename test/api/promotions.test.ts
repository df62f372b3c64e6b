import { afterAll, beforeAll, expect, test } from 'vitest';
import { node, tensor } from '../../src/inference/onnx/onnx.ts';
import { tinyModel } from '../inference/tiny-models.ts';
import { Client } from '../support/client.ts';
import { consumer, signUp } from '../support/people.ts';
import { type Market, openMarket } from '../support/server.ts';

// One process at a time has an embedded database.
const SERVERS = process.env.MERCATO_TEST_DATABASE_URL === undefined ? 1 : 2;
const CALLERS = 8;
const ROUNDS = 12;
/** Calls that begin and end between one promotion and the next. */
const CALLS_BETWEEN = 16;

let market: Market;
let clients: Client[];
beforeAll(async () => {
  market = await openMarket();
  clients = [];
  for (let i = 0; i < SERVERS; i++) clients.push(new Client((await market.start()).url, 2 * CALLERS));
}, 60_000);
afterAll(async () => {
  for (const client of clients) client[Symbol.dispose]();
  expect(await market.audit()).toContain('invariants hold');
  await market[Symbol.asyncDispose]();
});

/** `y = x + c`: of version `c`, an answer says by itself which version it is of. */
function adding(c: number): Uint8Array<ArrayBuffer> {
  const file = tinyModel(
    [['x', 'FP32', ['N']]],
    [['y', 'FP32', ['N']]],
    [node('Add', ['x', 'c'], ['y'])],
    [tensor('c', 'FP32', [], Float32Array.of(c))],
  );
  return new Uint8Array(file);
}

type Node = { id: string };

async function addVersion(client: Client, token: string, modelId: string, bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const { createUpload: made } = await client.ask<{ createUpload: { upload: Node; url: string } }>(
    'mutation { createUpload { upload { id } url } }',
    {},
    token,
  );
  expect((await fetch(made.url, { method: 'PUT', body: bytes })).ok).toBe(true);
  const query = 'mutation ($input: CreateModelVersionInput!) { createModelVersion(input: $input) { modelVersion { id } } }';
  const input = { modelId, uploadId: made.upload.id };
  const { createModelVersion } = await client.ask<{ createModelVersion: { modelVersion: Node } }>(query, { input }, token);
  return createModelVersion.modelVersion.id;
}

/** `maker/adder` with versions 1 and 2, on offer as version 1, and a key of a subscriber. */
async function offerAdder(client: Client) {
  const { token } = await signUp(client, 'maker');
  const created = await client.ask<{ createModel: { model: Node } }>(
    'mutation { createModel(input: { name: "adder" }) { model { id } } }',
    {},
    token,
  );
  const { id: modelId } = created.createModel.model;
  const versions: string[] = [];
  for (const c of [1, 2]) versions.push(await addVersion(client, token, modelId, adding(c)));
  const publish = 'mutation ($input: PublishListingInput!) { publishListing(input: $input) { model { plans { id } } } }';
  const input = { modelId, modelVersionId: versions[0], plans: [{ name: 'free', unitPriceNanos: '0' }] };
  const offered = await client.ask<{ publishListing: { model: { plans: Node[] } } }>(publish, { input }, token);
  const { key } = await consumer(client, await market.demo(), 'taker', offered.publishListing.model.plans[0]?.id ?? '');
  return { token, modelId, versions, secret: key.secret };
}

const MODEL = 'model { version { number } aliases { name version { number } } }';
const PROMOTE = `mutation ($input: PromoteVersionInput!) { promoteVersion(input: $input) { ${MODEL} } }`;
const ROLLBACK = `mutation ($input: RollbackVersionInput!) { rollbackVersion(input: $input) { ${MODEL} } }`;
const DELETE = `mutation ($input: DeleteAliasInput!) { deleteAlias(input: $input) { ${MODEL} } }`;
const PREDICT = `mutation ($input: PredictInput!) { predict(input: $input) {
  prediction { modelVersion { number } outputs { data } } } }`;

/** The number of the version that answered a call, or the code of its refusal. */
async function call(client: Client, secret: string, model = 'maker/adder'): Promise<number | string> {
  const input = { model, inputs: [{ name: 'x', datatype: 'FP32', shape: [1], data: [0] }] };
  const { data, errors } = await client.send(PREDICT, { input }, secret);
  if (data === null) return errors?.[0]?.extensions.code ?? 'NO_ANSWER';
  const { prediction } = data.predict as { prediction: { modelVersion: { number: number }; outputs: { data: number[] }[] } };
  const [y] = prediction.outputs.map((output) => output.data[0]);
  return y === prediction.modelVersion.number ? y : `version ${prediction.modelVersion.number} answered ${y}`;
}

test('promoting back and forth fails no call, and none that begins afterwards gets the version of before', {
  timeout: 120_000,
}, async () => {
  const [client] = clients;
  if (client === undefined) throw new Error('no server');
  const { token, modelId, versions, secret } = await offerAdder(client);
  /** Versions that `live` named: first, after each promotion that was sent. */
  const sent = [1];
  let returned = 0;
  let between = 0;
  let stopped = false;
  const wrong: string[] = [];
  const callers = Array.from({ length: CALLERS }, async (_, i) => {
    const own = clients[i % clients.length] ?? client;
    while (!stopped) {
      const from = returned;
      const answer = await call(own, secret);
      const allowed: (number | string)[] = sent.slice(from);
      if (!allowed.includes(answer)) wrong.push(`${answer}, where live was ${allowed}`);
      if (from === returned && sent.length === returned + 1) between++;
    }
  });
  const move = async (to: number) => {
    sent.push(to);
    const isBack = to === 1 && returned % 4 === 1;
    if (isBack) await client.ask(ROLLBACK, { input: { modelId } }, token);
    else await client.ask(PROMOTE, { input: { versionId: versions[to - 1] } }, token);
    returned++;
  };
  try {
    for (let round = 0; round < ROUNDS; round++) {
      between = 0;
      await expect.poll(() => between, { interval: 2, timeout: 20_000 }).toBeGreaterThan(CALLS_BETWEEN);
      await move(round % 2 === 0 ? 2 : 1);
    }
  } finally {
    stopped = true;
    await Promise.all(callers);
  }
  expect(wrong).toEqual([]);
});

test('an alias is made, called, shown and deleted over GraphQL', { timeout: 60_000 }, async () => {
  const [client] = clients;
  if (client === undefined) throw new Error('no server');
  const { token } = await signUp(client, 'namer');
  const created = await client.ask<{ createModel: { model: Node } }>(
    'mutation { createModel(input: { name: "adder" }) { model { id } } }',
    {},
    token,
  );
  const { id: modelId } = created.createModel.model;
  const versionId = await addVersion(client, token, modelId, adding(1));
  expect(await client.ask(PROMOTE, { input: { versionId, alias: 'canary' } }, token)).toEqual({
    promoteVersion: { model: { version: null, aliases: [{ name: 'canary', version: { number: 1 } }] } },
  });
  expect(await call(client, token, 'namer/adder@canary')).toBe(1);
  expect(await client.ask(DELETE, { input: { modelId, alias: 'canary' } }, token)).toEqual({
    deleteAlias: { model: { version: null, aliases: [] } },
  });
  expect(await call(client, token, 'namer/adder@canary')).toBe('NOT_FOUND');
});
