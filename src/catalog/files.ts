import { asSystem, type Database, type Tx } from '../base/database.ts';
import type { ModelStore } from './store.ts';

/** Until the transaction ends, nobody else brings or deletes the file of this digest. */
export async function lockFile(tx: Tx, sha256: string): Promise<void> {
  await tx.$executeRaw`select pg_advisory_xact_lock(hashtextextended(${sha256}, 5))`;
}

/** Deletes a model file where nothing of any tenant refers to it any more; equal files are one. `remove`: how. */
export async function releaseFile(
  db: Database,
  store: ModelStore,
  sha256: string,
  remove: (sha256: string) => Promise<void> = store.deleteFile,
): Promise<void> {
  await asSystem(db, async (tx) => {
    await lockFile(tx, sha256);
    for (const unused of await unusedFiles(tx, [sha256])) await remove(unused);
  });
}

/** Those that nothing of any tenant refers to. */
export async function unusedFiles(tx: Tx, digests: readonly string[]): Promise<string[]> {
  const rows = await tx.$queryRaw<{ sha256: string }[]>`
    select d.sha256 from unnest(${digests}::text[]) d (sha256)
     where not exists (select from model_version v where v.sha256 = d.sha256 and v.state <> 'REJECTED')
       and not exists (select from upload u where u.sha256 = d.sha256 and u.state = 'COMPLETE')
       and not exists (select from dataset s where s.sha256 = d.sha256)`;
  return rows.map(({ sha256 }) => sha256);
}
