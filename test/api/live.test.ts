import { createClient } from 'graphql-ws';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import WebSocket from 'ws';
import { globalId, newId } from '../../src/base/ids.ts';
import { Client } from '../support/client.ts';
import { type Market, openMarket, type Server } from '../support/server.ts';

const ROWS = `x,y\n${Array.from({ length: 200 }, (_, row) => `${row},${row % 2 ? 'odd' : 'even'}`).join('\n')}\n`;
const WATCH = 'subscription ($id: ID!) { trainingRun(id: $id) { work { state } epochs { epoch } } }';

let market: Market;
let server: Server;
let client: Client;
let owner: string;
let stranger: string;
let datasetId: string;
let modelId: string;
beforeAll(async () => {
  market = await openMarket();
  server = await market.start();
  client = new Client(server.url);
  [owner, stranger] = [await signUp('watcher'), await signUp('stranger')];
  const { createUpload } = await client.ask<{ createUpload: { upload: { id: string }; url: string } }>(
    'mutation { createUpload { upload { id } url } }',
    {},
    owner,
  );
  await fetch(createUpload.url, { method: 'PUT', body: ROWS });
  const made = await client.ask<{ createDataset: { dataset: { id: string } }; createModel: { model: { id: string } } }>(
    'mutation ($d: CreateDatasetInput!, $m: CreateModelInput!) { createDataset(input: $d) { dataset { id } } createModel(input: $m) { model { id } } }',
    { d: { name: 'rows', format: 'CSV', uploadId: createUpload.upload.id }, m: { name: 'watched' } },
    owner,
  );
  [datasetId, modelId] = [made.createDataset.dataset.id, made.createModel.model.id];
  await vi.waitFor(async () => {
    const { node } = await client.ask<{ node: { work: { state: string } } }>(
      'query ($id: ID!) { node(id: $id) { ... on Dataset { work { state } } } }',
      { id: datasetId },
      owner,
    );
    expect(node.work.state).toBe('SUCCEEDED');
  }, 30_000);
});
afterAll(async () => {
  client[Symbol.dispose]();
  await market[Symbol.asyncDispose]();
});

async function signUp(tenantName: string): Promise<string> {
  const input = { email: `${tenantName}@example.com`, password: 'a long password', tenantName };
  const query = 'mutation ($input: SignUpInput!) { signUp(input: $input) { tokens { accessToken } } }';
  const { signUp: made } = await client.ask<{ signUp: { tokens: { accessToken: string } } }>(query, { input }, null);
  return made.tokens.accessToken;
}

async function startRun(epochs: number): Promise<string> {
  const net = { targets: ['y'], layers: [{ dense: { units: 2, activation: 'SOFTMAX' } }], loss: 'SPARSE_CROSS_ENTROPY', batchRows: 4 };
  const query = 'mutation ($input: CreateTrainingRunInput!) { createTrainingRun(input: $input) { trainingRun { id } } }';
  const { createTrainingRun } = await client.ask<{ createTrainingRun: { trainingRun: { id: string } } }>(
    query,
    { input: { ...net, datasetId, modelId, epochs } },
    owner,
  );
  return createTrainingRun.trainingRun.id;
}

async function cancel(id: string): Promise<void> {
  await client.ask(
    'mutation ($input: CancelTrainingRunInput!) { cancelTrainingRun(input: $input) { trainingRun { id } } }',
    { input: { id } },
    owner,
  );
}

type Seen = {
  data?: { trainingRun: { work: { state: string }; epochs: { epoch: number }[] } };
  errors?: { message: string; extensions: { code: string } }[];
};

/** Every answer of an operation over a WebSocket of its own. */
async function overSocket(
  token: string | null,
  query: string,
  variables: Record<string, unknown>,
  look: (seen: Seen) => void = () => {},
): Promise<Seen[]> {
  const live = createClient({
    url: `${server.url.replace('http', 'ws')}/graphql`,
    webSocketImpl: WebSocket,
    connectionParams: token === null ? {} : { authorization: `Bearer ${token}` },
    retryAttempts: 0,
  });
  const all: Seen[] = [];
  try {
    for await (const seen of live.iterate({ query, variables })) {
      all.push(seen as unknown as Seen);
      look(seen as unknown as Seen);
    }
    return all;
  } finally {
    await live.dispose();
  }
}

/** The events of an operation as curl would get them. */
async function overEvents(token: string | null, query: string, variables: object): Promise<string> {
  const response = await fetch(`${server.url}/graphql`, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: 'text/event-stream',
      ...(token === null ? {} : { authorization: `Bearer ${token}` }),
    },
    body: JSON.stringify({ query, variables }),
  });
  expect(response.headers.get('content-type')).toContain('text/event-stream');
  return response.text();
}

