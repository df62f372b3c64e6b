import { expect, test } from 'vitest';
import { Client, inParallel, type Predicted, predictDigit } from '../support/client.ts';
import { billOf, consumer, offerDigits, signIn } from '../support/people.ts';
import { openMarket } from '../support/server.ts';

/** `npm run faults` makes a million. */
const CALLS = 2_000;
const BILLED = BigInt(CALLS);
const CONNECTIONS = 64;
const PRICE = 20_000n;
const CREDIT = 100n * 1_000_000_000n;

const answered = (given: Predicted | string): given is Predicted => typeof given !== 'string';

test('2,000 calls from 64 connections, a tenth of them sent twice, are billed exactly 2,000 times', { timeout: 120_000 }, async () => {
  await using market = await openMarket();
  const server = await market.start();
  const demo = await market.demo();
  using client = new Client(server.url, CONNECTIONS);
  const ids = new Map<number, string>();
  const wrong: string[] = [];
  await inParallel(CALLS * 1.1, CONNECTIONS, async (n) => {
    // The doubles follow their firsts closely, so that some are in flight together.
    const i = Math.floor(n / 11) * 10 + Math.min(n % 11, 9);
    const got = await predictDigit(client, demo.apiKey, { idempotencyKey: `call-${i}` });
    if (!answered(got)) wrong.push(got);
    else if ((ids.get(i) ?? got.id) !== got.id) wrong.push(`two answers of call ${i}`);
    else ids.set(i, got.id);
  });
  expect(wrong).toEqual([]);
  expect(new Set(ids.values()).size).toBe(CALLS);
  const bill = await billOf(client, demo.apiKey);
  expect(bill).toMatchObject({ predictions: BILLED, units: BILLED, amountNanos: BILLED * PRICE, balanceNanos: CREDIT - BILLED * PRICE });
  expect(await market.audit()).toContain('invariants hold');
});

test('after kill -9 in the middle, a restart and a retry of what was not answered, every call is billed exactly once', {
  timeout: 120_000,
}, async () => {
  await using market = await openMarket();
  const first = await market.start();
  const demo = await market.demo();
  const acknowledged = new Map<number, string>();
  {
    using client = new Client(first.url, CONNECTIONS);
    let killed: Promise<unknown> | null = null;
    await inParallel(CALLS, CONNECTIONS, async (i) => {
      if (acknowledged.size >= CALLS / 2) killed ??= first.kill('SIGKILL');
      const got = await predictDigit(client, demo.apiKey, { idempotencyKey: `call-${i}` }).catch(() => 'LOST');
      if (answered(got)) acknowledged.set(i, got.id);
    });
    await killed;
  }
  expect(acknowledged.size).toBeLessThan(CALLS);

  const second = await market.start();
  using client = new Client(second.url, CONNECTIONS);
  const wrong: string[] = [];
  await inParallel(CALLS, CONNECTIONS, async (i) => {
    const got = await predictDigit(client, demo.apiKey, { idempotencyKey: `call-${i}` });
    if (!answered(got)) wrong.push(got);
    else if (acknowledged.has(i) && (acknowledged.get(i) !== got.id || !got.replayed)) wrong.push(`call ${i} was answered anew`);
  });
  expect(wrong).toEqual([]);
  expect(await billOf(client, demo.apiKey)).toMatchObject({
    predictions: BILLED,
    amountNanos: BILLED * PRICE,
    balanceNanos: CREDIT - BILLED * PRICE,
  });
  await expect.poll(() => billOf(client, demo.apiKey).then((bill) => bill.heldNanos), { timeout: 20_000 }).toBe(0n);
  expect(await market.audit()).toContain('invariants hold');
});

test('a quota of 1,000 under 100 connections that send 3,000 answers exactly 1,000', { timeout: 120_000 }, async () => {
  await using market = await openMarket();
  const server = await market.start();
  const demo = await market.demo();
  using client = new Client(server.url, 100);
  const plans = await offerDigits(client, demo, [{ name: 'capped', unitPriceNanos: '1', quotaUnitsPerMonth: '1000' }]);
  const { key, token } = await consumer(client, demo, 'capped', plans.get('capped') ?? '', '1000000');
  const outcomes = new Map<string, number>();
  await inParallel(3_000, 100, async () => {
    const got = await predictDigit(client, key.secret);
    const outcome = answered(got) ? 'answered' : got;
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  });
  expect(Object.fromEntries(outcomes)).toEqual({ answered: 1_000, QUOTA_EXCEEDED: 2_000 });
  expect(await billOf(client, token)).toMatchObject({ units: 1_000n, amountNanos: 1_000n, balanceNanos: 999_000n });
  expect(await market.audit()).toContain('invariants hold');
});

test('no answer of a revoked key is released after revokeApiKey returned', { timeout: 120_000 }, async () => {
  await using market = await openMarket();
  const server = await market.start();
  const demo = await market.demo();
  using client = new Client(server.url, 32);
  using other = new Client(server.url, 1);
  const token = await signIn(other, demo.demo);
  const query = 'mutation { createApiKey(input: { name: "doomed" }) { secret apiKey { id } } }';
  const { createApiKey } = await other.ask<{ createApiKey: { secret: string; apiKey: { id: string } } }>(query, {}, token);

  let revoked = false;
  let before = 0;
  const late: string[] = [];
  const refusals = new Set<string>();
  await Promise.all([
    inParallel(100_000, 32, async () => {
      if (revoked) return;
      const got = await predictDigit(client, createApiKey.secret);
      if (!answered(got)) refusals.add(got);
      else if (revoked) late.push(got.id);
      else before++;
    }),
    (async () => {
      await expect.poll(() => before, { timeout: 60_000 }).toBeGreaterThan(200);
      await other.ask(
        'mutation ($id: ID!) { revokeApiKey(input: { id: $id }) { apiKey { revokedAt } } }',
        { id: createApiKey.apiKey.id },
        token,
      );
      revoked = true;
    })(),
  ]);
  expect(late).toEqual([]);
  expect([...refusals].filter((code) => code !== 'UNAUTHENTICATED')).toEqual([]);
  expect(await predictDigit(client, createApiKey.secret)).toBe('UNAUTHENTICATED');
  expect(await market.audit()).toContain('invariants hold');
});

test('SIGTERM under load loses no record: what was answered is billed, and the server exits 0', { timeout: 120_000 }, async () => {
  await using market = await openMarket();
  const first = await market.start();
  const demo = await market.demo();
  const acknowledged = new Set<string>();
  {
    using client = new Client(first.url, 32);
    let exit: Promise<number | null> | null = null;
    await inParallel(2_000, 32, async () => {
      if (acknowledged.size >= 500) exit ??= first.kill('SIGTERM');
      const got = await predictDigit(client, demo.apiKey).catch(() => 'LOST');
      if (answered(got)) acknowledged.add(got.id);
    });
    expect(await exit).toBe(0);
  }
  const second = await market.start();
  using client = new Client(second.url);
  expect((await billOf(client, demo.apiKey)).predictions).toBe(BigInt(acknowledged.size));
  expect(await market.audit()).toContain('invariants hold');
});
