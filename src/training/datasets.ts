import { asTenant, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { type Connection, connection, type PageRequest } from '../base/ids.ts';
import type { Catalog, ModelStore } from '../catalog/catalog.ts';
import type { Dataset, Prisma } from '../generated/prisma/client.ts';
import type { CreateDatasetInput } from '../generated/schema.ts';
import { mustBe, parseLimits, whole } from './bounds.ts';
import type { Profile } from './data/data.ts';
import type { DatasetFile } from './orders.ts';
import { type Claim, finish, insertWork, type Works } from './work.ts';
import type { WorkFolder, Workshop } from './workshop.ts';

export type DatasetView = Omit<Dataset, 'profile'> & { profile: Profile | null };

type Options = { db: Database; store: ModelStore; catalog: Catalog; works: Works; workshop: Workshop };

const BAD_ROWS_MAX = 1_000_000;
const LIMITS = { timeLimitMs: 600_000, memoryLimitMib: 2_048 };

export function createDatasets({ db, store, catalog, works, workshop }: Options) {
  async function create(tenantId: string, input: CreateDatasetInput & { uploadId: string }): Promise<DatasetView> {
    const { name, format } = input;
    mustBe(name.isWellFormed() && name.trim() === name && name.length >= 1 && name.length <= 100, 'name', name, '1–100 characters');
    const badRowsMax = whole('badRowsMax', input.badRowsMax, [0, BAD_ROWS_MAX]);
    const limits = parseLimits(input, LIMITS);
    const dataset = await asTenant(db, tenantId, async (tx) => {
      const { file, taken } = await catalog.takeUpload(tx, tenantId, input.uploadId);
      if (!taken) throw new MercatoError('CONFLICT', 'The upload was used already.', { field: 'uploadId' });
      const id = await insertWork(tx, tenantId, 'PROFILE', limits);
      const row = await tx.dataset.create({ data: { id, tenantId, name, format, ...file, badRowsMax } });
      return viewOf(row);
    });
    await works.request([{ id: dataset.id, kind: 'PROFILE' }]);
    return dataset;
  }

  async function profile(claim: Claim): Promise<void> {
    const row = await asTenant(db, claim.tenantId, (tx) => tx.dataset.findUniqueOrThrow({ where: { id: claim.id } }));
    await using folder = await workshop.folder(claim);
    const dataset = await fetchDataset(store, row, folder, 'dataset');
    const { answer, micros } = await workshop.perform({ kind: 'PROFILE', dataset }, folder, { claim });
    await asTenant(db, claim.tenantId, async (tx) => {
      await tx.dataset.update({ where: { id: claim.id }, data: { profile: answer as unknown as Prisma.InputJsonObject } });
      await finish(tx, claim, micros);
    });
  }

  return { create, profile };
}

/** Puts a dataset's file into a folder of work. */
export async function fetchDataset(store: ModelStore, row: Dataset, folder: WorkFolder, file: string): Promise<DatasetFile> {
  await store.copyTo(row.sha256, folder.path(file));
  return { file, format: row.format, badRowsMax: row.badRowsMax };
}

export async function findDataset(tx: Tx, tenantId: string, id: string): Promise<DatasetView | null> {
  const row = await tx.dataset.findFirst({ where: { id, tenantId } });
  return row && viewOf(row);
}

export async function ownDatasets(tx: Tx, tenantId: string, page: PageRequest): Promise<Connection<DatasetView>> {
  const rows = await tx.dataset.findMany({
    where: { tenantId, ...(page.afterId === null ? {} : { id: { lt: page.afterId } }) },
    orderBy: { id: 'desc' },
    take: page.first + 1,
  });
  return connection(rows.map(viewOf), page);
}

/** For a loader. */
export async function datasetsByIds(tx: Tx, ids: readonly string[]): Promise<Map<string, DatasetView>> {
  const rows = await tx.dataset.findMany({ where: { id: { in: [...ids] } } });
  return new Map(rows.map((row) => [row.id, viewOf(row)]));
}

function viewOf(row: Dataset): DatasetView {
  return { ...row, profile: row.profile as Profile | null };
}
