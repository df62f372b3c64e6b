import { afterAll, beforeAll, expect, test } from 'vitest';
import { mixingModel } from '../inference/tiny-models.ts';
import { Client, type GraphQLAnswer, type Predicted, predictDigit } from '../support/client.ts';
import { administer, createTestDatabase } from '../support/database.ts';
import { offer } from '../support/offer.ts';
import { billOf, consumer, createKey, offerDigits, signIn } from '../support/people.ts';
import { onPostgres } from '../support/races.ts';
import { type Demo, type Market, openMarket } from '../support/server.ts';

let market: Market;
let client: Client;
let demo: Demo;
beforeAll(async () => {
  market = await openMarket();
  client = new Client((await market.start()).url);
  demo = await market.demo();
}, 60_000);
afterAll(async () => {
  client[Symbol.dispose]();
  expect(await market.audit()).toContain('invariants hold');
  await market[Symbol.asyncDispose]();
});

const IMAGE = Buffer.alloc(784).toString('base64');
const inputOf = (tensor: object, more: object = {}) => ({
  model: 'mercato/digits',
  inputs: [{ name: 'image', datatype: 'UINT8', ...tensor }],
  ...more,
});
const PREDICT = 'mutation ($input: PredictInput!) { predict(input: $input) { prediction { usage { units } outputs { name shape } } } }';
const refusal = (answer: GraphQLAnswer) => answer.errors?.[0];

test('a prediction with another field beside it is refused before anything runs, and nothing is billed', async () => {
  const token = await signIn(client, demo.demo);
  const before = await billOf(client, token);
  const variables = { input: inputOf({ shape: [1, 28, 28], data: IMAGE }) };
  for (const beside of ['createUpload { url }', 'again: predict(input: $input) { prediction { id } }', '...more']) {
    const fragment = beside === '...more' ? 'fragment more on Mutation { createUpload { url } }' : '';
    const both = `mutation ($input: PredictInput!) { predict(input: $input) { prediction { id } } ${beside} } ${fragment}`;
    const error = refusal(await client.send(both, variables, token));
    expect(error?.extensions.code).toBe('BAD_USER_INPUT');
    expect(error?.message).toContain('predict must be the only field');
  }
  expect(await billOf(client, token)).toEqual(before);
});

test('credentials that hold no more keep nobody from asking for new ones, but from all else', async () => {
  const query = 'mutation ($input: SignInInput!) { signIn(input: $input) { tokens { accessToken } } }';
  const answer = await client.send(query, { input: demo.demo }, 'stale');
  expect(answer.errors).toBeUndefined();
  const refresh = 'mutation { refreshSession(input: { refreshToken: "none" }) { tokens { accessToken } } }';
  expect(refusal(await client.send(refresh, {}, 'stale'))).toMatchObject({ path: ['refreshSession'] });
  const both = query.replace('{ signIn', '{ createUpload { url } signIn');
  for (const other of ['{ models { nodes { id } } }', both]) {
    expect(refusal(await client.send(other, { input: demo.demo }, 'stale'))).toMatchObject({ extensions: { code: 'UNAUTHENTICATED' } });
  }
});

test.each([
  ['another datatype', { datatype: 'FP32', shape: [1, 28, 28], data: IMAGE }],
  ['another size', { shape: [1, 28, 29], data: IMAGE }],
  ['another rank', { data: [1, 2, 3] }],
  ['no number', { data: [['x']] }],
])('a tensor of %s is refused with the name of the input and what the model wants', async (_, tensor) => {
  const error = refusal(await client.send(PREDICT, { input: inputOf(tensor) }, demo.apiKey));
  expect(error?.extensions).toMatchObject({ code: 'BAD_USER_INPUT', expected: 'UINT8 [N,28,28]' });
  expect(error?.message).toContain('"image"');
});

test('a call larger than what is left of the quota is told how much is left, and one that fits is answered', async () => {
  const plans = await offerDigits(client, demo, [{ name: 'ten', unitPriceNanos: '0', quotaUnitsPerMonth: '10' }]);
  const { key } = await consumer(client, demo, 'ten', plans.get('ten') ?? '');
  const rows = (count: number) => inputOf({ shape: [count, 28, 28], data: Buffer.alloc(784 * count).toString('base64') });
  const error = refusal(await client.send(PREDICT, { input: rows(11) }, key.secret));
  expect(error?.extensions).toMatchObject({ code: 'QUOTA_EXCEEDED', given: '11 units', expected: 'at most 10', used: '0', limit: '10' });
  expect((await client.send(PREDICT, { input: rows(10) }, key.secret)).errors).toBeUndefined();
});

