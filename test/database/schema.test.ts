import { createHash, randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { PGlite } from '@electric-sql/pglite';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { embeddedMigrations } from '../../src/base/database-embedded.ts';
import { migrate, schemaDrift } from '../../src/base/database-migrations.ts';
import { openPostgres } from '../../src/base/database-postgres.ts';
import { createLog } from '../../src/base/log.ts';
import { keepUsage } from '../../src/usage/usage.ts';
import { administer, withDatabase } from '../support/database.ts';

const url = process.env.MERCATO_TEST_DATABASE_URL;
const log = createLog('silent');
const NO_DRIFT = '-- This is an empty migration.';

type Applied = { migration_name: string; checksum: string };

/** Migrates as a server does at its start. */
async function start(lite: PGlite): Promise<void> {
  const query = async (sql: string) => (await lite.query<Applied>(sql)).rows;
  await migrate(embeddedMigrations(lite), query, log);
}

/** The files as anybody else would read them, in the form of `_prisma_migrations`. */
function files(): Applied[] {
  const folder = new URL('../../prisma/migrations/', import.meta.url);
  const names = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return names
    .map(({ name }) => {
      const sql = readFileSync(new URL(`${name}/migration.sql`, folder));
      return { migration_name: name, checksum: createHash('sha256').update(sql).digest('hex') };
    })
    .sort((a, b) => (a.migration_name < b.migration_name ? -1 : 1));
}

let migrated: PGlite;
beforeAll(async () => {
  migrated = await PGlite.create();
  await start(migrated);
});
afterAll(() => migrated.close());

/** A copy of the migrated database, to change. */
async function copy(): Promise<PGlite & AsyncDisposable> {
  const dump = await migrated.dumpDataDir('none');
  const lite = await PGlite.create({ loadDataDir: dump });
  return Object.assign(lite, { [Symbol.asyncDispose]: () => lite.close() });
}

describe('the migrated database', () => {
  it('is what schema.prisma says', async () => {
    expect((await schemaDrift(embeddedMigrations(migrated))).trim()).toBe(NO_DRIFT);
  });

  it('is still what schema.prisma says once it has partitions', async () => {
    await using lite = await copy();
    await lite.query('select mercato_ensure_partitions(3)');
    const { rows } = await lite.query("select from pg_inherits where inhparent = 'usage_record'::regclass");
    expect(rows).toHaveLength(4);
    expect((await schemaDrift(embeddedMigrations(lite))).trim()).toBe(NO_DRIFT);
  });

  it.each([
    ['a column', 'alter table plan add column surprise text', /DROP COLUMN "surprise"/],
    ['a table', 'create table surprise (id int primary key)', /DROP TABLE "surprise"/],
    ['the loss of an index', 'drop index model_version_tenant_id_idx', /CREATE INDEX "model_version_tenant_id_idx"/],
    ['another default', 'alter table plan_version alter column priority set default 5', /"priority" SET DEFAULT 0/],
  ])('is seen to differ from schema.prisma by %s', async (_, sql, drift) => {
    await using lite = await copy();
    await lite.exec(sql);
    expect(await schemaDrift(embeddedMigrations(lite))).toMatch(drift);
  });

  it("keeps Prisma's own record: each migration once, finished, with the SHA-256 of its file", async () => {
    const { rows } = await migrated.query(
      `select migration_name, checksum, finished_at is not null finished, rolled_back_at, applied_steps_count steps
         from _prisma_migrations order by migration_name`,
    );
    expect(rows).toEqual(files().map((file) => ({ ...file, finished: true, rolled_back_at: null, steps: 1 })));
  });

  it("is complete to Prisma's engine, which applies nothing again", async () => {
    await using lite = await copy();
    await migrate(embeddedMigrations(lite), async () => [], log);
    const { rows } = await lite.query('select from _prisma_migrations');
    expect(rows).toHaveLength(files().length);
  });
});

describe('a start', () => {
  it('refuses a database whose applied migration is not the one of the files', async () => {
    await using lite = await copy();
    const [first] = files();
    await lite.query('update _prisma_migrations set checksum = $1 where migration_name = $2', ['0'.repeat(64), first?.migration_name]);
    await expect(start(lite)).rejects.toThrow(`migration ${first?.migration_name} was changed after it was applied`);
  });

  it('applies a migration that a database lacks', async () => {
    await using lite = await copy();
    await lite.exec('drop schema pgboss cascade');
    await lite.exec("delete from _prisma_migrations where migration_name like '%_jobs'");
    await start(lite);
    const { rows } = await lite.query<{ boss: string | null }>("select to_regclass('pgboss.job')::text boss");
    expect(rows).toEqual([{ boss: 'pgboss.job' }]);
    expect((await schemaDrift(embeddedMigrations(lite))).trim()).toBe(NO_DRIFT);
  });

  it.skipIf(url === undefined)('of several servers at once on an empty database migrates it once, and all of them serve', async () => {
    const base = url ?? '';
    const name = `mercato_start_${randomBytes(6).toString('hex')}`;
    await administer(base, `create database ${name}`);
    try {
      const starts = Array.from({ length: 3 }, () => openPostgres({ url: withDatabase(base, name), serverUrl: null, poolSize: 1 }, log));
      const databases = await Promise.all(starts);
      // What a start does next; one that looks before the other's commit must not make a partition again.
      await Promise.all(databases.map(keepUsage));
      const client = new pg.Client({ connectionString: withDatabase(base, name) });
      await client.connect();
      const { rows } = await client.query('select migration_name, checksum from _prisma_migrations order by migration_name');
      await client.end();
      expect(rows).toEqual(files());
      for (const database of databases) {
        expect(await database.systemClient.tenant.count()).toBe(0);
        await database[Symbol.asyncDispose]();
      }
    } finally {
      await administer(base, `drop database ${name} with (force)`);
    }
  });
});
