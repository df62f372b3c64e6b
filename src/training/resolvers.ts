import { authorize, type Principal, type Scope } from '../access/access.ts';
import { MercatoError } from '../base/errors.ts';
import { globalId, type NodeType, pageRequest, parseGlobalId } from '../base/ids.ts';
import type { Resolvers } from '../generated/schema.ts';
import {
  datasetsByIds,
  deploymentsByRun,
  epochsByRun,
  evaluationsByVersion,
  hasEnded,
  optimisationsByDeployment,
  optimisationsByVersion,
  WORK,
  type WorkError,
  worksByIds,
} from './training.ts';

const tenantOf = ({ principal }: { principal: Principal | null }, scope: Scope) => authorize(principal, scope).tenantId;

/** What is no id of this type names no object of it. */
function idOf(type: NodeType, text: string): string {
  const parsed = parseGlobalId(text);
  if (parsed?.type !== type) throw new MercatoError('NOT_FOUND');
  return parsed.id;
}

function found<T>(row: T | null): T {
  if (row === null) throw new MercatoError('NOT_FOUND');
  return row;
}

/** Row-level security has let the reader see what refers to it. */
function there<T>(row: T | null): T {
  if (row === null) throw new Error('a row that is referred to is not there');
  return row;
}

export const resolvers = {
  Query: {
    datasets: (_, args, ctx) => {
      const tenantId = tenantOf(ctx, 'model:read');
      const page = pageRequest(args);
      return ctx.read((tx) => ctx.training.datasets(tx, tenantId, page));
    },
    trainingRuns: (_, { modelId, ...args }, ctx) => {
      const tenantId = tenantOf(ctx, 'model:read');
      const page = pageRequest(args);
      const of = modelId === null || modelId === undefined ? null : idOf('Model', modelId);
      return ctx.read((tx) => ctx.training.trainingRuns(tx, tenantId, of, page));
    },
    deploymentRules: (_, { modelId }, ctx) => {
      const tenantId = tenantOf(ctx, 'model:read');
      return ctx.read((tx) => ctx.training.deploymentRules(tx, tenantId, idOf('Model', modelId)));
    },
    workUsage: (_, { from, to }, ctx) => {
      const tenantId = tenantOf(ctx, 'usage:read');
      return ctx.read((tx) => ctx.training.workUsage(tx, tenantId, from, to));
    },
  },
  Mutation: {
    createDataset: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'model:write');
      return { dataset: await ctx.training.createDataset(tenantId, { ...input, uploadId: idOf('Upload', input.uploadId) }) };
    },
    createTrainingRun: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'model:write');
      const testDatasetId = input.testDatasetId ? idOf('Dataset', input.testDatasetId) : null;
      const ids = { datasetId: idOf('Dataset', input.datasetId), testDatasetId, modelId: idOf('Model', input.modelId) };
      return { trainingRun: await ctx.training.createTrainingRun(tenantId, { ...input, ...ids }) };
    },
    cancelTrainingRun: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'model:write');
      return { trainingRun: await ctx.training.cancelTrainingRun(tenantId, idOf('TrainingRun', input.id)) };
    },
    optimizeVersion: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'model:write');
      const versionId = idOf('ModelVersion', input.versionId);
      return { optimization: await ctx.training.optimizeVersion(tenantId, { ...input, versionId }) };
    },
    createDeploymentRule: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'listing:publish');
      const modelId = idOf('Model', input.modelId);
      return { deploymentRule: await ctx.training.createDeploymentRule(tenantId, { ...input, modelId }) };
    },
    deleteDeploymentRule: async (_, { input }, ctx) => {
      await ctx.training.deleteDeploymentRule(tenantOf(ctx, 'listing:publish'), idOf('DeploymentRule', input.id));
      return { deleted: true };
    },
  },
  LiveQuery: {
    trainingRun: (_, { id }, ctx) => {
      const tenantId = tenantOf(ctx, 'model:read');
      return ctx.read(async (tx) => found(await ctx.training.findTrainingRun(tx, tenantId, idOf('TrainingRun', id))));
    },
  },
  Work: {
    error: ({ error }) => error as WorkError | null,
    computeMicros: ({ computeMicros }) => computeMicros.toString(),
  },
  WorkUsage: { computeMicros: ({ computeMicros }) => computeMicros.toString() },
  Dataset: {
    id: ({ id }) => globalId('Dataset', id),
    sizeBytes: ({ sizeBytes }) => sizeBytes.toString(),
    work: async ({ id }, _, ctx) => there(await ctx.loaders.load(worksByIds, id)),
  },
  TrainingRun: {
    id: ({ id }) => globalId('TrainingRun', id),
    dataset: async ({ datasetId }, _, ctx) => there(await ctx.loaders.load(datasetsByIds, datasetId)),
    model: async ({ tenantId, modelId }, _, ctx) => there(await ctx.read((tx) => ctx.catalog.findModel(tx, tenantId, modelId))),
    work: async ({ id }, _, ctx) => there(await ctx.loaders.load(worksByIds, id)),
    epochsMax: ({ spec }) => spec.epochs,
    epochs: async ({ id }, _, ctx) => (await ctx.loaders.load(epochsByRun, id)) ?? [],
    modelVersion: ({ tenantId, versionId }, _, ctx) =>
      versionId === null ? null : ctx.read((tx) => ctx.catalog.findModelVersion(tx, tenantId, versionId)),
    evaluation: async ({ versionId }, _, ctx) =>
      versionId === null ? null : ((await ctx.loaders.load(evaluationsByVersion, versionId))?.at(-1) ?? null),
    deployments: async ({ id }, _, ctx) => (await ctx.loaders.load(deploymentsByRun, id)) ?? [],
  },
  ModelVersion: {
    evaluations: async ({ id }, _, ctx) => (await ctx.loaders.load(evaluationsByVersion, id)) ?? [],
    optimization: ({ id }, _, ctx) => ctx.loaders.load(optimisationsByVersion, id),
  },
  Evaluation: {
    rows: ({ figures }) => figures.rows,
    classification: ({ figures }) => {
      if (figures.kind !== 'CLASSES') return null;
      const { classes, recall, precision } = figures;
      const named = classes.map((name, index) => ({ name, recall: recall[index] ?? null, precision: precision[index] ?? null }));
      return { ...figures, classes: named };
    },
    regression: ({ figures }) => (figures.kind === 'NUMBERS' ? figures : null),
  },
  Optimization: {
    id: ({ id }) => globalId('Optimization', id),
    source: ({ sourceVersionId }, _, ctx) =>
      ctx.read((tx) => ctx.catalog.findModelVersion(tx, ctx.principal?.tenantId ?? null, sourceVersionId)),
    work: ({ id }, _, ctx) => ctx.loaders.load(worksByIds, id),
    modelVersion: ({ versionId }, _, ctx) =>
      versionId === null ? null : ctx.read((tx) => ctx.catalog.findModelVersion(tx, ctx.principal?.tenantId ?? null, versionId)),
    report: ({ outcome }) => {
      if (outcome === null) return null;
      const { report, sourceMetric, metric, promotable, reasons, notes } = outcome;
      return {
        sourceSizeBytes: String(report.sizeBytes.source),
        sizeBytes: String(report.sizeBytes.optimised),
        latencies: report.latency.map(({ batch, sourceMs, optimisedMs }) => ({ rows: batch, sourceMs, ms: optimisedMs })),
        differences: report.difference,
        agreements: report.agreement,
        sourceMetric,
        metric,
        promotable,
        reasons: [...reasons, ...notes],
      };
    },
  },
  DeploymentRule: {
    id: ({ id }) => globalId('DeploymentRule', id),
    model: async ({ tenantId, modelId }, _, ctx) => there(await ctx.read((tx) => ctx.catalog.findModel(tx, tenantId, modelId))),
  },
  Deployment: {
    id: ({ id }) => globalId('Deployment', id),
    alias: ({ rule }) => rule.alias,
    work: async ({ id }, _, ctx) => there(await ctx.loaders.load(worksByIds, id)),
    optimizations: async ({ id }, _, ctx) => (await ctx.loaders.load(optimisationsByDeployment, id)) ?? [],
    promoted: ({ tenantId, versionId }, _, ctx) =>
      versionId === null ? null : ctx.read((tx) => ctx.catalog.findModelVersion(tx, tenantId, versionId)),
  },
} satisfies Resolvers;

/** What the fields of LiveQuery are told by. */
export const live = {
  trainingRun: { topic: WORK, subject: ({ id }: { id: string }) => idOf('TrainingRun', id), hasEnded },
};
