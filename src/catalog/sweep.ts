import { asSystem, type Database, type Tx } from '../base/database.ts';
import { LIMITS } from '../base/limits.ts';
import type { Log } from '../base/log.ts';
import { releaseFile, unusedFiles } from './files.ts';
import type { ModelStore } from './store.ts';

const UPLOADS_MAX = 500;
/** Of the store: one name for each database that uses it. */
const DATABASES = 'databases';

/**
 * Whether the store has been this database's for a day, and no other's: what another one's rows refer to must not be swept. Says there that this one uses it. A dump that was
 * restored is another database; a copied cluster is not, which is why removed files can be had back.
 */
export async function isOwnStore(db: Database, store: ModelStore, log: Log): Promise<boolean> {
  const own = await asSystem(db, databaseId);
  if (own === null) return false;
  const known = await store.keys(DATABASES);
  if (!known.includes(own)) await store.putBytes(`${DATABASES}/${own}`, new Uint8Array());
  const others = known.filter((id) => id !== own);
  if (others.length > 0) log.warn({ own, others }, 'several databases use the model store: what nothing refers to stays there');
  for await (const aged of store.agedKeys(DATABASES)) if (aged.includes(own)) return others.length === 0;
  return false;
}

/**
 * Ends uploads that nothing was made of within `LIMITS.uploadKeptMs` after their time, and deletes model files that nothing refers to and nobody brought
 * within a day: of these, of versions that were never written, of processes that died. Several processes and hosts may do it at once.
 */
export async function sweepFiles(db: Database, store: ModelStore): Promise<void> {
  while ((await expireUploads(db)) === UPLOADS_MAX);
  for await (const digests of store.agedFiles()) {
    const unused = await asSystem(db, (tx) => unusedFiles(tx, digests));
    for (const sha256 of unused) await releaseFile(db, store, sha256, (one) => store.deleteAged(one));
  }
}

async function expireUploads(db: Database): Promise<number> {
  return asSystem(
    db,
    (tx) => tx.$executeRaw`
      update upload set state = 'EXPIRED' where id in (
        select id from upload where state in ('OPEN', 'COMPLETE') and expires_at <= mercato_now() - ${LIMITS.uploadKeptMs}::int * interval '1 ms'
         order by id limit ${UPLOADS_MAX} for update skip locked)`,
  );
}

/** Deletes what lies aged in a folder of the store under ids of which `unused` says that nothing needs it. */
export async function sweepKeys(store: ModelStore, folder: string, unused: (ids: string[]) => Promise<string[]>): Promise<void> {
  for await (const names of store.agedKeys(folder)) {
    const ids = names.filter((name) => UUID.test(name));
    for (const id of await unused(ids)) await store.delete(`${folder}/${id}`);
  }
}

/** Of this database in this cluster on this line of its history; embedded ones, which are all of one cluster, differ by their first tenant. Null where there is none yet. */
async function databaseId(tx: Tx): Promise<string | null> {
  const [row] = await tx.$queryRaw<{ id: string | null }[]>`
    select md5(concat_ws(' ', (select system_identifier from pg_control_system()), (select timeline_id from pg_control_checkpoint()),
                              (select oid from pg_database where datname = current_database()), t.id)) id
      from tenant t order by t.id limit 1`;
  return row?.id ?? null;
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
