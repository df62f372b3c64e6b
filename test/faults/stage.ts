import { setTimeout as sleep } from 'node:timers/promises';
import type { Dice } from '../fuzz/random.ts';
import { Client } from '../support/client.ts';
import { consumer, createKey, offerDigits } from '../support/people.ts';
import { type Market, openMarket, type Server } from '../support/server.ts';
import { type Cluster, freePort } from './cluster.ts';
import { uuidOf } from './journal.ts';
import { serversOf } from './processes.ts';
import { type FaultProxy, openProxy } from './proxy.ts';

/** Where a database comes from. `cluster` null: somebody else's Postgres, which stays up. */
export type Ground = {
  cluster: Cluster | null;
  createDatabase(): Promise<{ url: string; serverUrl: string; drop(): Promise<void> }>;
  logLevel: string;
  /** Units that a capped payer may use. */
  quotaUnits: number;
};

export const PRICE_NANOS = 7n;
const CREDIT_NANOS = '1000000000';

export type Payer = { secret: string; keyId: string; token: string; tenantId: string };

/** A marketplace on a database behind the fault proxy, whose server processes may be killed, and are started again on the same port. */
export type Stage = AsyncDisposable & {
  readonly ground: Ground;
  readonly market: Market;
  readonly proxy: FaultProxy;
  readonly url: string;
  readonly processes: number;
  /** The database without the proxy between. */
  readonly databaseUrl: string;
  /** The process that was started: the one server, or the parent of several. */
  readonly server: Server;
  /** The processes that answer calls. */
  servers(): number[];
  /** Server processes that ended without being told to, in words. */
  deaths(): string[];
  /** SIGKILL, now. */
  kill(pid: number): void;
  /** Resolves when there are as many server processes as at first: starts the first one again where it was killed. */
  recovered(): Promise<void>;
  /** Ends the server with this signal: its exit code. `start` makes another. */
  end(signal: NodeJS.Signals): Promise<number | null>;
  start(): Promise<void>;
  /** A new consumer with credit; `capped`: with a quota of `ground.quotaUnits`. Each unit costs `PRICE_NANOS`. */
  payer(plan: 'metered' | 'capped'): Promise<Payer>;
  /** A further key of the payer's tenant. */
  anotherKey(payer: Payer): Promise<{ secret: string }>;
};

const RECOVER_MS_MAX = 60_000;

export async function openStage(ground: Ground, processes: number, dice: Dice, env: Record<string, string> = {}): Promise<Stage> {
  await using stack = new AsyncDisposableStack();
  const database = await ground.createDatabase();
  const direct = new URL(database.serverUrl);
  const proxy = stack.use(await openProxy(Number(direct.port || 5432), dice));
  const throughProxy = new URL(direct);
  throughProxy.port = String(proxy.port);
  const port = await freePort();
  const market = stack.use(
    await openMarket({
      database,
      env: {
        DATABASE_SERVER_URL: database.serverUrl,
        MERCATO_LOG_LEVEL: ground.logLevel,
        MERCATO_PROCESSES: String(processes),
        // As `npm start` has it.
        NODE_OPTIONS: '--disable-warning=DeprecationWarning',
      },
    }),
  );
  const serving = { ...env, MERCATO_PORT: String(port), DATABASE_SERVER_URL: throughProxy.href };
  let server = await market.start(serving);
  let ending: Promise<number | null> | null = null;
  const url = server.url;
  const demo = await market.demo();
  const plans = await withClient((client) =>
    offerDigits(client, demo, [
      { name: 'metered', unitPriceNanos: String(PRICE_NANOS) },
      { name: 'capped', unitPriceNanos: String(PRICE_NANOS), quotaUnitsPerMonth: String(ground.quotaUnits) },
    ]),
  );
  let payers = 0;
  const killed = new Set<number>();
  const known = new Set(serversOf(server.pid));

  async function withClient<T>(work: (client: Client) => Promise<T>): Promise<T> {
    using client = new Client(url, 1);
    return await work(client);
  }

  async function start(): Promise<void> {
    await ending;
    ending = null;
    known.clear();
    server = await market.start(serving);
    for (const pid of serversOf(server.pid)) known.add(pid);
  }

  async function recovered(): Promise<void> {
    if (ending) await start();
    const giveUpMs = performance.now() + RECOVER_MS_MAX;
    const alive = () => serversOf(server.pid).filter((pid) => !killed.has(pid));
    while (alive().length < processes) {
      if (performance.now() > giveUpMs) throw new Error('a server process that was killed was not replaced within a minute');
      await sleep(50);
    }
    for (const pid of alive()) known.add(pid);
  }

  function deaths(): string[] {
    const alive = new Set(serversOf(server.pid));
    const dead = [...known].filter((pid) => !alive.has(pid) && !killed.has(pid));
    for (const pid of dead) known.delete(pid);
    return ending ? [] : dead.map((pid) => `the server process ${pid} ended by itself`);
  }

  const parts = stack.move();
  return {
    ground,
    market,
    proxy,
    url,
    processes,
    databaseUrl: database.url,
    get server() {
      return server;
    },
    servers: () => serversOf(server.pid),
    deaths,
    kill(pid) {
      if (pid === server.pid) ending ??= server.kill('SIGKILL');
      else {
        killed.add(pid);
        process.kill(pid, 'SIGKILL');
      }
    },
    recovered,
    end(signal) {
      ending ??= server.kill(signal);
      return ending;
    },
    start,
    async payer(plan) {
      const name = `${plan}-${payers++}`;
      const made = await withClient((client) => consumer(client, demo, name, plans.get(plan) ?? '', CREDIT_NANOS));
      return { secret: made.key.secret, keyId: made.key.id, token: made.token, tenantId: uuidOf(made.tenantId) };
    },
    anotherKey: ({ token }) => withClient((client) => createKey(client, token)),
    [Symbol.asyncDispose]: () => parts.disposeAsync(),
  };
}
