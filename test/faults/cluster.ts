import { execFile, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chownSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { appendFile, mkdtemp } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { openPostgres } from '../../src/base/database-postgres.ts';
import { createLog } from '../../src/base/log.ts';
import { administer, makeTemplate, withDatabase } from '../support/database.ts';

/** A Postgres of the driver's own, durable as in production, that may be stopped without a word. */
export type Cluster = AsyncDisposable & {
  /** Its server version and what a commit means there. */
  readonly described: string;
  /** A database for one marketplace, migrated or a copy of another's: the login that migrates, and one that serves, as in production. */
  createDatabase(copyOf?: string): Promise<{ name: string; url: string; serverUrl: string; drop(): Promise<void> }>;
  /** From now on it is there to be copied, and for nothing else. */
  makeTemplate(name: string): Promise<void>;
  /** As after a power cut: no checkpoint, every connection gone. */
  stopAtOnce(): Promise<void>;
  /** Resolves when it takes connections. */
  start(): Promise<void>;
};

const run = promisify(execFile);
const SERVER_LOGIN = 'mercato_server';
/** Sixteen processes' pools, and the driver's own. */
const CONNECTIONS_MAX = 400;

/** The directory of `initdb` and `pg_ctl`, the newest where there are several; null: there is none. */
export function findBinaries(): string | null {
  const root = '/usr/lib/postgresql';
  const versions = existsSync(root) ? readdirSync(root).sort((a, b) => Number(b) - Number(a)) : [];
  const places = [...versions.map((version) => join(root, version, 'bin')), ...(process.env.PATH ?? '').split(delimiter)];
  return places.find((place) => existsSync(join(place, 'initdb')) && existsSync(join(place, 'pg_ctl'))) ?? null;
}

/** Makes and starts a cluster in a temporary directory; disposing stops and removes it, and so does the end of this process. */
export async function openCluster(binaries: string): Promise<Cluster> {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), 'mercato-faults-'));
  const owner = ownerOf(dir);
  const data = join(dir, 'data');
  const port = await freePort();
  const ctl = (...args: string[]) =>
    run(join(binaries, 'pg_ctl'), ['-D', data, '-w', '-l', join(dir, 'log'), ...args], { ...owner, cwd: dir });
  const remove = () => {
    // Waits: what still writes would leave its files behind.
    if (existsSync(join(data, 'postmaster.pid'))) {
      spawnSync(join(binaries, 'pg_ctl'), ['-D', data, '-w', '-m', 'immediate', 'stop'], { ...owner, cwd: dir });
    }
    rmSync(dir, { recursive: true, force: true });
  };
  process.once('exit', remove);
  stack.defer(() => {
    process.off('exit', remove);
    remove();
  });
  await run(join(binaries, 'initdb'), ['-D', data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--no-sync'], { ...owner, cwd: dir });
  await appendFile(
    join(data, 'postgresql.conf'),
    [
      `port = ${port}`,
      "listen_addresses = '127.0.0.1'",
      `unix_socket_directories = '${dir}'`,
      `max_connections = ${CONNECTIONS_MAX}`,
      'fsync = on',
      'synchronous_commit = on',
      '',
    ].join('\n'),
  );
  await ctl('start');

  const url = (login: string, database: string) => `postgres://${login}@127.0.0.1:${port}/${database}`;
  const admin = url('postgres', 'postgres');
  const template = 'mercato_template';
  await administer(admin, `create database ${template}`);
  const opened = await openPostgres({ url: withDatabase(admin, template), serverUrl: null, poolSize: 1 }, createLog('silent'));
  await opened[Symbol.asyncDispose]();
  await administer(admin, `create role ${SERVER_LOGIN} login in role mercato_tenant, mercato_system`);
  await makeTemplate(admin, template);

  const version = (await run(join(binaries, 'postgres'), ['--version'])).stdout.trim();
  const parts = stack.move();
  return {
    described: `${version}, fsync on, synchronous_commit on`,
    async createDatabase(copyOf = template) {
      const name = `mercato_${randomBytes(6).toString('hex')}`;
      await administer(admin, `create database ${name} template ${copyOf}`);
      // Until then a copy's sequences are as if what they give next were in the log already: after a crash they would give it again (Postgres 15).
      await administer(admin, 'checkpoint');
      return {
        name,
        url: url('postgres', name),
        serverUrl: url(SERVER_LOGIN, name),
        drop: () => administer(admin, `drop database ${name} with (force)`),
      };
    },
    makeTemplate: (name) => makeTemplate(admin, name),
    stopAtOnce: async () => {
      await ctl('-m', 'immediate', 'stop');
    },
    start: async () => {
      await ctl('start');
    },
    [Symbol.asyncDispose]: () => parts.disposeAsync(),
  };
}

/** Postgres refuses root: then its own user, who gets the directory. */
function ownerOf(dir: string): { uid?: number; gid?: number } {
  if (process.getuid?.() !== 0) return {};
  const [, , uid = '65534', gid = '65534'] = /^postgres:.*$/m.exec(readFileSync('/etc/passwd', 'utf8'))?.[0].split(':') ?? [];
  chownSync(dir, Number(uid), Number(gid));
  return { uid: Number(uid), gid: Number(gid) };
}

/** A loopback port that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
