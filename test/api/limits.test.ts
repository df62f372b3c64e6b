import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Client, inParallel, predictDigit } from '../support/client.ts';
import { addCredit, billOf, consumer, createKey, offerDigits, signUp } from '../support/people.ts';
import { type Demo, type Market, openMarket, type Server } from '../support/server.ts';

let market: Market;
let server: Server;
let client: Client;
let demo: Demo;
let planId: string;
let slowId: string;
let rareId: string;
beforeAll(async () => {
  market = await openMarket();
  server = await market.start();
  client = new Client(server.url, 32);
  demo = await market.demo();
  const plans = await offerDigits(client, demo, [
    { name: 'limited', unitPriceNanos: '5', quotaUnitsPerMonth: '1000' },
    { name: 'slow', unitPriceNanos: '5', quotaUnitsPerMonth: '2', requestsPerMinute: 1, burst: 3 },
    { name: 'rare', unitPriceNanos: '5', requestsPerMinute: 1, burst: 1 },
  ]);
  [planId, slowId, rareId] = [plans.get('limited') ?? '', plans.get('slow') ?? '', plans.get('rare') ?? ''];
}, 60_000);
afterAll(async () => {
  client[Symbol.dispose]();
  expect(await market.audit()).toContain('invariants hold');
  await market[Symbol.asyncDispose]();
});

const CREATE = `mutation ($input: CreateUsageLimitInput!) { createUsageLimit(input: $input) { usageLimit { id name used remaining resetsAt } } }`;
const LIMITS = '{ usageLimits { id name subject subjectId measure window amount used inFlight remaining resetsAt } }';
type Limit = { id: string; name: string; used: string; inFlight: string; remaining: string; resetsAt: string | null };
const create = (token: string, input: object) =>
  client
    .ask<{ createUsageLimit: { usageLimit: Limit } }>(CREATE, { input }, token)
    .then(({ createUsageLimit }) => createUsageLimit.usageLimit);
const limits = (token: string) => client.ask<{ usageLimits: Limit[] }>(LIMITS, {}, token).then(({ usageLimits }) => usageLimits);

/** One prediction over plain HTTP, for its headers. */
async function post(secret: string): Promise<{ status: number; headers: Headers; body: string }> {
  const input = {
    model: 'mercato/digits',
    inputs: [{ name: 'image', datatype: 'UINT8', shape: [1, 28, 28], data: Buffer.alloc(784).toString('base64') }],
  };
  const query = 'mutation ($input: PredictInput!) { predict(input: $input) { prediction { id } } }';
  const response = await fetch(`${server.url}/graphql`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'application/graphql-response+json', 'x-api-key': secret },
    body: JSON.stringify({ query, variables: { input } }),
  });
  return { status: response.status, headers: response.headers, body: await response.text() };
}

async function records(token: string, query: string): Promise<Response> {
  return fetch(`${server.url}/usage/records?${query}`, { headers: { authorization: `Bearer ${token}` } });
}
const DAYS = `from=${new Date(Date.now() - 86_400_000).toISOString()}&to=${new Date(Date.now() + 86_400_000).toISOString()}`;

test('a limit of a key refuses exactly from its amount on, and is seen without being used', async () => {
  const { token, key } = await consumer(client, demo, 'keyholder', planId, '1000000');
  const free = await createKey(client, token);
  const limit = await create(token, { name: 'robot', subject: 'API_KEY', subjectId: key.id, window: 'DAY', amount: '40' });
  expect(limit).toMatchObject({ used: '0', remaining: '40' });
  const outcomes = new Map<string, number>();
  await inParallel(100, 32, async () => {
    const got = await predictDigit(client, key.secret);
    const outcome = typeof got === 'string' ? got : 'answered';
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  });
  expect(Object.fromEntries(outcomes)).toEqual({ answered: 40, QUOTA_EXCEEDED: 60 });
  expect(typeof (await predictDigit(client, free.secret))).toBe('object');
  expect(await limits(token)).toMatchObject([{ used: '40', inFlight: '0', remaining: '0' }]);
  expect(await limits(token)).toMatchObject([{ used: '40', inFlight: '0', remaining: '0' }]);
  const { usageAlerts } = await client.ask<{ usageAlerts: { nodes: { percent: number }[] } }>(
    '{ usageAlerts { nodes { percent limitName used } } }',
    {},
    token,
  );
  expect(usageAlerts.nodes.map(({ percent }) => percent).sort()).toEqual([100, 80]);
});

