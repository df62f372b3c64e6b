import { asSystem, type Database, type Tx } from '../base/database.ts';
import type { ModelStore } from './store.ts';

/** Until the transaction ends, nobody else brings or deletes the file of this digest. */
export async function lockFile(tx: Tx, sha256: string): Promise<void> {
  await tx.$executeRaw`select pg_advisory_xact_lock(hashtextextended(${sha256}, 5))`;
}

/** Deletes a model file where nothing of any tenant refers to it any more; equal files are one. */
export async function releaseFile(db: Database, store: ModelStore, sha256: string): Promise<void> {
  await asSystem(db, async (tx) => {
    await lockFile(tx, sha256);
    const [file] = await tx.$queryRaw<{ used: boolean }[]>`
      select exists (select from model_version where sha256 = ${sha256} and state <> 'REJECTED')
          or exists (select from upload where sha256 = ${sha256} and state = 'COMPLETE')
          or exists (select from dataset where sha256 = ${sha256}) used`;
    if (file?.used === false) await store.deleteFile(sha256);
  });
}
