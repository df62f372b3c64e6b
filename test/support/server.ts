import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createTestDatabase, type TestDatabase } from './database.ts';
import { firstMarket } from './first-market.ts';
import { children as left } from './leftovers.ts';

const ROOT = new URL('../..', import.meta.url).pathname;

export type Demo = { operator: { email: string; password: string }; demo: { email: string; password: string }; apiKey: string };

/** A marketplace of its own: a database and a data directory, and the server processes started on them. */
export type Market = AsyncDisposable & {
  dataDir: string;
  start(env?: Record<string, string>): Promise<Server>;
  demo(): Promise<Demo>;
  /** `npm run audit`, of one tenant where it is named: its output; rejects where an invariant is broken. */
  audit(tenantName?: string): Promise<string>;
};

export type Server = { url: string; pid: number; kill(signal: NodeJS.Signals): Promise<number | null> };

export type MarketOptions = {
  /** Instead of the suite's, and empty; null: embedded. */
  database?: TestDatabase;
  /** Where `database` is a copy of another market's: that one's data directory, which its own becomes a copy of. */
  copyOf?: string | undefined;
  /** For every process that the market starts. */
  env?: Record<string, string>;
};

/** As after its first start, which the suite makes once for all; with a database of its own, or outside the suite, empty. */
export async function openMarket(options: MarketOptions = {}): Promise<Market> {
  const first = options.database === undefined ? await firstMarket(seedMarket) : null;
  const database = options.database ?? (await createTestDatabase(first?.template));
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-'));
  const begun = first?.dataDir ?? options.copyOf;
  if (begun !== undefined) await cp(begun, dataDir, { recursive: true });
  return marketOn(database, dataDir, options.env);
}

/** Starts a market on what is empty, and stops it. */
export async function seedMarket(database: TestDatabase, dataDir: string, env: Record<string, string> = {}): Promise<void> {
  const market = marketOn(database, dataDir, env);
  const server = await market.start();
  await server.kill('SIGTERM');
}

function marketOn(database: TestDatabase, dataDir: string, more: Record<string, string> = {}): Market {
  const children = new Set<ChildProcess>();
  const env = {
    PATH: process.env.PATH ?? '',
    MERCATO_DATA: dataDir,
    MERCATO_PORT: '0',
    MERCATO_SEED: '1',
    MERCATO_PROCESSES: '1',
    MERCATO_LOG_LEVEL: 'error',
    // A server starts in three quarters of the time where one has started before.
    NODE_COMPILE_CACHE: join(process.env.MERCATO_TEST_ONCE ?? dataDir, 'compile-cache'),
    ...(database.url === null ? {} : { DATABASE_URL: database.url }),
    ...more,
  };
  const run = (file: string, more: Record<string, string> = {}, args: readonly string[] = []) => {
    // As for the suite's own processes.
    const child = spawn(process.execPath, ['--liftoff-only', '--disable-warning=ExperimentalWarning', file, ...args], {
      cwd: ROOT,
      env: { ...env, ...more },
      // Not inherited: a server that outlived its test would keep open what reads the suite's output.
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child.stderr.on('data', (part: Buffer) => process.stderr.write(part));
    children.add(child);
    left.add(child);
    child.on('exit', () => {
      children.delete(child);
      left.delete(child);
    });
    return child;
  };

  return {
    dataDir,
    async start(more) {
      const child = run('src/main.ts', more);
      const url = await new Promise<string>((resolve, reject) => {
        let out = '';
        child.stdout.on('data', (part: Buffer) => {
          out += part.toString('utf8');
          const found = /Mercato is at (http:\/\/\S+)\/graphql/.exec(out);
          if (found?.[1]) resolve(found[1]);
        });
        child.on('exit', (code) => reject(new Error(`the server exited with ${code}: ${out}`)));
      });
      return {
        url,
        pid: child.pid ?? 0,
        async kill(signal) {
          const ended = once(child, 'exit');
          child.kill(signal);
          const [code] = await ended;
          return typeof code === 'number' ? code : null;
        },
      };
    },
    demo: async () => JSON.parse(await readFile(join(dataDir, 'demo.json'), 'utf8')) as Demo,
    async audit(tenantName) {
      const child = run('src/commands/audit.ts', {}, tenantName === undefined ? [] : ['--tenant', tenantName]);
      let out = '';
      child.stdout.on('data', (part: Buffer) => {
        out += part.toString('utf8');
      });
      const [code] = await once(child, 'close');
      if (code !== 0) throw new Error(`the audit exited with ${code}:\n${out}`);
      return out;
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(
        [...children].map(async (child) => {
          const ended = once(child, 'exit');
          child.kill('SIGKILL');
          await ended;
        }),
      );
      await database.drop();
      // Workers whose primary was killed write to it until they end.
      await rm(dataDir, { recursive: true, force: true, maxRetries: 10 });
    },
  };
}
