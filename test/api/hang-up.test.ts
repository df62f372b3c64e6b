import { once } from 'node:events';
import { connect } from 'node:net';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { uuidOf } from '../faults/journal.ts';
import { openProxy } from '../faults/proxy.ts';
import { Dice } from '../fuzz/random.ts';
import { Client } from '../support/client.ts';
import { createTestDatabase } from '../support/database.ts';
import { offerLoop } from '../support/offer.ts';
import { consumer } from '../support/people.ts';
import { type Market, openMarket } from '../support/server.ts';

const PREDICT = 'mutation ($input: PredictInput!) { predict(input: $input) { prediction { id replayed } } }';
const CANCEL = 'mutation ($key: String!) { cancelPrediction(input: { idempotencyKey: $key }) { state } }';
const REPLICAS = '{ deployments { running replicas { runMs } modelVersion { handle } } }';

type Predicted = { predict: { prediction: { id: string; replayed: boolean } } };
type Deployed = { deployments: { running: number; replicas: { runMs: number }[]; modelVersion: { handle: string } }[] };

const inputOf = (key: string | null) => ({
  model: 'maker/loop',
  idempotencyKey: key,
  inputs: [{ name: 'x', datatype: 'INT64', data: ['1000'] }],
});

/** Each call is past the billing point, since its settlement is kept from the database, or waits for one that is. */
describe.skipIf(process.env.MERCATO_TEST_DATABASE_URL === undefined)('once the model has run', () => {
  let proxy: Awaited<ReturnType<typeof openProxy>>;
  let market: Market;
  let client: Client;
  let url: string;
  let books: pg.Client;
  let maker: Awaited<ReturnType<typeof offerLoop>>;
  beforeAll(async () => {
    const database = await createTestDatabase();
    const through = new URL(database.url ?? '');
    proxy = await openProxy(Number(through.port || 5432), new Dice(1));
    through.port = String(proxy.port);
    market = await openMarket({ database, env: { DATABASE_SERVER_URL: through.href } });
    books = new pg.Client({ connectionString: database.url ?? '' });
    await books.connect();
    url = (await market.start()).url;
    client = new Client(url);
    maker = await offerLoop(client, 30_000);
  });
  afterAll(async () => {
    client[Symbol.dispose]();
    await books.end();
    expect(await market.audit()).toContain('invariants hold');
    await market[Symbol.asyncDispose]();
    await proxy[Symbol.asyncDispose]();
  });

  /** Sends a call; `hangUp` resolves once the server has closed its side too. */
  async function call(key: string | null, secret: string) {
    const body = JSON.stringify({ query: PREDICT, variables: { input: inputOf(key) } });
    const socket = connect({ port: Number(new URL(url).port), host: '127.0.0.1', allowHalfOpen: true });
    const head = `POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer ${secret}`;
    socket.write(`${head}\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
    let answered = '';
    socket.setEncoding('utf8').on('data', (text: string) => {
      answered += text;
    });
    return {
      async hangUp() {
        socket.end();
        await once(socket, 'end');
        expect(answered).toBe('');
      },
    };
  }

  /** A mean that every run changes. */
  async function meanRunMs(): Promise<number | undefined> {
    const { deployments } = await client.ask<Deployed>(REPLICAS, {}, maker.token);
    const loop = deployments.find(({ modelVersion }) => modelVersion.handle.startsWith('maker/loop'));
    return loop?.running === 0 ? loop.replicas[0]?.runMs : undefined;
  }

  /** Of the usage records. */
  async function billed(tenantId: string): Promise<string[]> {
    const { rows } = await books.query<{ id: string }>('select id from usage_record where consumer_tenant_id = $1', [uuidOf(tenantId)]);
    return rows.map(({ id }) => id);
  }

  const retry = async (key: string, secret: string) =>
    (await client.ask<Predicted>(PREDICT, { input: inputOf(key) }, secret)).predict.prediction;

  test('clients that disconnect are billed, and a retry with the key finds the answer', async () => {
    const { key, tenantId } = await consumer(client, await market.demo(), 'leaver', maker.planId);
    const { kept, letGo } = proxy.keepBack('settlement');
    const written = await call('written', key.secret);
    await kept;
    const queued = [];
    for (const name of ['queued', null]) {
      const before = await meanRunMs();
      queued.push(await call(name, key.secret));
      await expect.poll(async () => [undefined, before].includes(await meanRunMs()), { timeout: 20_000 }).toBe(false);
    }
    for (const { hangUp } of [written, ...queued]) await hangUp();
    letGo();
    const found = [await retry('written', key.secret), await retry('queued', key.secret)];
    expect(found.map(({ replayed }) => replayed)).toEqual([true, true]);
    await expect.poll(() => billed(tenantId), { timeout: 20_000 }).toHaveLength(3);
    expect(await billed(tenantId)).toEqual(expect.arrayContaining(found.map(({ id }) => uuidOf(id))));
  });

  test('a call that is cancelled is billed and answered as ever', async () => {
    const { key, tenantId } = await consumer(client, await market.demo(), 'canceller', maker.planId);
    const heard = once(books, 'notification');
    await books.query('listen mercato_cancel');
    const { kept, letGo } = proxy.keepBack('settlement');
    const answer = client.send(PREDICT, { input: inputOf('late') }, key.secret);
    await kept;
    const cancelled = client.ask(CANCEL, { key: 'late' }, key.secret);
    await heard;
    letGo();
    expect(await cancelled).toEqual({ cancelPrediction: { state: 'ANSWERED' } });
    const { data } = await answer;
    expect(data).toMatchObject({ predict: { prediction: { replayed: false } } });
    expect(await billed(tenantId)).toEqual([uuidOf((data as Predicted).predict.prediction.id)]);
  });
});
