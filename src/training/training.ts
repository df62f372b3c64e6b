import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Database, Tx } from '../base/database.ts';
import type { Connection, PageRequest } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import type { Catalog, Jobs, ModelStore } from '../catalog/catalog.ts';
import type { CreateDatasetInput, CreateDeploymentRuleInput, CreateTrainingRunInput, OptimizeVersionInput } from '../generated/schema.ts';
import { createDatasets, type DatasetView, findDataset, ownDatasets } from './datasets.ts';
import { createDeployments, type DeploymentRuleView, type DeploymentView, findDeployment, findRule, rulesOf } from './deployments.ts';
import { createOptimisations, findOptimisation, type OptimizationView } from './optimisations.ts';
import { createRuns, findRun, ownRuns, type TrainingRunView } from './runs.ts';
import { createWorks } from './work.ts';
import { type WorkUsage, workUsage } from './work-usage.ts';
import { createWorkshop } from './workshop.ts';

export type { Work as WorkView } from '../generated/prisma/client.ts';
export { type DatasetView, datasetsByIds } from './datasets.ts';
export { type DeploymentRuleView, type DeploymentView, deploymentsByRun } from './deployments.ts';
export { type EvaluationView, evaluationsByVersion } from './evaluations.ts';
export { type OptimizationView, optimisationsByDeployment, optimisationsByVersion } from './optimisations.ts';
export type { Figures, RunData, TrainingSpec } from './orders.ts';
export { epochsByRun, sweepCheckpoints, type TrainingRunView } from './runs.ts';
export { hasEnded, WORK, type WorkError, worksByIds } from './work.ts';
export type { WorkUsage } from './work-usage.ts';

export type TrainingOptions = {
  db: Database;
  store: ModelStore;
  catalog: Catalog;
  jobs: Jobs;
  /** This server process in `server_process`. */
  processId: string;
  /** Takes the working folders of worker processes. */
  dataDir: string;
  log: Log;
};

/**
 * Datasets, training runs, optimisations and deployments: asked for here, done in the background by worker processes. Functions with `tx` read as
 * `tenantId`; the others open their own transactions. Input is checked before anything is looked up, and a field at fault is named.
 */
export type Training = AsyncDisposable & {
  /** Takes up work from now on. Disposing gives back what is at work; it goes on elsewhere, or at the next start. */
  start(): Promise<void>;

  /** BAD_USER_INPUT (`name`, `badRowsMax`, `timeLimitMs`, `memoryLimitMib`), NOT_FOUND (upload), CONFLICT (no file yet, or used). */
  createDataset(tenantId: string, input: CreateDatasetInput): Promise<DatasetView>;
  /** BAD_USER_INPUT (limits), NOT_FOUND (dataset, model), CONFLICT (the dataset is not read yet), BAD_USER_INPUT (as `parseSpec`). */
  createTrainingRun(tenantId: string, input: CreateTrainingRunInput): Promise<TrainingRunView>;
  /** One that has ended stays as it is. NOT_FOUND. */
  cancelTrainingRun(tenantId: string, id: string): Promise<TrainingRunView>;
  /** BAD_USER_INPUT (`rule.…`, limits), NOT_FOUND, CONFLICT (not READY; STATIC_INT8 without a run's data). */
  optimizeVersion(tenantId: string, input: OptimizeVersionInput): Promise<OptimizationView>;
  /** BAD_USER_INPUT (`alias`, `optimizations`, `minMetric`, `rule.…`), NOT_FOUND (model), CONFLICT (the alias has a rule). */
  createDeploymentRule(tenantId: string, input: CreateDeploymentRuleInput): Promise<DeploymentRuleView>;
  /** NOT_FOUND. */
  deleteDeploymentRule(tenantId: string, id: string): Promise<void>;

  datasets(tx: Tx, tenantId: string, page: PageRequest): Promise<Connection<DatasetView>>;
  trainingRuns(tx: Tx, tenantId: string, modelId: string | null, page: PageRequest): Promise<Connection<TrainingRunView>>;
  /** NOT_FOUND (model). */
  deploymentRules(tx: Tx, tenantId: string, modelId: string): Promise<DeploymentRuleView[]>;
  /** Of work that was made in [from, to). BAD_USER_INPUT (`to`). */
  workUsage(tx: Tx, tenantId: string, from: Date, to: Date): Promise<WorkUsage[]>;
  findDataset(tx: Tx, tenantId: string, id: string): Promise<DatasetView | null>;
  findTrainingRun(tx: Tx, tenantId: string, id: string): Promise<TrainingRunView | null>;
  findOptimization(tx: Tx, tenantId: string, id: string): Promise<OptimizationView | null>;
  findDeploymentRule(tx: Tx, tenantId: string, id: string): Promise<DeploymentRuleView | null>;
  findDeployment(tx: Tx, tenantId: string, id: string): Promise<DeploymentView | null>;
};

export async function createTraining({ db, store, catalog, jobs, processId, dataDir, log }: TrainingOptions): Promise<Training> {
  const works = createWorks({ db, jobs, processId, log });
  await rm(join(dataDir, 'work', processId), { recursive: true, force: true });
  const workshop = createWorkshop(join(dataDir, 'work', processId), log);
  const parts = { db, store, catalog, works, workshop };
  const datasets = createDatasets(parts);
  const optimisations = createOptimisations(parts);
  const deployments = createDeployments(parts);
  const runs = createRuns({ ...parts, deployments });
  return {
    start: () => works.start({ PROFILE: datasets.profile, TRAIN: runs.train, OPTIMIZE: optimisations.perform, DEPLOY: deployments.deploy }),
    createDataset: datasets.create,
    createTrainingRun: runs.create,
    cancelTrainingRun: runs.cancel,
    optimizeVersion: optimisations.create,
    createDeploymentRule: deployments.createRule,
    deleteDeploymentRule: deployments.deleteRule,
    datasets: ownDatasets,
    trainingRuns: ownRuns,
    deploymentRules: rulesOf,
    workUsage,
    findDataset,
    findTrainingRun: findRun,
    findOptimization: findOptimisation,
    findDeploymentRule: findRule,
    findDeployment,
    [Symbol.asyncDispose]: () => works[Symbol.asyncDispose](),
  };
}
