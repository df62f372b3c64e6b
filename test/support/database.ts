import { randomBytes } from 'node:crypto';
import pg from 'pg';
import type { Database } from '../../src/base/database.ts';
import { openEmbedded } from '../../src/base/database-embedded.ts';
import { openPostgres } from '../../src/base/database-postgres.ts';
import { createLog } from '../../src/base/log.ts';

export function withDatabase(url: string, name: string): string {
  const parsed = new URL(url);
  parsed.pathname = `/${name}`;
  return parsed.href;
}

/** A fresh migrated database: a copy of the template where MERCATO_TEST_DATABASE_URL names a Postgres, else embedded in memory. */
export async function openTestDatabase(): Promise<Database> {
  const created = await createTestDatabase();
  const database =
    created.url === null
      ? await openEmbedded(null, createLog('silent'))
      : await openPostgres({ url: created.url, serverUrl: null, poolSize: 4 }, createLog('silent'));
  return {
    ...database,
    listen: database.listen.bind(database),
    async [Symbol.asyncDispose]() {
      await database[Symbol.asyncDispose]();
      await created.drop();
    },
  };
}

/** Unopened. `url` null: embedded. */
export type TestDatabase = { url: string | null; drop(): Promise<void> };

/**
 * Only the database, unopened, for tests that start whole servers; `url` is null where the suite runs embedded. MERCATO_TEST_PREFIX begins its name,
 * for whoever drops what broken tests leave.
 */
export async function createTestDatabase(template = process.env.MERCATO_TEST_TEMPLATE): Promise<TestDatabase> {
  const url = process.env.MERCATO_TEST_DATABASE_URL;
  if (url === undefined) return { url: null, drop: async () => {} };
  const name = `${process.env.MERCATO_TEST_PREFIX ?? 'mercato_test'}_${randomBytes(6).toString('hex')}`;
  await administer(url, `create database ${name} template ${template}`);
  return { url: withDatabase(url, name), drop: () => administer(url, `drop database ${name} with (force)`) };
}

/** Makes a database what others can be made copies of: a backend ends a moment after its client, and while one is left nothing can be copied. */
export async function makeTemplate(url: string, name: string): Promise<void> {
  await administer(url, `alter database ${name} allow_connections false`);
  await administer(url, `select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '${name}'`);
}

export async function administer(url: string, sql: string): Promise<void> {
  const admin = new pg.Client({ connectionString: url });
  await admin.connect();
  try {
    await admin.query(sql);
  } finally {
    await admin.end();
  }
}
