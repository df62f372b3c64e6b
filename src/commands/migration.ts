/**
 * `npm run migration -- NAME`: writes prisma/migrations/<time>_NAME/migration.sql with what the migrations still lack for schema.prisma.
 * A draft, for review: policies, grants, checks and triggers are added by hand.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { PGlite } from '@electric-sql/pglite';
import { embeddedMigrations } from '../base/database-embedded.ts';
import { migrate, schemaDrift } from '../base/database-migrations.ts';
import { createLog } from '../base/log.ts';

const [name] = process.argv.slice(2);
if (name === undefined || !/^[a-z][a-z0-9_]{0,62}$/.test(name)) {
  console.error('usage: npm run migration -- NAME   (lower-case letters, digits and _, as add_invoices)');
  process.exit(2);
}

const lite = await PGlite.create();
await migrate(embeddedMigrations(lite), async () => [], createLog('silent'));
const sql = await schemaDrift(embeddedMigrations(lite));
await lite.close();

if (/^\s*(--[^\n]*\s*)*$/.test(sql)) {
  console.log('The migrations lead to schema.prisma already: nothing to write.');
} else {
  const time = new Date().toISOString().replace(/\D/g, '').slice(0, 14);
  const folder = fileURLToPath(new URL(`../../prisma/migrations/${time}_${name}`, import.meta.url));
  await mkdir(folder);
  await writeFile(`${folder}/migration.sql`, sql, { flag: 'wx' });
  console.log(`${sql}\nwrote ${folder}/migration.sql`);
}
