import { type Catalog, type ModelVersionView, rejectedAs } from '../catalog/catalog.ts';
import type { Claim } from './work.ts';

/** A check that waits for another of its tenant's is waited for, so many times what `addVersion` waits: each takes three minutes at most. */
const WAITS_MAX = 14;

/** As `Catalog.addVersion`, once the version is READY. @throws MODEL_REJECTED; the signal's reason, where the work is no longer this process's; an Error after about seven minutes */
export async function addReadyVersion(
  { addVersion }: Pick<Catalog, 'addVersion'>,
  { tenantId, signal }: Pick<Claim, 'tenantId' | 'signal'>,
  input: Parameters<Catalog['addVersion']>[1],
): Promise<ModelVersionView> {
  for (let waits = 0; waits < WAITS_MAX; waits++) {
    const version = await addVersion(tenantId, input);
    if (version.state === 'READY') return version;
    if (version.state === 'REJECTED') throw rejectedAs(version.rejection);
    signal.throwIfAborted();
  }
  throw new Error('the version is not checked yet');
}
