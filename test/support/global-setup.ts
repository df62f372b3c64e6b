import { randomBytes } from 'node:crypto';
import { openPostgres } from '../../src/base/database-postgres.ts';
import { createLog } from '../../src/base/log.ts';
import { administer, withDatabase } from './database.ts';

/**
 * On Postgres, migrates one template that each test database is a copy of. Its name is this run's own: runs may overlap. Where MERCATO_TEST_TEMPLATE
 * names one already, it belongs to whoever made it.
 */
export async function setup(): Promise<(() => Promise<void>) | undefined> {
  const url = process.env.MERCATO_TEST_DATABASE_URL;
  if (url === undefined || process.env.MERCATO_TEST_TEMPLATE !== undefined) return undefined;
  const template = `${process.env.MERCATO_TEST_PREFIX ?? 'mercato'}_template_${randomBytes(4).toString('hex')}`;
  process.env.MERCATO_TEST_TEMPLATE = template;
  await administer(url, `create database ${template}`);
  const database = await openPostgres({ url: withDatabase(url, template), serverUrl: null, poolSize: 1 }, createLog('silent'));
  await database[Symbol.asyncDispose]();
  // A backend ends a moment after its client: while one is left, the template cannot be copied.
  await administer(url, `alter database ${template} allow_connections false`);
  await administer(url, `select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '${template}'`);
  return () => administer(url, `drop database ${template} with (force)`);
}
