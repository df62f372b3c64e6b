import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from '../support/client.ts';
import { createKey, signIn, signUp } from '../support/people.ts';
import type { Demo } from '../support/server.ts';
import { openDatabase } from './database.ts';
import { partsOf, start } from './processes.ts';
import type { Side } from './sides.ts';

/** A whole marketplace for one measurement: a server on a database and a data directory of its own, with the seed's operator and consumer. */
export type Market = AsyncDisposable & {
  pid: number;
  url: string;
  /** Null: embedded. */
  databaseUrl: string | null;
  /** The side that calls `model` by API key. */
  side(call: PredictCall): Side;
  /** Uploads a model as the operator and subscribes the consumer: its handle. */
  offer(name: string, bytes: Uint8Array, maxBatchRows: number): Promise<string>;
  /** Uploads a model with a run limit as the operator, and subscribes so many new consumers: their keys. */
  attackers(name: string, bytes: Uint8Array, runLimitMs: number, count: number): Promise<{ handle: string; secrets: string[] }>;
  /** One call; its answer's milliseconds. */
  predict(call: PredictCall): Promise<number>;
};

export type PredictCall = {
  model: string;
  outputs: readonly string[];
  input: { name: string; datatype: string; shape: readonly number[]; data: string };
};

/** What both sides of a measurement send. */
export function bodyOf({ model, outputs, input }: PredictCall): string {
  return JSON.stringify({ query: PREDICT, variables: { input: { model, outputs, inputs: [input] } } });
}

const PREDICT = 'mutation($input:PredictInput!){predict(input:$input){prediction{outputs{name data} usage{units}}}}';
const UNIT_PRICE_NANOS = '10';

/** `nodeOptions` for the server process. */
export async function openMarket(nodeOptions: readonly string[] = [], env: Record<string, string> = {}): Promise<Market> {
  await using stack = new AsyncDisposableStack();
  const database = stack.use(await openDatabase());
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-bench-'));
  stack.defer(() => rm(dataDir, { recursive: true, force: true }));
  const settings = {
    MERCATO_DATA: dataDir,
    MERCATO_PORT: '0',
    MERCATO_PROCESSES: '1',
    MERCATO_SEED: '1',
    MERCATO_LOG_LEVEL: 'warn',
    NODE_ENV: 'production',
  };
  const server = stack.use(
    await start('src/main.ts', { ...settings, ...env, DATABASE_URL: database.url ?? undefined }, /curl -s .*\n/, nodeOptions),
  );
  const url = /is at (http:\/\/\S+)\/graphql/.exec(server.output)?.[1] ?? '';
  const client = stack.use(new Client(url));
  const demo: Demo = JSON.parse(await readFile(join(dataDir, 'demo.json'), 'utf8'));
  const operator = await signIn(client, demo.operator);
  const consumer = await signIn(client, demo.demo);
  const headers = { authorization: `Bearer ${demo.apiKey}` };

  async function publish(name: string, bytes: Uint8Array, bounds: object): Promise<{ handle: string; planId: string | undefined }> {
    type Made = { createModel: { model: { id: string; handle: string } }; createUpload: { upload: { id: string }; url: string } };
    const query =
      'mutation ($name: String!) { createModel(input: { name: $name }) { model { id handle } } createUpload { upload { id } url } }';
    const { createModel, createUpload } = await client.ask<Made>(query, { name }, operator);
    const sent = await fetch(createUpload.url, { method: 'PUT', body: Uint8Array.from(bytes) });
    if (!sent.ok) throw new Error(`the upload was refused: ${await sent.text()}`);
    const modelId = createModel.model.id;
    await client.ask(
      'mutation ($input: CreateModelVersionInput!) { createModelVersion(input: $input) { modelVersion { state } } }',
      { input: { modelId, uploadId: createUpload.upload.id, ...bounds } },
      operator,
    );
    const plans = [{ name: 'bench', unitPriceNanos: UNIT_PRICE_NANOS }];
    type Published = { publishListing: { model: { plans: { id: string }[] } } };
    const listing = 'mutation ($input: PublishListingInput!) { publishListing(input: $input) { model { plans { id } } } }';
    const { publishListing } = await client.ask<Published>(listing, { input: { modelId, plans } }, operator);
    return { handle: createModel.model.handle, planId: publishListing.model.plans[0]?.id };
  }

  const subscribe = (planId: string | undefined, token: string) =>
    client.ask('mutation ($planId: ID!) { subscribe(input: { planId: $planId }) { subscription { id } } }', { planId }, token);

  async function offer(name: string, bytes: Uint8Array, maxBatchRows: number): Promise<string> {
    const { handle, planId } = await publish(name, bytes, { maxBatchRows });
    await subscribe(planId, consumer);
    return handle;
  }

  async function attackers(
    name: string,
    bytes: Uint8Array,
    runLimitMs: number,
    count: number,
  ): Promise<{ handle: string; secrets: string[] }> {
    const { handle, planId } = await publish(name, bytes, { runLimitMs });
    const secrets: string[] = [];
    for (let index = 0; index < count; index++) {
      const { token, tenantId } = await signUp(client, `attacker-${index}`);
      await subscribe(planId, token);
      const credit = 'mutation ($input: AddCreditInput!) { addCredit(input: $input) { transfer { id } } }';
      await client.ask(credit, { input: { tenantId, amountNanos: '1000000', idempotencyKey: tenantId } }, operator);
      secrets.push((await createKey(client, token)).secret);
    }
    return { handle, secrets };
  }

  async function predict(call: PredictCall): Promise<number> {
    const startedMs = performance.now();
    const response = await fetch(`${url}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: bodyOf(call),
    });
    const answer = await response.text();
    if (!answer.startsWith('{"data":{')) throw new Error(answer);
    return performance.now() - startedMs;
  }

  const parts = stack.move();
  return {
    pid: server.pid,
    url,
    databaseUrl: database.url,
    side: (call) => ({
      name: 'Mercato',
      url: `${url}/graphql`,
      headers,
      body: bodyOf(call),
      pids: async () => {
        const { servers, runners } = partsOf(server.pid);
        return { server: servers, runners, database: await database.backends() };
      },
    }),
    offer,
    attackers,
    predict,
    [Symbol.asyncDispose]: () => parts.disposeAsync(),
  };
}