test('rows beyond the batch limit run in slices and are billed as one call', async () => {
  const token = await signIn(client, demo.demo);
  const { secret } = await createKey(client, token);
  const before = await billOf(client, token);
  const input = inputOf({ shape: [200, 28, 28], data: Buffer.alloc(784 * 200).toString('base64') });
  const { predict } = await client.ask<{ predict: { prediction: object } }>(PREDICT, { input }, secret);
  expect(predict.prediction).toEqual({
    usage: { units: 200 },
    outputs: [
      { name: 'probabilities', shape: [200, 10] },
      { name: 'label', shape: [200] },
    ],
  });
  const after = await billOf(client, token);
  expect(after.predictions - before.predictions).toBe(1n);
  expect(after.units - before.units).toBe(200n);
});

test('more rows than the batch limit are refused where rows may touch, and nothing is billed', async () => {
  const { token } = await offer(client, { maker: 'mixer', name: 'mix', file: mixingModel(), bounds: { maxBatchRows: 4 } });
  const call = (rows: number) => {
    const x = { name: 'x', datatype: 'FP32', shape: [rows, 2], data: Array(2 * rows).fill(1) };
    return client.send(PREDICT, { input: { model: 'mixer/mix', inputs: [x] } }, token);
  };
  expect((await call(4)).data).toMatchObject({ predict: { prediction: { usage: { units: 4 } } } });
  expect(refusal(await call(5))?.extensions).toMatchObject({ code: 'BAD_USER_INPUT', field: 'inputs', expected: '4 rows or fewer' });
  expect(await billOf(client, token)).toMatchObject({ predictions: 1n });
});

test('a deadline that passes is DEADLINE_EXCEEDED, and nothing is billed', async () => {
  const before = await billOf(client, demo.apiKey);
  const rows = 4_000;
  const input = inputOf({ shape: [rows, 28, 28], data: Buffer.alloc(784 * rows).toString('base64') }, { deadlineMs: 1 });
  expect(refusal(await client.send(PREDICT, { input }, demo.apiKey))?.extensions).toMatchObject({
    code: 'DEADLINE_EXCEEDED',
    retryable: true,
  });
  expect(await billOf(client, demo.apiKey)).toMatchObject({ predictions: before.predictions, balanceNanos: before.balanceNanos });
});

test.each([
  ['deadlineMs', 0],
  ['deadlineMs', 60_001],
  ['idempotencyKey', ''],
  ['idempotencyKey', 'k'.repeat(256)],
])('%s out of its bounds is refused with its name', async (field, value) => {
  const input = inputOf({ shape: [1, 28, 28], data: IMAGE }, { [field]: value });
  expect(refusal(await client.send(PREDICT, { input }, demo.apiKey))?.extensions).toMatchObject({ code: 'BAD_USER_INPUT', field });
});

test('one key of two tenants at once is two predictions', async () => {
  const plans = await offerDigits(client, demo, [{ name: 'two', unitPriceNanos: '0' }]);
  const keys = [];
  for (const name of ['twin-a', 'twin-b']) keys.push((await consumer(client, demo, name, plans.get('two') ?? '')).key.secret);
  for (const secret of keys) expect(await predictDigit(client, secret)).toMatchObject({ replayed: false });
  const answers = await Promise.all(keys.map((secret) => predictDigit(client, secret, { idempotencyKey: 'the same' })));
  expect(answers).toMatchObject([{ replayed: false }, { replayed: false }]);
});

test('ten calls with one key at once are one prediction, and another input under it is a conflict', async () => {
  const answers = await Promise.all(Array.from({ length: 10 }, () => predictDigit(client, demo.apiKey, { idempotencyKey: 'ten at once' })));
  const ids = new Set(answers.map((answer) => (typeof answer === 'string' ? answer : answer.id)));
  expect(ids.size).toBe(1);
  expect(answers.filter((answer) => typeof answer !== 'string' && !answer.replayed)).toHaveLength(1);
  expect(await predictDigit(client, demo.apiKey, { idempotencyKey: 'ten at once', outputs: null })).toBe('IDEMPOTENCY_CONFLICT');
});

