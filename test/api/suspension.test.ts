import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { Client } from '../support/client.ts';
import { offerLoop } from '../support/offer.ts';
import { billOf, consumer, createKey } from '../support/people.ts';
import { type Market, openMarket } from '../support/server.ts';

let market: Market;
let url: string;
let client: Client;
beforeAll(async () => {
  market = await openMarket();
  ({ url } = await market.start());
  client = new Client(url);
}, 60_000);
afterAll(async () => {
  client[Symbol.dispose]();
  expect(await market.audit()).toContain('invariants hold');
  await market[Symbol.asyncDispose]();
});

const PREDICT = 'mutation ($input: PredictInput!) { predict(input: $input) { prediction { outputs { data } } } }';
const STRIKES =
  '{ model(handle: "maker/loop") { version { strikes { consumers suspendedConsumers latest { at kind own } suspensions { since until reason } } } } }';
const SUSPENSION = '{ model(handle: "maker/loop") { version { suspension { everyone reason since until } } } }';

test('a tenant whose calls exceed the run limit again and again is refused, nobody else is, and nothing is billed', {
  timeout: 60_000,
}, async () => {
  const { token, planId } = await offerLoop(client, 1_000);
  const demo = await market.demo();
  const hostile = await consumer(client, demo, 'hostile', planId);
  const good = await consumer(client, demo, 'good', planId);
  const call = (secret: string, turns: string) =>
    client.send(PREDICT, { input: { model: 'maker/loop', inputs: [{ name: 'x', datatype: 'INT64', data: [turns] }] } }, secret);
  const endless = String(2 ** 52);
  for (let i = 0; i < 3; i++) {
    const { errors } = await call(hostile.key.secret, endless);
    expect(errors?.[0]).toMatchObject({
      message: 'The model exceeded its run limit of 1000 ms.',
      extensions: { code: 'MODEL_FAILED', rule: 'OVERRUN', limit: '1000' },
    });
  }
  const refused = (await call(hostile.key.secret, '1')).errors?.[0];
  expect(refused).toMatchObject({ extensions: { code: 'MODEL_SUSPENDED', retryable: true, retryAfterMs: expect.any(Number) } });
  expect(refused?.message).toContain('suspended for your tenant');
  expect((await call(good.key.secret, '5')).data).toMatchObject({ predict: { prediction: { outputs: [{ data: ['5'] }] } } });
  expect(await billOf(client, hostile.token)).toMatchObject({ predictions: 0n });

  const own = await client.ask<{ model: { version: { suspension: object | null } } }>(SUSPENSION, {}, hostile.token);
  expect(own.model.version.suspension).toMatchObject({
    everyone: false,
    reason: expect.stringContaining('exceeded its run limit 3 times'),
  });
  for (const other of [good.token, token])
    expect(await client.ask(SUSPENSION, {}, other)).toMatchObject({ model: { version: { suspension: null } } });

  const strike = { kind: 'OVERRUN', own: false, at: expect.any(String) };
  const told = { consumers: 1, suspendedConsumers: 1, latest: [strike, strike, strike] };
  expect(await client.ask(STRIKES, {}, token)).toMatchObject({ model: { version: { strikes: told } } });
  const key = await createKey(client, token);
  for (const other of [hostile.token, good.token, key.secret, null])
    expect(await client.ask(STRIKES, {}, other)).toEqual({ model: { version: { strikes: null } } });
});

test('a tenant that gives up before the run limit is suspended all the same', { timeout: 60_000 }, async () => {
  const { planId } = await offerLoop(client, 1_000, 'hasty');
  const hostile = await consumer(client, await market.demo(), 'hasty-caller', planId);
  const input = { model: 'hasty/loop', inputs: [{ name: 'x', datatype: 'INT64', data: [String(2 ** 52)] }], deadlineMs: 400 };
  const codes = new Set<string | undefined>();
  const call = async () => (await client.send(PREDICT, { input }, hostile.key.secret)).errors?.[0]?.extensions.code;
  await expect.poll(async () => codes.add(await call()).has('MODEL_SUSPENDED'), { timeout: 30_000, interval: 0 }).toBe(true);
  expect([...codes].sort()).toEqual(['DEADLINE_EXCEEDED', 'MODEL_SUSPENDED']);
});

test('a runner that is killed from outside strikes nobody: another answers its call', { timeout: 60_000 }, async () => {
  const { token, planId } = await offerLoop(client, 30_000, 'killed');
  const { key } = await consumer(client, await market.demo(), 'unlucky', planId);
  const input = { model: 'killed/loop', inputs: [{ name: 'x', datatype: 'INT64', data: ['2000000'] }] };
  const call = client.send(PREDICT, { input }, key.secret);
  const running = async () => {
    const told = '{ deployments { replicas { pid running } } }';
    type Told = { deployments: { replicas: { pid: number; running: number }[] }[] };
    const replica = (await client.ask<Told>(told, {}, token)).deployments[0]?.replicas[0];
    expect(replica).toMatchObject({ running: 1 });
    return replica?.pid ?? 0;
  };
  process.kill(await vi.waitFor(running, { timeout: 20_000 }), 'SIGKILL');
  expect((await call).data).toMatchObject({ predict: { prediction: { outputs: [{ data: ['2000000'] }] } } });
  const strikes = await client.ask(STRIKES.replace('maker', 'killed'), {}, token);
  expect(strikes).toMatchObject({ model: { version: { strikes: { consumers: 0, latest: [] } } } });
});

test('a tenant that calls on is refused at a pace, but for calls that have no time to wait', { timeout: 60_000 }, async () => {
  const { planId } = await offerLoop(client, 1_000, 'pressed');
  const hostile = await consumer(client, await market.demo(), 'pressing', planId);
  const call = async (client: Client, turns: string, deadlineMs: number) => {
    const input = { model: 'pressed/loop', inputs: [{ name: 'x', datatype: 'INT64', data: [turns] }], deadlineMs };
    return (await client.send(PREDICT, { input }, hostile.key.secret)).errors?.[0]?.extensions.code;
  };
  for (let i = 0; i < 3; i++) await call(client, String(2 ** 52), 30_000);

  using many = new Client(url, 65);
  const answered: number[] = [];
  const asked = Array.from({ length: 65 }, (_, i) => i);
  const codes = await Promise.all(
    asked.map(async (i) => {
      const code = await call(many, '1', i === 64 ? 1 : 60_000);
      answered.push(i);
      return code;
    }),
  );
  expect(new Set(codes)).toEqual(new Set(['MODEL_SUSPENDED']));
  expect(answered.indexOf(64)).toBeLessThan(44);
});
