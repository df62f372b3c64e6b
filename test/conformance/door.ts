import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createApp } from '../../src/app.ts';
import { readConfig } from '../../src/config.ts';
import type { Tensor } from '../../src/inference/inference.ts';
import { Client, type GraphQLAnswer } from '../support/client.ts';
import { signUp } from '../support/people.ts';

export type Verdict = { state: 'READY' | 'REJECTED'; handle: string; message: string | null; place: string | null };

/** A whole marketplace in this process, as a publisher meets it: over HTTP. */
export async function openDoor() {
  await using stack = new AsyncDisposableStack();
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-conformance-'));
  stack.defer(() => rm(dataDir, { recursive: true, force: true }));
  const { MERCATO_DEVICES, LD_LIBRARY_PATH } = process.env;
  const env = { MERCATO_DATA: dataDir, MERCATO_PORT: '0', MERCATO_SEED: '0', MERCATO_LOG_LEVEL: 'error', MERCATO_DEVICES, LD_LIBRARY_PATH };
  const app = stack.use(await createApp(readConfig(env)));
  const client = stack.use(new Client(app.url, 16));
  const { token: session } = await signUp(client, 'conformance');
  // A run may take longer than a session.
  const token = await publisherKey(client, session);
  const made = 'mutation { createModel(input: { name: "cases" }) { model { id } } }';
  const { createModel } = await client.ask<{ createModel: { model: { id: string } } }>(made, {}, token);

  /** Uploads a model file and waits for the verdict on it. */
  async function upload(model: Uint8Array): Promise<Verdict> {
    const query = 'mutation { createUpload { upload { id } url } }';
    const { createUpload } = await client.ask<{ createUpload: { upload: { id: string }; url: string } }>(query, {}, token);
    const sent = await fetch(createUpload.url, { method: 'PUT', body: Uint8Array.from(model) });
    if (!sent.ok) throw new Error(await sent.text());
    const create = `mutation ($input: CreateModelVersionInput!) { createModelVersion(input: $input) {
      modelVersion { state handle rejection { message place } } } }`;
    type Version = { state: 'READY' | 'REJECTED'; handle: string; rejection: { message: string; place: string | null } | null };
    const input = { modelId: createModel.model.id, uploadId: createUpload.upload.id };
    const answer = await client.ask<{ createModelVersion: { modelVersion: Version } }>(create, { input }, token);
    const { state, handle, rejection } = answer.createModelVersion.modelVersion;
    return { state, handle, message: rejection?.message ?? null, place: rejection?.place ?? null };
  }

  function predict(model: string, inputs: readonly Tensor[]): Promise<GraphQLAnswer> {
    const query = `mutation ($input: PredictInput!) { predict(input: $input) { prediction {
      outputs { name datatype shape data(encoding: BASE64) } } } }`;
    const given = inputs.map(({ name, datatype, shape, data }) => ({
      ...{ name, datatype, shape },
      data: Buffer.from(data).toString('base64'),
    }));
    return client.send(query, { input: { model, inputs: given, deadlineMs: 30_000 } }, token);
  }

  const parts = stack.move();
  return { upload, predict, [Symbol.asyncDispose]: () => parts.disposeAsync() };
}

export type Door = Awaited<ReturnType<typeof openDoor>>;

async function publisherKey(client: Client, session: string): Promise<string> {
  const query = 'mutation { createApiKey(input: { name: "cases", scopes: ["model:read", "model:write", "model:predict"] }) { secret } }';
  const { createApiKey } = await client.ask<{ createApiKey: { secret: string } }>(query, {}, session);
  return createApiKey.secret;
}

/** The outputs of an answer that has them. */
export function outputsOf({ data }: GraphQLAnswer): Tensor[] {
  type Given = Omit<Tensor, 'data'> & { data: string };
  const { predict } = data as { predict: { prediction: { outputs: Given[] } } };
  return predict.prediction.outputs.map((output) => ({ ...output, data: Buffer.from(output.data, 'base64') }));
}