test('the fields RateLimit-Policy and RateLimit say what is left, and Retry-After when to come again', async () => {
  const { token, key } = await consumer(client, demo, 'headers', planId, '1000000');
  await create(token, { name: 'bursts', window: 'MINUTE', amount: '1', burstUnits: '2' });
  const first = await post(key.secret);
  expect(first.status).toBe(200);
  expect(first.headers.get('ratelimit-policy')).toMatch(/^"plan";q=1000;qu="units";w=2\d{6}, "bursts";q=2;qu="units";w=60$/);
  expect(first.headers.get('ratelimit')).toMatch(/^"plan";r=999;t=\d+, "bursts";r=1;t=\d+$/);
  await post(key.secret);
  const refused = await post(key.secret);
  expect(refused.status).toBe(429);
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(refused.headers.get('ratelimit')).toMatch(/"bursts";r=0;t=\d+$/);
  expect(JSON.parse(refused.body).errors[0].extensions).toMatchObject({ code: 'RATE_LIMITED', limitName: 'bursts', subject: 'TENANT' });
});

test("what a plan's rate and quota, and a wallet, refuse says what is lacking and whose it is", async () => {
  const { token, key } = await consumer(client, demo, 'slow', slowId, '9');
  const { subscriptions } = await client.ask<{ subscriptions: { nodes: { id: string }[] } }>(
    '{ subscriptions { nodes { id } } }',
    {},
    token,
  );
  const subscription = { limitName: 'plan', subject: 'SUBSCRIPTION', subjectId: subscriptions.nodes[0]?.id };
  const refusal = ({ body }: { body: string }) => JSON.parse(body).errors[0];
  const first = await post(key.secret);
  expect(first.headers.get('ratelimit-policy')).toMatch(/^"plan";q=2;qu="units";w=\d+, "plan-requests";q=3;qu="requests";w=60$/);
  expect(first.headers.get('ratelimit')).toMatch(/^"plan";r=1;t=\d+, "plan-requests";r=2;t=(60|5\d)$/);
  const refused = await post(key.secret);
  expect(refused.headers.get('ratelimit')).toMatch(/^"plan";r=1;t=\d+/);
  const poor = refusal(refused);
  expect(poor.extensions).toMatchObject({ code: 'INSUFFICIENT_CREDIT', neededNanos: '5', availableNanos: '4', currency: 'EUR' });
  expect(poor.message).toContain('may cost 5 nanos of EUR');
  await addCredit(client, demo, 'slow', '1000');
  await post(key.secret);
  const over = await post(key.secret);
  expect(over.headers.get('ratelimit')).toMatch(/^"plan";r=0;t=\d+/);
  const used = refusal(over);
  expect(used.extensions).toMatchObject({ code: 'QUOTA_EXCEEDED', ...subscription, limit: '2', used: '2' });
  const apart = await createKey(client, token);
  await create(token, { name: 'own', window: 'DAY', amount: '9', subject: 'API_KEY', subjectId: apart.id });
  expect((await post(apart.secret)).headers.get('ratelimit')).toMatch(/^"plan";r=0;t=\d+, "own";r=9;t=\d+$/);
  const { key: hasty } = await consumer(client, demo, 'hasty', rareId, '1000');
  await post(hasty.secret);
  const tooSoon = await post(hasty.secret);
  const limited = refusal(tooSoon);
  expect(limited.extensions).toMatchObject({
    ...{ code: 'RATE_LIMITED', limitName: 'plan-requests', subject: 'SUBSCRIPTION', subjectId: expect.any(String) },
    ...{ limit: '1', used: '1', given: '1 call', expected: 'at most 0 now' },
  });
  expect(tooSoon.headers.get('ratelimit')).toContain(`"${limited.extensions.limitName}";r=0;t=`);
  expect(limited.message).toMatch(/allows 1 calls of .+ per minute in bursts of 1; of these, 1 are used\. A larger plan would lift it\.$/);
});

