import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Dice } from '../fuzz/random.ts';
import { Client } from '../support/client.ts';
import { consumer, createKey, offerDigits, signIn } from '../support/people.ts';
import { type Market, openMarket, type Server } from '../support/server.ts';
import { type Cluster, freePort } from './cluster.ts';
import { type Host, openHost } from './host.ts';
import { uuidOf } from './journal.ts';
import { type FaultProxy, openProxy } from './proxy.ts';

/** What stages stand on. `cluster` null: somebody else's Postgres, which stays up. */
export type Ground = {
  cluster: Cluster | null;
  /** A market after its first start, which every stage's begins as a copy of: its database, by the login that migrates and one that serves. */
  createDatabase(): Promise<{ url: string; serverUrl: string; drop(): Promise<void> }>;
  /** And its data directory. */
  dataDir: string;
  logLevel: string;
  /** Units that a capped payer may use. */
  quotaUnits: number;
};

/** As `npm start` has it. */
export const AS_STARTED = { NODE_OPTIONS: '--disable-warning=DeprecationWarning' };

export const PRICE_NANOS = 7n;
export const CREDIT_NANOS = 1_000_000_000n;

/** Server processes of one host, or of two hosts with two each. */
export type Layout = 1 | 4 | '2×2';
const PROCESSES: Record<Layout, readonly number[]> = { 1: [1], 4: [4], '2×2': [2, 2] };

export type Payer = { name: string; secret: string; keyId: string; token: string; tenantId: string };

/** A marketplace on a database behind the fault proxy, and the servers on its hosts: `url` and `server` are of the first, all else is done on each. */
export type Stage = AsyncDisposable &
  Host & {
    readonly ground: Ground;
    readonly market: Market;
    readonly proxy: FaultProxy;
    /** Of each host. */
    readonly urls: readonly string[];
    /** Server processes of all hosts. */
    readonly processes: number;
    /** The database without the proxy between. */
    readonly databaseUrl: string;
    /** A new consumer with credit; `capped`: with a quota of `ground.quotaUnits`. Each unit costs `PRICE_NANOS`. */
    payer(plan: 'metered' | 'capped'): Promise<Payer>;
    /** A further server with one process on the first host's data, which the caller ends. */
    another(): Promise<Server>;
    /** A further key of the payer's tenant. */
    anotherKey(payer: Payer): Promise<{ id: string; secret: string }>;
    /** The operator's access token. */
    operator(): Promise<string>;
  };

export async function openStage(ground: Ground, layout: Layout, dice: Dice, env: Record<string, string> = {}): Promise<Stage> {
  await using stack = new AsyncDisposableStack();
  const database = await ground.createDatabase();
  const direct = new URL(database.serverUrl);
  const proxy = stack.use(await openProxy(Number(direct.port || 5432), dice));
  const throughProxy = new URL(direct);
  throughProxy.port = String(proxy.port);
  const market = stack.use(
    await openMarket({
      database,
      copyOf: ground.dataDir,
      env: {
        ...AS_STARTED,
        DATABASE_SERVER_URL: database.serverUrl,
        MERCATO_LOG_LEVEL: ground.logLevel,
      },
    }),
  );
  const hosts: Host[] = [];
  for (const processes of PROCESSES[layout]) {
    const own = hosts.length === 0 ? {} : await anotherHost(market, hosts.length);
    const serving = { ...env, ...own, MERCATO_PORT: String(await freePort()), DATABASE_SERVER_URL: throughProxy.href };
    hosts.push(await openHost(market, processes, serving));
  }
  const [first] = hosts;
  if (first === undefined) throw new Error('a layout without a host');
  const { url } = first;
  const demo = await market.demo();
  const plans = await withClient((client) =>
    offerDigits(client, demo, [
      { name: 'metered', unitPriceNanos: String(PRICE_NANOS) },
      { name: 'capped', unitPriceNanos: String(PRICE_NANOS), quotaUnitsPerMonth: String(ground.quotaUnits) },
    ]),
  );
  let payers = 0;

  async function withClient<T>(work: (client: Client) => Promise<T>): Promise<T> {
    using client = new Client(url, 1);
    return await work(client);
  }

  const parts = stack.move();
  return {
    ground,
    market,
    proxy,
    url,
    urls: hosts.map((host) => host.url),
    processes: PROCESSES[layout].reduce((sum, count) => sum + count, 0),
    databaseUrl: database.url,
    get server() {
      return first.server;
    },
    servers: () => hosts.flatMap((host) => host.servers()),
    runners: () => hosts.flatMap((host) => host.runners()),
    deaths: () => hosts.flatMap((host) => host.deaths()),
    kill: (pid) => hosts.find((host) => host.server.pid === pid || host.servers().includes(pid))?.kill(pid),
    async recovered() {
      for (const host of hosts) await host.recovered();
    },
    async end(signal) {
      const codes = await Promise.all(hosts.map((host) => host.end(signal)));
      const [failed = 0] = codes.filter((code) => code !== 0);
      return failed;
    },
    async start() {
      for (const host of hosts) await host.start();
    },
    async payer(plan) {
      const name = `${plan}-${payers++}`;
      const made = await withClient((client) => consumer(client, demo, name, plans.get(plan) ?? '', String(CREDIT_NANOS)));
      return { name, secret: made.key.secret, keyId: made.key.id, token: made.token, tenantId: uuidOf(made.tenantId) };
    },
    another: () => market.start({ ...env, MERCATO_PROCESSES: '1', DATABASE_SERVER_URL: throughProxy.href }),
    anotherKey: ({ token }) => withClient((client) => createKey(client, token)),
    operator: () => withClient((client) => signIn(client, demo.operator)),
    [Symbol.asyncDispose]: () => parts.disposeAsync(),
  };
}

/** What makes a further host: a data directory of its own, beside the store and the keys that hosts share. */
async function anotherHost({ dataDir }: Market, index: number): Promise<Record<string, string>> {
  return {
    MERCATO_DATA: join(dataDir, `host-${index}`),
    MERCATO_SEED: '0',
    MERCATO_MODEL_STORE: join(dataDir, 'models'),
    MERCATO_JWT_KEYS: await readFile(join(dataDir, 'jwt-keys.json'), 'utf8'),
  };
}
