import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import pg from 'pg';
import { administer, withDatabase } from '../support/database.ts';

/** A database of the bench's own. `url` null: the server's embedded one. */
export type BenchDatabase = AsyncDisposable & {
  url: string | null;
  /** Processes on this machine that serve its connections; none where it is embedded or elsewhere. */
  backends(): Promise<number[]>;
};

/** Made on the Postgres of DATABASE_URL, whose login may make databases, and dropped at the end; without one, embedded. */
export async function openDatabase(): Promise<BenchDatabase> {
  const server = process.env.DATABASE_URL;
  if (!server) return { url: null, backends: async () => [], [Symbol.asyncDispose]: async () => {} };
  const name = `mercato_bench_${randomBytes(6).toString('hex')}`;
  await administer(server, `create database ${name}`);
  return {
    url: withDatabase(server, name),
    backends: async () => (await ask<{ pid: number }>(server, `select pid from pg_stat_activity where datname = '${name}'`)).flatMap(local),
    [Symbol.asyncDispose]: () => administer(server, `drop database ${name} with (force)`),
  };
}

/** In words, what a commit means there. */
export async function describeDatabase(): Promise<string> {
  const server = process.env.DATABASE_URL;
  if (!server) return 'embedded database, fsync off: set DATABASE_URL for the figures of a durable one';
  const [row] = await ask<{ version: string; fsync: string; commit: string }>(
    server,
    `select current_setting('server_version') "version", current_setting('fsync') "fsync", current_setting('synchronous_commit') "commit"`,
  );
  return `Postgres ${row?.version.split(' ')[0]}, fsync ${row?.fsync}, synchronous_commit ${row?.commit}`;
}

async function ask<Row extends pg.QueryResultRow>(url: string, sql: string): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<Row>(sql)).rows;
  } finally {
    await client.end();
  }
}

function local({ pid }: { pid: number }): number[] {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('postgres') ? [pid] : [];
  } catch {
    return [];
  }
}