describe('a training run', () => {
  it('is watched over WebSocket until it has ended, epoch by epoch', async () => {
    const all = await overSocket(owner, WATCH, { id: await startRun(60) });
    const states = all.map(({ data }) => data?.trainingRun.work.state);
    expect(states.at(-1)).toBe('SUCCEEDED');
    expect(states.filter((state) => state === 'SUCCEEDED')).toHaveLength(1);
    const epochs = all.map(({ data }) => data?.trainingRun.epochs.length ?? 0);
    expect(epochs).toEqual([...epochs].sort((a, b) => a - b));
    expect(epochs.at(-1)).toBe(60);
    expect(new Set(epochs).size).toBeGreaterThan(2);
  });

  it('is watched by events, the last of which completes', async () => {
    const text = await overEvents(owner, WATCH, { id: await startRun(3) });
    const events = text.split('\n\n').filter((event) => event.startsWith('event: next'));
    expect(events.length).toBeGreaterThan(0);
    expect(events.at(-1)).toContain('SUCCEEDED');
    expect(text.trimEnd().endsWith('event: complete\ndata:')).toBe(true);
  });

  it('that was cancelled ends what watches it', async () => {
    const id = await startRun(10_000);
    let cancelling: Promise<void> | undefined;
    const all = await overSocket(owner, WATCH, { id }, ({ data }) => {
      if ((data?.trainingRun.epochs.length ?? 0) > 0) cancelling ??= cancel(id);
    });
    await cancelling;
    expect(all.at(-1)?.data?.trainingRun.work.state).toBe('CANCELLED');
  });

  it("of another tenant is as absent as none, and nobody's without credentials or the scope", async () => {
    const id = await startRun(1);
    const none = globalId('TrainingRun', newId());
    const [foreign, absent] = [await overSocket(stranger, WATCH, { id }), await overSocket(stranger, WATCH, { id: none })];
    expect(JSON.stringify(foreign)).toBe(JSON.stringify(absent));
    expect(foreign[0]?.errors?.[0]?.extensions.code).toBe('NOT_FOUND');
    expect(await overEvents(stranger, WATCH, { id })).toBe(await overEvents(stranger, WATCH, { id: none }));
    expect((await overSocket(null, WATCH, { id }))[0]?.errors?.[0]?.extensions.code).toBe('UNAUTHENTICATED');
    const { createApiKey } = await client.ask<{ createApiKey: { secret: string } }>(
      'mutation { createApiKey(input: { name: "narrow" }) { secret } }',
      {},
      owner,
    );
    expect((await overSocket(createApiKey.secret, WATCH, { id }))[0]?.errors?.[0]?.extensions.code).toBe('FORBIDDEN');
  });

  it('is shown no more to a key that was revoked meanwhile', async () => {
    const query = 'mutation { createApiKey(input: { name: "watch", scopes: ["model:read"] }) { secret apiKey { id } } }';
    const { createApiKey } = await client.ask<{ createApiKey: { secret: string; apiKey: { id: string } } }>(query, {}, owner);
    const id = await startRun(10_000);
    let revoking: Promise<unknown> | undefined;
    const all = await overSocket(createApiKey.secret, WATCH, { id }, () => {
      revoking ??= client.ask(
        'mutation ($input: RevokeApiKeyInput!) { revokeApiKey(input: $input) { apiKey { id } } }',
        { input: { id: createApiKey.apiKey.id } },
        owner,
      );
    });
    await revoking;
    expect(all.at(-1)?.errors?.[0]?.extensions.code).toBe('UNAUTHENTICATED');
    await cancel(id);
  });
});

describe('what is no live operation', () => {
  it.each([
    ['a query', '{ viewer { scopes } }', 'BAD_USER_INPUT'],
    ['two fields', 'subscription { a: trainingRun(id: "x") { id } b: trainingRun(id: "y") { id } }', 'BAD_USER_INPUT'],
    ['a field that is not there', 'subscription { weather { id } }', 'BAD_USER_INPUT'],
    ['a missing variable', WATCH, 'BAD_USER_INPUT'],
    ['no document', 'subscription {', 'BAD_USER_INPUT'],
    ['an id of another type', `subscription { trainingRun(id: "${globalId('Model', newId())}") { id } }`, 'NOT_FOUND'],
    ['more than is allowed', `subscription { trainingRun(id: "x") { ${'id '.repeat(600)} } }`, 'QUERY_TOO_COMPLEX'],
  ])('is refused once, with a code: %s', async (_, query, code) => {
    const [answer, ...more] = await overSocket(owner, query, {});
    expect([answer?.errors?.[0]?.extensions.code, more]).toEqual([code, []]);
    expect(await overEvents(owner, query, {})).toContain(`"code":"${code}"`);
  });

  it('is refused a socket with credentials that are none', async () => {
    await expect(overSocket('mk_wrong', WATCH, { id: 'x' })).rejects.toMatchObject({ code: 4401 });
  });
});

it('a server that stops completes what watches, and ends', { timeout: 60_000 }, async () => {
  const id = await startRun(10_000);
  const first = Promise.withResolvers<void>();
  const watching = overSocket(owner, WATCH, { id }, () => first.resolve()).catch((closed: { code: number }) => closed.code);
  const events = overEvents(owner, WATCH, { id });
  await first.promise;
  expect(await server.kill('SIGTERM')).toBe(0);
  expect(await watching).toBe(1001);
  expect(await events).toContain('event: complete');
  server = await market.start();
  client[Symbol.dispose]();
  client = new Client(server.url);
  await cancel(id);
});
