import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { asTenant, type Database } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import type { Checks } from './checks.ts';
import { createModel, found } from './models.ts';
import type { ModelStore } from './store.ts';
import { DEFAULT_BOUNDS, insertVersion } from './versions.ts';
import type { ModelVersionView } from './views.ts';

/** As `Catalog.importShipped`. */
export async function importShipped(
  { db, store }: { db: Database; store: ModelStore },
  checks: Checks,
  tenantId: string,
  name: string,
  dir: string,
): Promise<ModelVersionView> {
  const modelId = await ownModel(db, tenantId, name);
  const file = await store.put(createReadStream(join(dir, 'model.onnx')), LIMITS.modelBytesMax);
  const { id: versionId } = await asTenant(db, tenantId, (tx) =>
    insertVersion(tx, { tenantId, modelId, ...file, ...DEFAULT_BOUNDS, trusted: true }),
  );
  await checks.check({ tenantId, versionId });
  return checks.settled({ tenantId, versionId });
}

async function ownModel(db: Database, tenantId: string, name: string): Promise<string> {
  try {
    return (await createModel(db, tenantId, { name })).id;
  } catch (error) {
    if (!(error instanceof MercatoError) || error.code !== 'CONFLICT') throw error;
    return asTenant(db, tenantId, async (tx) => found(await tx.model.findFirst({ where: { tenantId, name } })).id);
  }
}
