import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { bindMigrationAwareSqlAdapterFactory, type SqlMigrationAwareDriverAdapterFactory } from '@prisma/driver-adapter-utils';
import type { SchemaEngine } from '@prisma/schema-engine-wasm';
import type { Log } from './log.ts';

export type MigrationAdapterFactory = SqlMigrationAwareDriverAdapterFactory;

/**
 * An adapter factory fit for the schema engine. Its scripts run whole: @prisma/adapter-pg 7.10 splits them at each semicolon, also inside
 * a function's body, and
 * pglite-prisma-adapter 0.7 neither waits nor reports.
 */
export function withScripts(factory: MigrationAdapterFactory, run: (script: string) => Promise<void>): MigrationAdapterFactory {
  const connect = async () => {
    const adapter = await factory.connect();
    adapter.executeScript = run;
    return adapter;
  };
  return { provider: factory.provider, adapterName: factory.adapterName, connect, connectToShadowDb: () => factory.connectToShadowDb() };
}

const MIGRATIONS = fileURLToPath(new URL('../../prisma/migrations', import.meta.url));
const SCHEMA = fileURLToPath(new URL('../../prisma/schema.prisma', import.meta.url));
const FILTERS = { externalTables: [], externalEnums: [] };

type Migration = { name: string; sql: string; checksum: string };

/** The reviewed migrations in their order; `checksum` is SHA-256 as Prisma stores it. */
export function readMigrations(): Migration[] {
  return readdirSync(MIGRATIONS, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .sort()
    .map((name) => {
      const sql = readFileSync(`${MIGRATIONS}/${name}/migration.sql`, 'utf8');
      return { name, sql, checksum: createHash('sha256').update(sql).digest('hex') };
    });
}

/**
 * Applies what is missing with Prisma's own schema engine, in WebAssembly, which keeps its `_prisma_migrations` table: `prisma migrate
 * deploy` finds the same state. The engine is started only where something is missing. Callers hold a lock.
 */
export async function migrate(
  adapters: MigrationAdapterFactory,
  query: (sql: string) => Promise<{ migration_name: string; checksum: string }[]>,
  log: Log,
): Promise<void> {
  const migrations = readMigrations();
  const applied = await query('select migration_name, checksum from public._prisma_migrations where finished_at is not null').catch(
    () => [],
  );
  const checksums = new Map(applied.map((row) => [row.migration_name, row.checksum]));
  const edited = migrations.find((m) => checksums.has(m.name) && checksums.get(m.name) !== m.checksum);
  if (edited) throw new Error(`migration ${edited.name} was changed after it was applied`);
  if (migrations.every((m) => checksums.has(m.name))) return;
  const engine = await startEngine(adapters);
  const { appliedMigrationNames } = await engine.applyMigrations({ migrationsList: migrationsList(migrations), filters: FILTERS });
  log.info({ migrations: appliedMigrationNames }, 'migrated the database');
}

/**
 * What would still have to change for the database to match schema.prisma, as SQL; an empty migration where nothing would.
 * Embedded only: @prisma/adapter-pg 7.10 cannot read the "char" columns that the engine asks for.
 */
export async function schemaDrift(adapters: MigrationAdapterFactory): Promise<string> {
  const engine = await startEngine(adapters);
  const files = [{ path: SCHEMA, content: readFileSync(SCHEMA, 'utf8') }];
  const { stdout } = await engine.diff({
    from: { tag: 'schemaDatasource', files, configDir: MIGRATIONS },
    to: { tag: 'schemaDatamodel', files },
    script: true,
    exitCode: null,
    filters: FILTERS,
    shadowDatabaseUrl: null,
  } as Parameters<SchemaEngine['diff']>[0]);
  return stdout ?? '';
}

async function startEngine(adapters: MigrationAdapterFactory): Promise<SchemaEngine> {
  const { SchemaEngine } = await import('@prisma/schema-engine-wasm');
  const datamodels: [string, string][] = [[SCHEMA, readFileSync(SCHEMA, 'utf8')]];
  return SchemaEngine.new({ datamodels }, () => undefined, bindMigrationAwareSqlAdapterFactory(adapters));
}

function migrationsList(migrations: Migration[]) {
  return {
    baseDir: MIGRATIONS,
    lockfile: { path: 'migration_lock.toml', content: readFileSync(`${MIGRATIONS}/migration_lock.toml`, 'utf8') },
    shadowDbInitScript: '',
    migrationDirectories: migrations.map(({ name, sql }) => ({
      path: name,
      migrationFile: { path: 'migration.sql', content: { tag: 'ok' as const, value: sql } },
    })),
  };
}