test('of two calls at once with one key and other inputs, one is answered and the other a conflict', async () => {
  const answers = await Promise.all(
    [['label'], null].map((outputs) => predictDigit(client, demo.apiKey, { idempotencyKey: 'two at once', outputs })),
  );
  expect(answers.filter((answer) => answer === 'IDEMPOTENCY_CONFLICT')).toHaveLength(1);
  expect(answers.filter((answer) => typeof answer !== 'string' && !answer.replayed)).toHaveLength(1);
});

test('retries at once of calls that used up a quota get each the answer of its own key, and other keys none', async () => {
  const plans = await offerDigits(client, demo, [{ name: 'fifty', unitPriceNanos: '1', quotaUnitsPerMonth: '50' }]);
  const { key } = await consumer(client, demo, 'fifty', plans.get('fifty') ?? '', '1000');
  const names = Array.from({ length: 50 }, (_, i) => `used-${i}`);
  const sendAll = (all: readonly string[]) =>
    Promise.all(all.map((idempotencyKey) => predictDigit(client, key.secret, { idempotencyKey })));
  const first = await sendAll(names);
  const again = await sendAll([...names, ...names.map((name) => `new ${name}`)]);
  expect(again.slice(0, 50)).toEqual(first.map((answer) => (typeof answer === 'string' ? answer : { ...answer, replayed: true })));
  expect(again.slice(50)).toEqual(names.map(() => 'QUOTA_EXCEEDED'));
});

test.skipIf(!onPostgres)('a retry whose key cannot be looked up is not refused for good', { timeout: 60_000 }, async () => {
  const database = await createTestDatabase();
  const url = database.url ?? '';
  await using other = await openMarket({ database });
  using caller = new Client((await other.start()).url);
  const plans = await offerDigits(caller, await other.demo(), [{ name: 'one', unitPriceNanos: '1', quotaUnitsPerMonth: '1' }]);
  const { key } = await consumer(caller, await other.demo(), 'one', plans.get('one') ?? '', '1000');
  const call = () => predictDigit(caller, key.secret, { idempotencyKey: 'the only one' });
  const first = await call();
  await administer(url, 'revoke select on idempotency_key from mercato_system');
  expect(await call()).toBe('OVERLOADED');
  await administer(url, 'grant select on idempotency_key to mercato_system');
  expect(await call()).toEqual({ ...(first as Predicted), replayed: true });
});

test.skipIf(!onPostgres)(
  'a call that is refused when it is settled is metered once, by the retry with its key',
  { timeout: 60_000 },
  async () => {
    const database = await createTestDatabase();
    const url = database.url ?? '';
    await using other = await openMarket({ database });
    using caller = new Client((await other.start()).url);
    const plans = await offerDigits(caller, await other.demo(), [{ name: 'three', unitPriceNanos: '1', quotaUnitsPerMonth: '3' }]);
    const { key, token } = await consumer(caller, await other.demo(), 'three', plans.get('three') ?? '', '3');
    const call = (idempotencyKey: string) => predictDigit(caller, key.secret, { idempotencyKey });
    // What is held comes and goes with leases.
    const billed = async () => ({ ...(await billOf(caller, token)), heldNanos: null });
    for (const state of ['MC001', 'MC002', '23514']) {
      const before = await billed();
      await administer(
        url,
        `create or replace function refuse() returns trigger language plpgsql as $$ begin raise exception 'no room' using errcode = '${state}'; end $$;
       create trigger refused before insert on usage_record for each row execute function refuse()`,
      );
      expect(await call(state)).toBe('OVERLOADED');
      expect(await billed()).toEqual(before);
      await administer(url, 'drop trigger refused on usage_record');
      const answer = await call(state);
      expect(answer).toMatchObject({ replayed: false, usage: { units: 1 } });
      expect(await call(state)).toEqual({ ...(answer as Predicted), replayed: true });
    }
    expect(await billed()).toMatchObject({ predictions: 3n, units: 3n, amountNanos: 3n, balanceNanos: 0n });
    expect(await call('a fourth')).toBe('QUOTA_EXCEEDED');
    expect(await other.audit()).toContain('invariants hold');
  },
);
