import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { asSystem, asTenant, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { type Connection, connection, type PageRequest } from '../base/ids.ts';
import { LIMITS } from '../base/limits.ts';
import { type Catalog, type ModelStore, sweepKeys } from '../catalog/catalog.ts';
import type { Dataset, Prisma, TrainingEpoch, TrainingRun } from '../generated/prisma/client.ts';
import type { CreateTrainingRunInput } from '../generated/schema.ts';
import { parseLimits } from './bounds.ts';
import type { Profile } from './data/data.ts';
import { fetchDataset } from './datasets.ts';
import type { Deployments } from './deployments.ts';
import { insertEvaluation } from './evaluations.ts';
import { addReadyVersion } from './made-versions.ts';
import type { Progress, RunData, TrainingSpec } from './orders.ts';
import { parseSpec } from './run-input.ts';
import { type Claim, cancelWork, finish, insertWork, spend, type Works } from './work.ts';
import type { WorkFolder, Workshop } from './workshop.ts';

export type TrainingRunView = Omit<TrainingRun, 'spec'> & { spec: TrainingSpec };

type Options = { db: Database; store: ModelStore; catalog: Catalog; works: Works; workshop: Workshop; deployments: Deployments };

/** Of the store, for checkpoints. */
const FOLDER = 'checkpoints';
const DEFAULT_LIMITS = { timeLimitMs: 3_600_000, memoryLimitMib: 4_096 };

export function createRuns({ db, store, catalog, works, workshop, deployments }: Options) {
  async function create(tenantId: string, input: CreateTrainingRunInput): Promise<TrainingRunView> {
    const { datasetId, modelId, testDatasetId = null } = input;
    const limits = parseLimits(input, DEFAULT_LIMITS);
    const run = await asTenant(db, tenantId, async (tx) => {
      const dataset = await tx.dataset.findFirst({ where: { id: datasetId, tenantId } });
      const test = testDatasetId === null ? null : await tx.dataset.findFirst({ where: { id: testDatasetId, tenantId } });
      const model = await tx.model.findFirst({ where: { id: modelId, tenantId } });
      if (dataset === null || model === null || (test === null && testDatasetId !== null)) throw new MercatoError('NOT_FOUND');
      for (const [field, one] of Object.entries({ datasetId: dataset, testDatasetId: test })) {
        if (one !== null && one.profile === null) throw new MercatoError('CONFLICT', 'The dataset was not read yet.', { field });
      }
      const spec = parseSpec(input, dataset.profile as unknown as Profile);
      const id = await insertWork(tx, tenantId, 'TRAIN', limits);
      const data = { id, tenantId, datasetId, testDatasetId, modelId, spec: spec as unknown as Prisma.InputJsonObject };
      return viewOf(await tx.trainingRun.create({ data }));
    });
    await works.request([{ id: run.id, kind: 'TRAIN' }]);
    return run;
  }

  async function cancel(tenantId: string, id: string): Promise<TrainingRunView> {
    return asTenant(db, tenantId, async (tx) => {
      if ((await tx.trainingRun.findFirst({ where: { id, tenantId } })) === null) throw new MercatoError('NOT_FOUND');
      await cancelWork(tx, id);
      return viewOf(await tx.trainingRun.findUniqueOrThrow({ where: { id } }));
    });
  }

  /** Does a run, from its last checkpoint where it has one. The row of an epoch comes before its checkpoint: what is done twice is the same. */
  async function train(claim: Claim): Promise<void> {
    const { id, tenantId } = claim;
    const run = await asTenant(db, tenantId, (tx) => tx.trainingRun.findUniqueOrThrow({ where: { id }, include: runData }));
    await using folder = await workshop.folder(claim);
    const data = { ...(await fetchRunData(store, run, folder)), rows: specOf(run) };
    const checkpoint = await fetchCheckpoint(id, folder);
    const onProgress = (progress: Progress, micros: number) => keep(claim, progress, micros, folder);
    const order = { kind: 'TRAIN', data, checkpoint } as const;
    const { answer, micros } = await workshop.perform(order, folder, { claim, onProgress });

    const file = await store.put(createReadStream(folder.path(answer.model)), LIMITS.modelBytesMax);
    const version = await addReadyVersion(catalog, claim, { modelId: run.modelId, file });
    const made = await asTenant(db, tenantId, async (tx) => {
      await insertEvaluation(tx, { tenantId, versionId: version.id, dataKey: dataKeyOf(run), figures: answer.figures });
      await tx.trainingRun.update({ where: { id }, data: { versionId: version.id } });
      await finish(tx, claim, micros);
      return deployments.prepare(tx, { id, tenantId, modelId: run.modelId, versionId: version.id });
    });
    await works.request(made);
    await store.delete(keyOf(id));
  }

  async function keep(claim: Claim, { report, checkpoint }: Progress, micros: number, folder: WorkFolder): Promise<void> {
    await asTenant(db, claim.tenantId, async (tx) => {
      await tx.trainingEpoch.createMany({ data: { runId: claim.id, tenantId: claim.tenantId, ...report }, skipDuplicates: true });
      await spend(tx, claim, micros);
    });
    await store.putBytes(keyOf(claim.id), await readFile(folder.path(checkpoint)));
  }

  async function fetchCheckpoint(id: string, folder: WorkFolder): Promise<string | null> {
    const bytes = await store.readBytes(keyOf(id));
    if (bytes === null) return null;
    await writeFile(folder.path('checkpoint'), bytes);
    return 'checkpoint';
  }

  return { create, cancel, train };
}

/** A run with the rows that it learns from and is evaluated on. */
export type RunWithData = TrainingRun & { dataset: Dataset; testDataset: Dataset | null };
export const runData = { dataset: true, testDataset: true } as const;

/** Puts the files of a run's rows into a folder of work. */
export async function fetchRunData(store: ModelStore, run: RunWithData, folder: WorkFolder): Promise<RunData> {
  const dataset = await fetchDataset(store, run.dataset, folder, 'dataset');
  const test = run.testDataset && (await fetchDataset(store, run.testDataset, folder, 'test'));
  return { dataset, test, rows: specOf(run) };
}

/** Names the rows of an evaluation: the same files, columns and split have the same test rows. */
export function dataKeyOf(run: RunWithData): string {
  const { task, targets, seed, validationShare, testShare } = specOf(run);
  const rows = run.testDataset === null ? [run.dataset.sha256, seed, validationShare, testShare] : [run.testDataset.sha256];
  return createHash('sha256')
    .update(JSON.stringify([task, targets, ...rows]))
    .digest('hex');
}

export async function findRun(tx: Tx, tenantId: string, id: string): Promise<TrainingRunView | null> {
  const row = await tx.trainingRun.findFirst({ where: { id, tenantId } });
  return row && viewOf(row);
}

export async function ownRuns(tx: Tx, tenantId: string, modelId: string | null, page: PageRequest): Promise<Connection<TrainingRunView>> {
  const where = { tenantId, ...(modelId === null ? {} : { modelId }), ...(page.afterId === null ? {} : { id: { lt: page.afterId } }) };
  const rows = await tx.trainingRun.findMany({ where, orderBy: { id: 'desc' }, take: page.first + 1 });
  return connection(rows.map(viewOf), page);
}

/** Of each run, in order. For a loader. */
export async function epochsByRun(tx: Tx, runIds: readonly string[]): Promise<Map<string, TrainingEpoch[]>> {
  const rows = await tx.trainingEpoch.findMany({ where: { runId: { in: [...runIds] } }, orderBy: { epoch: 'asc' } });
  return Map.groupBy(rows, (row) => row.runId);
}

function keyOf(runId: string): string {
  return `${FOLDER}/${runId}`;
}

/** Deletes checkpoints of runs that have ended, as failed ones and cancelled ones leave them. */
export async function sweepCheckpoints(db: Database, store: ModelStore): Promise<void> {
  await sweepKeys(store, FOLDER, async (ids) => {
    const rows = await asSystem(
      db,
      (tx) => tx.$queryRaw<{ id: string }[]>`
        select k.id::text from unnest(${ids}::uuid[]) k (id)
         where not exists (select from work w where w.id = k.id and w.state in ('QUEUED', 'RUNNING'))`,
    );
    return rows.map(({ id }) => id);
  });
}

function viewOf(row: TrainingRun): TrainingRunView {
  return { ...row, spec: specOf(row) };
}

/** As it was stored. */
export function specOf({ spec }: Pick<TrainingRun, 'spec'>): TrainingSpec {
  return spec as unknown as TrainingSpec;
}
