import { expect, test } from 'vitest';
import { Client, inParallel, predictDigit } from '../support/client.ts';
import { billOf, consumer, createKey, offerDigits } from '../support/people.ts';
import { openMarket } from '../support/server.ts';

// One process at a time has an embedded database.
const onPostgres = process.env.MERCATO_TEST_DATABASE_URL !== undefined;

test.runIf(onPostgres)('two servers that share a quota of 500 answer exactly 500 of 1,500 calls', { timeout: 120_000 }, async () => {
  await using market = await openMarket();
  const servers = [await market.start(), await market.start()];
  const demo = await market.demo();
  using first = new Client(servers[0]?.url ?? '', 32);
  using second = new Client(servers[1]?.url ?? '', 32);
  const plans = await offerDigits(first, demo, [
    { name: 'capped', unitPriceNanos: '1', freeUnitsPerMonth: '100', quotaUnitsPerMonth: '500' },
  ]);
  const { key, token } = await consumer(first, demo, 'shared', plans.get('capped') ?? '', '1000000');
  const outcomes = new Map<string, number>();
  await inParallel(1_500, 64, async (i) => {
    const got = await predictDigit(i % 2 === 0 ? first : second, key.secret);
    const outcome = typeof got === 'string' ? got : 'answered';
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  });
  expect(Object.fromEntries(outcomes)).toEqual({ answered: 500, QUOTA_EXCEEDED: 1_000 });
  expect(await billOf(second, token)).toMatchObject({ units: 500n, amountNanos: 400n, balanceNanos: 999_600n });
  expect(await market.audit()).toContain('invariants hold');
});

test.runIf(onPostgres)('a key revoked at one server is refused by the other when revokeApiKey returned', { timeout: 120_000 }, async () => {
  await using market = await openMarket();
  const servers = [await market.start(), await market.start()];
  const demo = await market.demo();
  using first = new Client(servers[0]?.url ?? '', 8);
  using second = new Client(servers[1]?.url ?? '', 8);
  const plans = await offerDigits(first, demo, [{ name: 'open', unitPriceNanos: '0' }]);
  for (let round = 0; round < 5; round++) {
    const { key, token } = await consumer(first, demo, `tenant-${round}`, plans.get('open') ?? '');
    expect(await predictDigit(second, key.secret)).toMatchObject({ usage: { units: 1 } });
    await first.ask('mutation ($id: ID!) { revokeApiKey(input: { id: $id }) { apiKey { id } } }', { id: key.id }, token);
    expect(await predictDigit(second, key.secret)).toBe('UNAUTHENTICATED');
  }
});

test.runIf(onPostgres)(
  'one key sent to two servers at once is billed once, and both give the same answer',
  { timeout: 120_000 },
  async () => {
    await using market = await openMarket();
    const servers = [await market.start(), await market.start()];
    const demo = await market.demo();
    using first = new Client(servers[0]?.url ?? '', 16);
    using second = new Client(servers[1]?.url ?? '', 16);
    await inParallel(300, 16, async (i) => {
      const input = { idempotencyKey: `both-${i}` };
      const [a, b] = await Promise.all([predictDigit(first, demo.apiKey, input), predictDigit(second, demo.apiKey, input)]);
      if (typeof a === 'string' || typeof b === 'string') throw new Error(`${JSON.stringify(a)} ${JSON.stringify(b)}`);
      expect(a.id).toBe(b.id);
      expect(a.outputs).toEqual(b.outputs);
    });
    expect(await billOf(first, demo.apiKey)).toMatchObject({ predictions: 300n });
    expect(await market.audit()).toContain('invariants hold');
  },
);

test.runIf(onPostgres)(
  'two hosts with two processes each let in exactly what the limits of a tenant and of a key allow',
  { timeout: 120_000 },
  async () => {
    await using market = await openMarket();
    const servers = [await market.start({ MERCATO_PROCESSES: '2' }), await market.start({ MERCATO_PROCESSES: '2' })];
    const demo = await market.demo();
    using first = new Client(servers[0]?.url ?? '', 32);
    using second = new Client(servers[1]?.url ?? '', 32);
    const plans = await offerDigits(first, demo, [{ name: 'limited', unitPriceNanos: '3' }]);
    const { key, token } = await consumer(first, demo, 'limited', plans.get('limited') ?? '', '1000000');
    const other = await createKey(second, token);
    const create = 'mutation ($input: CreateUsageLimitInput!) { createUsageLimit(input: $input) { usageLimit { id } } }';
    const plain = { window: 'MONTH', amount: '300' };
    await first.ask(create, { input: { ...plain, name: 'robot', subject: 'API_KEY', subjectId: key.id } }, token);
    // Spend is of nanos: 400 calls at 3 each.
    await second.ask(create, { input: { ...plain, name: 'all', measure: 'SPEND', amount: '1200' } }, token);
    const answered = new Map([key.secret, other.secret].map((secret) => [secret, 0]));
    const refusals = new Set<string>();
    await inParallel(1_200, 64, async (i) => {
      const secret = i % 3 === 0 ? other.secret : key.secret;
      // The other key comes when the first has used up its own.
      if (secret === other.secret && i < 900) return;
      const got = await predictDigit(i % 2 === 0 ? first : second, secret);
      if (typeof got === 'string') refusals.add(got);
      else answered.set(secret, (answered.get(secret) ?? 0) + 1);
    });
    expect([...answered.values()]).toEqual([300, 100]);
    expect(refusals).toEqual(new Set(['QUOTA_EXCEEDED']));
    expect(await billOf(second, token)).toMatchObject({ units: 400n, amountNanos: 1_200n });
    expect(await market.audit()).toContain('invariants hold');
  },
);
