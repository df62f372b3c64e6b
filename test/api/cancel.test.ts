import { afterAll, beforeAll, expect, test } from 'vitest';
import { Client, predictDigit } from '../support/client.ts';
import { offerLoop } from '../support/offer.ts';
import { billOf, consumer } from '../support/people.ts';
import { type Market, openMarket } from '../support/server.ts';

// One process at a time has an embedded database.
const SERVERS = process.env.MERCATO_TEST_DATABASE_URL === undefined ? 1 : 2;

let market: Market;
let clients: Client[];
beforeAll(async () => {
  market = await openMarket();
  clients = [];
  for (let i = 0; i < SERVERS; i++) clients.push(new Client((await market.start()).url));
}, 60_000);
afterAll(async () => {
  for (const client of clients) client[Symbol.dispose]();
  expect(await market.audit()).toContain('invariants hold');
  await market[Symbol.asyncDispose]();
});

const first = () => clients[0] as Client;
const PREDICT = 'mutation ($input: PredictInput!) { predict(input: $input) { prediction { id } } }';
const CANCEL = 'mutation ($key: String!) { cancelPrediction(input: { idempotencyKey: $key }) { state } }';
const RUNNING = '{ deployments { running modelVersion { handle } } }';

async function cancel(client: Client, key: string, token: string): Promise<string> {
  return (await client.ask<{ cancelPrediction: { state: string } }>(CANCEL, { key }, token)).cancelPrediction.state;
}

test('a call in flight is stopped by its key, in whichever process it is, and costs nothing', { timeout: 60_000 }, async () => {
  const { token, planId } = await offerLoop(first(), 30_000);
  const { key, token: own } = await consumer(first(), await market.demo(), 'caller', planId);
  const neighbour = await consumer(first(), await market.demo(), 'neighbour', planId);
  for (const client of clients) {
    const input = {
      model: 'maker/loop',
      idempotencyKey: 'long',
      deadlineMs: 60_000,
      inputs: [{ name: 'x', datatype: 'INT64', data: ['9000000'] }],
    };
    const called = first().send(PREDICT, { input }, key.secret);
    const running = async () => (await first().ask<{ deployments: { running: number }[] }>(RUNNING, {}, token)).deployments[0]?.running;
    await expect.poll(running, { timeout: 20_000 }).toBe(1);
    expect(await cancel(client, 'another', key.secret)).toBe('TOLD');
    expect(await cancel(client, 'long', neighbour.key.secret)).toBe('TOLD');
    expect(await running()).toBe(1);
    expect(await cancel(client, 'long', key.secret)).toBe(client === first() ? 'STOPPED' : 'TOLD');
    const cancelled = { message: 'The caller cancelled.', extensions: { code: 'CANCELLED', retryable: false } };
    expect((await called).errors?.[0]).toMatchObject(cancelled);
  }
  expect(await billOf(first(), own)).toMatchObject({ predictions: 0n });
  const quota = '{ subscriptions { nodes { quota { used inFlight } } } }';
  await expect
    .poll(() => first().ask(quota, {}, own), { timeout: 20_000 })
    .toEqual({
      subscriptions: { nodes: [{ quota: { used: '0', inFlight: '0' } }] },
    });
});

test("a call that was answered is not undone, and another tenant's key names nothing", async () => {
  const { apiKey } = await market.demo();
  expect(await predictDigit(first(), apiKey, { idempotencyKey: 'done' })).toMatchObject({ usage: { units: 1 } });
  expect(await cancel(first(), 'done', apiKey)).toBe('ANSWERED');
  const { key } = await consumer(first(), await market.demo(), 'stranger', (await offerLoop(first(), 1_000, 'other')).planId);
  expect(await cancel(first(), 'done', key.secret)).toBe('TOLD');
  expect((await first().send(CANCEL, { key: '' }, apiKey)).errors?.[0]).toMatchObject({
    extensions: { code: 'BAD_USER_INPUT', field: 'idempotencyKey' },
  });
});