test('a key that may only predict sees what is left to it, and not to others', async () => {
  const { token, key, tenantId } = await consumer(client, demo, 'looker', planId, '1000000');
  const other = await createKey(client, token);
  const { viewer } = await client.ask<{ viewer: { user: { id: string } } }>('{ viewer { user { id } } }', {}, token);
  for (const [name, subject, subjectId] of [
    ['all', 'TENANT', tenantId],
    ['maker', 'MEMBER', viewer.user.id],
    ['mine', 'API_KEY', key.id],
    ['theirs', 'API_KEY', other.id],
  ]) {
    await create(token, { name, subject, subjectId, window: 'DAY', amount: '9' });
  }
  await predictDigit(client, key.secret);
  const seen = async (secret: string) => {
    const query = '{ viewer { usageLimits { name subjectId used inFlight remaining resetsAt } } }';
    return (await client.ask<{ viewer: { usageLimits: object[] | null } }>(query, {}, secret)).viewer.usageLimits;
  };
  const left = (name: string, subjectId: string, used: string) => ({ name, subjectId, used, resetsAt: expect.any(String) });
  const shared = [left('all', tenantId, '1'), left('maker', viewer.user.id, '1')];
  expect(await seen(key.secret)).toMatchObject([...shared, left('mine', key.id, '1')]);
  expect(await seen(other.secret)).toMatchObject([...shared, left('theirs', other.id, '0')]);
  expect(await seen(token)).toMatchObject(shared);
  expect((await client.send(LIMITS, {}, key.secret)).errors?.[0]?.extensions).toMatchObject({ code: 'FORBIDDEN' });
  const query = 'mutation { createApiKey(input: { name: "reader", scopes: ["model:read"] }) { secret } }';
  const { createApiKey } = await client.ask<{ createApiKey: { secret: string } }>(query, {}, token);
  expect(await seen(createApiKey.secret)).toBeNull();
});

test('a subscription shows what is left of its plan', async () => {
  const { token, key } = await consumer(client, demo, 'quota', planId, '1000000');
  await predictDigit(client, key.secret);
  const { subscriptions } = await client.ask<{ subscriptions: { nodes: { quota: object }[] } }>(
    '{ subscriptions { nodes { quota { limit used remaining inFlight resetsAt } } } }',
    {},
    token,
  );
  expect(subscriptions.nodes[0]?.quota).toMatchObject({ limit: '1000', used: '1' });
});

test('a wrong limit is refused with its field, and a right one with a key that may not write billing', async () => {
  const { token } = await signUp(client, 'wrong-limits');
  const refusalOf = async (input: object, credentials = token) =>
    (await client.send(CREATE, { input }, credentials)).errors?.[0]?.extensions;
  const plain = { name: 'cap', window: 'DAY', amount: '1' };
  expect(await refusalOf({ ...plain, amount: '1e3' })).toMatchObject({ code: 'BAD_USER_INPUT', field: 'amount', given: '1e3' });
  expect(await refusalOf({ ...plain, subject: 'API_KEY', subjectId: 'nothing' })).toMatchObject({
    code: 'BAD_USER_INPUT',
    field: 'subjectId',
  });
  expect(await refusalOf({ ...plain, window: null })).toMatchObject({ code: 'BAD_USER_INPUT', field: 'window' });
  const key = await createKey(client, token);
  expect(await refusalOf(plain, key.secret)).toMatchObject({ code: 'FORBIDDEN' });
  expect(await limits(token)).toEqual([]);
});

describe('the export', () => {
  test('has every record once, in both formats, and agrees with the usage page', async () => {
    const { token, key } = await consumer(client, demo, 'exporter', planId, '1000000');
    await inParallel(25, 8, async () => void (await predictDigit(client, key.secret)));
    const bill = await billOf(client, token);
    const ndjson = await records(token, `${DAYS}&format=ndjson`);
    expect(ndjson.headers.get('content-type')).toContain('application/x-ndjson');
    const rows = (await ndjson.text())
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { id: string; units: string; amountNanos: string; model: string });
    expect(new Set(rows.map(({ id }) => id)).size).toBe(25);
    expect(rows.every(({ model }) => model === 'mercato/digits')).toBe(true);
    expect(rows.reduce((sum, { amountNanos }) => sum + BigInt(amountNanos), 0n)).toBe(bill.amountNanos);
    const csv = (await (await records(token, `${DAYS}&format=csv`)).text()).trim().split('\r\n');
    expect(csv[0]).toMatch(/^id,createdAt,period,model,/);
    expect(csv.slice(1).map((line) => line.split(',')[0])).toEqual(rows.map(({ id }) => id));
  });

  test("shows nobody another tenant's records, and asks for credentials and for a right span", async () => {
    const { token } = await signUp(client, 'curious');
    expect(await (await records(token, DAYS)).text()).toBe('');
    expect((await records('none', DAYS)).status).toBe(401);
    const wrong = await records(token, 'from=yesterday&to=2026-11-01');
    expect(wrong.status).toBe(400);
    expect(await wrong.json()).toMatchObject({ errors: [{ extensions: { code: 'BAD_USER_INPUT', field: 'from', given: 'yesterday' } }] });
    expect((await records(token, 'from=2026-11-02&to=2026-11-01')).status).toBe(400);
    expect((await records(token, `${DAYS}&format=xml`)).status).toBe(400);
  });
});
