import { mkdir, rename, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { administer, makeTemplate, type TestDatabase, withDatabase } from './database.ts';

/** What a market begins as a copy of: a data directory, and on Postgres a database. */
export type FirstMarket = { dataDir: string; template: string | undefined };

const LIMIT_MS = 60_000;

/** The first market's database, by the folder of the run that makes it. */
export function firstTemplate(folder: string): string {
  return `${process.env.MERCATO_TEST_PREFIX ?? 'mercato'}_${basename(folder).toLowerCase().replace(/\W/g, '_')}`;
}

/** A market after its first start, made by the first test of this run that asks for one; the others wait for it. Null outside the suite. */
export async function firstMarket(seed: (database: TestDatabase, dataDir: string) => Promise<void>): Promise<FirstMarket | null> {
  const folder = process.env.MERCATO_TEST_ONCE;
  if (folder === undefined) return null;
  const { MERCATO_TEST_DATABASE_URL: url, MERCATO_TEST_TEMPLATE: migrated } = process.env;
  const postgres = url === undefined ? null : { url, template: firstTemplate(folder) };
  const dataDir = join(folder, 'first');
  const making = join(folder, 'making');
  const isMine = await mkdir(join(folder, 'claimed')).then(
    () => true,
    () => false,
  );
  if (isMine) {
    await mkdir(making, { mode: 0o700 });
    if (postgres) await administer(postgres.url, `create database ${postgres.template} template ${migrated}`);
    await seed({ url: postgres && withDatabase(postgres.url, postgres.template), drop: async () => {} }, making);
    if (postgres) await makeTemplate(postgres.url, postgres.template);
    await rename(making, dataDir);
  }
  for (const giveUpMs = performance.now() + LIMIT_MS; !(await isThere(dataDir)); await sleep(50)) {
    if (performance.now() > giveUpMs) throw new Error('the first market was not made');
  }
  return { dataDir, template: postgres?.template };
}

const isThere = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );
