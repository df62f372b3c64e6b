/** Writes the empty migrated cluster, src/generated/cluster.tar, unless it is of these migrations already. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { PGlite } from '@electric-sql/pglite';
import { CLUSTER_DUMP, embeddedMigrations } from '../base/database-embedded.ts';
import { migrate, readMigrations } from '../base/database-migrations.ts';
import { createLog } from '../base/log.ts';

const path = fileURLToPath(CLUSTER_DUMP);
const stamp = `${path}.sha256`;
const digest = createHash('sha256');
for (const migration of readMigrations()) digest.update(migration.checksum);
const wanted = digest.digest('hex');

if (!existsSync(path) || !existsSync(stamp) || readFileSync(stamp, 'utf8') !== wanted) {
  const lite = await PGlite.create();
  await migrate(embeddedMigrations(lite), async () => [], createLog('silent'));
  const dump = await lite.dumpDataDir('none');
  // Whole or not at all: another process may be reading it.
  writeFileSync(`${path}.new`, new Uint8Array(await dump.arrayBuffer()));
  renameSync(`${path}.new`, path);
  writeFileSync(stamp, wanted);
  await lite.close();
}
