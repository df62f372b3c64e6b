import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, rm, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { type Access, createAccess } from '../../src/access/access.ts';
import { systemClock } from '../../src/base/clock.ts';
import { asSystem, type Database } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { createLog, type Log } from '../../src/base/log.ts';
import {
  type Catalog,
  createCatalog,
  createDirectoryStore,
  type ModelStore,
  type ModelVersionView,
  type ModelView,
  type PlanInput,
} from '../../src/catalog/catalog.ts';
import { createFleet, createInference, type FleetConfig } from '../../src/inference/inference.ts';
import { createJobs } from '../../src/prediction/jobs.ts';
import { openTestDatabase } from './database.ts';

export type CatalogRig = AsyncDisposable & {
  db: Database;
  access: Access;
  catalog: Catalog;
  /** Files below the store's directory, without those in staging. */
  stored(): Promise<string[]>;
  staged(): Promise<string[]>;
  store: ModelStore;
  /** As if a model file, or what lies under a key of the store, had been brought so many days ago, two by default. */
  age(name: string, days?: number): Promise<void>;
  tenant(): Promise<{ id: string; name: string }>;
  upload(tenantId: string, bytes: Uint8Array): Promise<string>;
  version(tenantId: string, modelId: string, bytes: Uint8Array): Promise<ModelVersionView>;
  /** A model with one READY version, published under the plans. */
  publish(
    tenantId: string,
    input: { name?: string; summary?: string; tags?: string[]; plans?: PlanInput[]; bytes: Uint8Array },
  ): Promise<ModelView>;
};

/** A whole catalogue: database, jobs, runners, and a store in a directory of its own. */
export async function openCatalog(options: Partial<FleetConfig> = {}, log: Log = createLog('silent')): Promise<CatalogRig> {
  const resources = new AsyncDisposableStack();
  const dataDir = await mkdtemp(join(tmpdir(), 'catalog-'));
  resources.defer(() => rm(dataDir, { recursive: true, force: true }));
  const db = resources.use(await openTestDatabase());
  const access = resources.use(await createAccess({ db, dataDir, jwtKeys: null, log, clock: systemClock }));
  const jobs = resources.use(await createJobs(db, log));
  const storeDir = join(dataDir, 'models');
  const store = await createDirectoryStore(storeDir);
  const bounds = {
    spares: 1,
    maxLoaded: 2,
    memoryBytesMax: 2 ** 33,
    deviceMemoryBytesMax: 2 ** 33,
    keepAliveMs: 600_000,
    replicasMax: 1,
    devices: 'cpu',
    deviceEnvironment: {},
  };
  const fleet = resources.use(createFleet({ dataDir, readModel: (file) => store.read(file), ...bounds, ...options }, log));
  const inference = resources.use(createInference(fleet));
  const { invalidations } = access;
  const uploadsUrl = () => 'http://localhost/uploads';
  const catalog = resources.use(
    createCatalog({ db, store, inference, invalidations, jobs, processId: access.processId, currency: 'EUR', uploadsUrl, log }),
  );
  await catalog.start();

  async function tenant(): Promise<{ id: string; name: string }> {
    const id = newId();
    const name = `t${randomBytes(6).toString('hex')}`;
    await asSystem(db, (tx) => tx.tenant.create({ data: { id, name, displayName: name } }));
    return { id, name };
  }

  async function upload(tenantId: string, bytes: Uint8Array): Promise<string> {
    const { upload, url } = await catalog.createUpload(tenantId);
    await catalog.receiveUpload(tokenOf(url), Readable.from([bytes]));
    return upload.id;
  }

  async function version(tenantId: string, modelId: string, bytes: Uint8Array): Promise<ModelVersionView> {
    return catalog.createModelVersion(tenantId, { modelId, uploadId: await upload(tenantId, bytes) });
  }

  return {
    db,
    access,
    catalog,
    stored: async () => (await readdir(storeDir, { recursive: true })).filter((path) => /^[0-9a-f]{2}.[0-9a-f]{64}$/.test(path)),
    staged: () => readdir(join(storeDir, 'staging')),
    store,
    async age(name, days = 2) {
      const then = new Date(Date.now() - days * 24 * 60 * 60 * 1000);
      await utimes(join(storeDir, name.includes('/') ? name : join(name.slice(0, 2), name)), then, then);
    },
    tenant,
    upload,
    version,
    async publish(tenantId, { name = 'model', summary = '', tags = [], plans = [{ name: 'basic', unitPriceNanos: '1000' }], bytes }) {
      const { id: modelId } = await catalog.createModel(tenantId, { name, summary, tags });
      await version(tenantId, modelId, bytes);
      return catalog.publishListing(tenantId, { modelId, modelVersionId: null, plans, summary: null, tags: null });
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

export function tokenOf(url: string): string {
  return url.slice(url.lastIndexOf('/') + 1);
}
