import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openPostgres } from '../../src/base/database-postgres.ts';
import { createLog } from '../../src/base/log.ts';
import { administer, makeTemplate, withDatabase } from './database.ts';
import { firstTemplate } from './first-market.ts';

/**
 * A folder for what is made once for all tests of this run; on Postgres a migrated template, that each test database is a copy of. Names are this run's
 * own: runs may overlap. Where the environment names one already, it belongs to whoever made it.
 */
export async function setup(): Promise<() => Promise<void>> {
  const made = [await makeFolder(), await makeMigrated()];
  return async () => {
    for (const remove of made) await remove?.();
  };
}

type Remove = (() => Promise<void>) | undefined;

async function makeFolder(): Promise<Remove> {
  if (process.env.MERCATO_TEST_ONCE !== undefined) return undefined;
  const folder = await mkdtemp(join(tmpdir(), 'mercato-once-'));
  process.env.MERCATO_TEST_ONCE = folder;
  const url = process.env.MERCATO_TEST_DATABASE_URL;
  return async () => {
    await rm(folder, { recursive: true, force: true, maxRetries: 10 });
    if (url !== undefined) await administer(url, `drop database if exists ${firstTemplate(folder)} with (force)`);
  };
}

async function makeMigrated(): Promise<Remove> {
  const url = process.env.MERCATO_TEST_DATABASE_URL;
  if (url === undefined || process.env.MERCATO_TEST_TEMPLATE !== undefined) return undefined;
  const template = `${process.env.MERCATO_TEST_PREFIX ?? 'mercato'}_template_${randomBytes(4).toString('hex')}`;
  process.env.MERCATO_TEST_TEMPLATE = template;
  await administer(url, `create database ${template}`);
  const database = await openPostgres({ url: withDatabase(url, template), serverUrl: null, poolSize: 1 }, createLog('silent'));
  await database[Symbol.asyncDispose]();
  await makeTemplate(url, template);
  return () => administer(url, `drop database ${template} with (force)`);
}
