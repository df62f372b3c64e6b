import { AsyncResource } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import { PrismaPGlite } from 'pglite-prisma-adapter';
import { PrismaClient } from '../generated/prisma/client.ts';
import type { Database } from './database.ts';
import { type MigrationAdapterFactory, migrate, withScripts } from './database-migrations.ts';
import type { Log } from './log.ts';

/** The empty migrated cluster, made by `npm run prepare`: loading it takes 0.7 s, a new cluster with migrations 3 s and more. */
export const CLUSTER_DUMP = new URL('../generated/cluster.tar', import.meta.url);

/** Another process uses the data directory; PGlite on one directory twice loses rows without an error. */
export class DataDirectoryLocked extends Error {}

/**
 * Opens the embedded Postgres of `dataDir` (made where absent; null: in memory), migrates it, and locks the directory for this process.
 * It has one connection: transactions queue, and each takes its role for itself.
 * @throws DataDirectoryLocked
 */
export async function openEmbedded(dataDir: string | null, log: Log): Promise<Database> {
  const unlock = dataDir === null ? () => undefined : await lockDirectory(dataDir);
  try {
    const lite = await openCluster(dataDir);
    await migrate(
      embeddedMigrations(lite),
      async (sql) => {
        const { rows } = await lite.query<{ migration_name: string; checksum: string }>(sql);
        return rows;
      },
      log,
    );
    const prisma = new PrismaClient({ adapter: new PrismaPGlite(lite) });
    return {
      kind: 'embedded',
      tenantClient: prisma,
      systemClient: prisma,
      setRole: true,
      connections: 1,
      systemQuery: null,
      listen: async (channel, heard) => {
        // A notification arrives inside the statement that carried it, whose open transaction is not the listener's.
        await lite.listen(channel, AsyncResource.bind(heard));
      },
      async [Symbol.asyncDispose]() {
        await prisma.$disconnect();
        await lite.close();
        unlock();
      },
    };
  } catch (error) {
    unlock();
    throw error;
  }
}

/** A cluster in `dataDir`/postgres, started from the dump where that is current; null: in memory. */
async function openCluster(dataDir: string | null): Promise<PGlite> {
  const path = dataDir === null ? null : join(dataDir, 'postgres');
  const dump = await readFile(CLUSTER_DUMP).catch(() => null);
  const fresh = path === null || !(await readFile(join(path, 'PG_VERSION')).catch(() => null));
  const options = fresh && dump ? { loadDataDir: new Blob([dump]) } : {};
  return PGlite.create({ ...(path === null ? {} : { dataDir: path }), ...options });
}

export function embeddedMigrations(lite: PGlite): MigrationAdapterFactory {
  return withScripts(new PrismaPGlite(lite), async (script) => {
    await lite.exec(script);
  });
}

/**
 * Takes `dataDir`/lock for this process, over from one that is gone; the result gives it back.
 * The file's text, `process id`-`random`, never comes again. It appears whole, by a link, or in place of one whose holder is gone, by a rename.
 * @throws DataDirectoryLocked
 */
export async function lockDirectory(dataDir: string): Promise<() => void> {
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const path = join(dataDir, 'lock');
  const own = `${path}.${process.pid}`;
  const text = `${process.pid}-${randomUUID()}`;
  // Written over, it could be the lock itself: an earlier process of this id may have ended between link and removal.
  rmSync(own, { force: true });
  writeFileSync(own, text, { mode: 0o600, flag: 'wx' });
  try {
    for (let attempt = 0; attempt < 10; attempt++) {
      if (!linked(own, path) && !takenOver(own, path)) continue;
      held.add(text);
      return () => {
        if (held.delete(text)) rmSync(path, { force: true });
      };
    }
    throw new DataDirectoryLocked(`${dataDir} is being opened by another process.`);
  } finally {
    rmSync(own, { force: true });
  }
}

/** The texts of the locks that this process holds: its id may stand in one of an earlier boot. */
const held = new Set<string>();

/**
 * Puts `own` in the place of the lock at `path`, whose holder is gone. Only who has claimed that lock may: by a link with its text in the name,
 * numbered, since who claimed first may be gone too. Claims are removed once the lock is another, so who claims late finds another lock.
 * @returns false where the lock is another by now. @throws DataDirectoryLocked
 */
function takenOver(own: string, path: string): boolean {
  const stale = textOf(path);
  const claims: string[] = [];
  for (let last = stale; last !== null; last = textOf(claims.at(-1) ?? path)) {
    refuseWhereAlive(last, path);
    const claim = `${path}.after-${stale?.replace(/[^\w-]/g, '').slice(0, 64)}.${claims.length}`;
    claims.push(claim);
    if (!linked(own, claim)) continue;
    const unchanged = textOf(path) === stale;
    if (unchanged) renameSync(own, path);
    for (const made of unchanged ? claims : [claim]) rmSync(made, { force: true });
    return unchanged;
  }
  return false;
}

/** Gives the file another name, which nobody has; false where somebody has it. */
function linked(file: string, name: string): boolean {
  try {
    linkSync(file, name);
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false;
    throw error;
  }
}

function textOf(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}

/** @throws DataDirectoryLocked where the process that wrote `text` lives. */
function refuseWhereAlive(text: string, path: string): void {
  const pid = Number.parseInt(text, 10);
  if (pid === process.pid ? !held.has(text) : !isAlive(pid)) return;
  throw new DataDirectoryLocked(`${dirname(path)} is in use by process ${pid}. Stop it, or set MERCATO_DATA to another directory.`);
}

function isAlive(pid: number): boolean {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}
