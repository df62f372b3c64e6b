import { expect, test } from 'vitest';
import { openProxy } from '../faults/proxy.ts';
import { Dice } from '../fuzz/random.ts';
import { Client } from '../support/client.ts';
import { createTestDatabase } from '../support/database.ts';
import { signIn } from '../support/people.ts';
import { openMarket } from '../support/server.ts';

const CREDIT = 'mutation ($input: AddCreditInput!) { addCredit(input: $input) { transfer { id } wallet { balance { nanos } } } }';

test.skipIf(process.env.MERCATO_TEST_DATABASE_URL === undefined)(
  'who moves money and loses the answer to the COMMIT is told that the outcome is unknown, and by a retry what it is',
  { timeout: 60_000 },
  async () => {
    const database = await createTestDatabase();
    const through = new URL(database.url ?? '');
    await using proxy = await openProxy(Number(through.port || 5432), new Dice(1));
    through.port = String(proxy.port);
    await using market = await openMarket({ database, env: { DATABASE_SERVER_URL: through.href } });
    const { url } = await market.start();
    using client = new Client(url);
    const { operator } = await market.demo();
    const token = await signIn(client, operator);
    const credit = (key: string) =>
      client.send(CREDIT, { input: { tenantName: 'demo', amountNanos: '7', idempotencyKey: key, note: 'a gift' } }, token);
    const before = await credit('first');
    expect(before.errors).toBeUndefined();

    proxy.setWeather({ loseChance: 1 });
    const lost = await credit('second');
    proxy.setWeather({});
    expect(lost.errors?.[0]?.extensions).toMatchObject({ code: 'OUTCOME_UNKNOWN', retryable: true, requestId: expect.any(String) });
    type Credited = { addCredit: { transfer: { id: string }; wallet: { balance: { nanos: string } } } };
    const balanceOf = ({ data }: { data: unknown }) => BigInt((data as Credited).addCredit.wallet.balance.nanos);
    await expect.poll(async () => (await credit('second')).errors, { timeout: 20_000 }).toBeUndefined();
    expect(balanceOf(await credit('second'))).toBe(balanceOf(before) + 7n);

    proxy.setWeather({ resetChance: 1 });
    const cut = await credit('third');
    proxy.setWeather({});
    expect(cut.errors?.[0]?.extensions).toMatchObject({ code: 'OVERLOADED', retryAfterMs: 1_000, requestId: expect.any(String) });
    await expect.poll(async () => (await credit('third')).errors, { timeout: 20_000 }).toBeUndefined();

    proxy.setWeather({ resetChance: 0.1 });
    const codes = new Set<string>();
    for (let i = 0; i < 40; i++) codes.add((await credit(`again ${i}`)).errors?.[0]?.extensions.code ?? 'OK');
    proxy.setWeather({});
    for (const code of codes) expect(code).toMatch(/^(OK|OVERLOADED|OUTCOME_UNKNOWN)$/);
    expect(codes).toContain('OVERLOADED');
    expect(await market.audit()).toContain('invariants hold');
  },
);
