import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { Client, inParallel, type Predicted, predictDigit } from '../support/client.ts';
import { billOf } from '../support/people.ts';
import { openMarket } from '../support/server.ts';

const PRICE = 20_000n;
const CREDIT = 100n * 1_000_000_000n;
const CONNECTIONS = 48;

const answered = (given: Predicted | string): given is Predicted => typeof given !== 'string';

type Processes = { servers: number[]; runners: number[] };

/** The children of a parent process: server processes and runners. */
function childrenOf(parent: number): Processes {
  const found: Processes = { servers: [], runners: [] };
  for (const pid of readdirSync('/proc').map(Number).filter(Boolean)) {
    try {
      const [state, ppid] = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
      if (Number(ppid) !== parent || state === 'Z') continue;
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      if (command.includes('runner.ts')) found.runners.push(pid);
      else if (command.includes('main.ts')) found.servers.push(pid);
    } catch {
      // It ended while it was looked at.
    }
  }
  return found;
}

describe.skipIf(process.env.MERCATO_TEST_DATABASE_URL === undefined)('several processes on one port', () => {
  test('share the runners of the host, and bill every call exactly once though one of them is killed', { timeout: 120_000 }, async () => {
    await using market = await openMarket();
    const server = await market.start({ MERCATO_PROCESSES: '3' });
    const demo = await market.demo();
    const before = childrenOf(server.pid);
    expect(before.servers).toHaveLength(3);
    using client = new Client(server.url, CONNECTIONS);
    const ids = new Map<number, string>();
    const wrong: string[] = [];
    let killed = false;
    await inParallel(3_000, CONNECTIONS, async (i) => {
      if (i > 1_500 && !killed) {
        killed = true;
        process.kill(before.servers[1] ?? 0, 'SIGKILL');
      }
      for (let attempt = 0; attempt < 5 && !ids.has(i); attempt++) {
        const got = await predictDigit(client, demo.apiKey, { idempotencyKey: `call-${i}` }).catch(() => 'LOST');
        if (answered(got)) ids.set(i, got.id);
        else if (got !== 'LOST') wrong.push(got);
      }
    });
    expect(wrong).toEqual([]);
    expect(new Set(ids.values()).size).toBe(3_000);
    expect(await billOf(client, demo.apiKey)).toMatchObject({
      predictions: 3_000n,
      amountNanos: 3_000n * PRICE,
      balanceNanos: CREDIT - 3_000n * PRICE,
    });
    await expect.poll(() => childrenOf(server.pid).servers.length, { timeout: 20_000 }).toBe(3);
    // The one that is loaded, and the spare.
    await expect.poll(() => childrenOf(server.pid).runners.length, { timeout: 20_000 }).toBeLessThanOrEqual(3);
    await expect.poll(() => billOf(client, demo.apiKey).then((bill) => bill.heldNanos), { timeout: 20_000 }).toBe(0n);
    expect(await market.audit()).toContain('invariants hold');
  });

  test('a connection that was on its way to a process is closed when that is killed', { timeout: 60_000 }, async () => {
    await using market = await openMarket();
    const server = await market.start({ MERCATO_PROCESSES: '2' });
    const [victim = 0] = childrenOf(server.pid).servers;
    process.kill(victim, 'SIGSTOP');
    let answered = 0;
    // One connection at most is on its way to a process that does not take it; the other process has the rest.
    const all = Promise.allSettled(
      Array.from({ length: 4 }, async () => {
        using client = new Client(server.url, 1);
        await client.ask('{ __typename }', {}, null);
        answered++;
      }),
    );
    await expect.poll(() => answered, { timeout: 20_000 }).toBeGreaterThanOrEqual(3);
    process.kill(victim, 'SIGKILL');
    expect((await all).filter(({ status }) => status === 'rejected').length).toBe(4 - answered);
    expect(answered).toBe(3);
  });

  test('drain on SIGTERM: what was answered is billed, and all end with 0', { timeout: 120_000 }, async () => {
    await using market = await openMarket();
    const server = await market.start({ MERCATO_PROCESSES: '2' });
    const demo = await market.demo();
    const acknowledged = new Set<string>();
    {
      using client = new Client(server.url, CONNECTIONS);
      let ended: Promise<number | null> | null = null;
      await inParallel(3_000, CONNECTIONS, async (i) => {
        if (i === 1_000) ended = server.kill('SIGTERM');
        if (ended !== null && i > 1_500) return;
        const got = await predictDigit(client, demo.apiKey).catch(() => 'LOST');
        if (answered(got)) acknowledged.add(got.id);
      });
      expect(await ended).toBe(0);
    }
    const again = await market.start();
    using client = new Client(again.url, 1);
    const { predictions } = await billOf(client, demo.apiKey);
    expect(predictions).toBeGreaterThanOrEqual(BigInt(acknowledged.size));
    expect(acknowledged.size).toBeGreaterThan(900);
    expect(await market.audit()).toContain('invariants hold');
  });

  test('end with their parent, and leave no runner behind', { timeout: 60_000 }, async () => {
    await using market = await openMarket();
    const server = await market.start({ MERCATO_PROCESSES: '2' });
    const { servers, runners } = childrenOf(server.pid);
    expect(servers.length + runners.length).toBeGreaterThan(2);
    await server.kill('SIGKILL');
    const alive = () => [...servers, ...runners].filter((pid) => readdirSync('/proc').includes(String(pid)));
    await expect.poll(alive, { timeout: 20_000 }).toEqual([]);
  });

  test('say why they do not start', { timeout: 60_000 }, async () => {
    await using market = await openMarket();
    await expect(market.start({ MERCATO_PROCESSES: '2', MERCATO_JWT_KEYS: '{}' })).rejects.toThrow(/exited with [12]/);
  });
});
