import type { Scope } from '../../src/access/access.ts';
import { globalId } from '../../src/base/ids.ts';
import { cursor, global, type Ids, type Kind, TABLES } from './sweep-ids.ts';

/** The asking tenant's own things, where a foreign one is put beside them. */
export type Own = { modelId: string; uploadId: string; datasetId: string; email: string; password: string; counter: () => number };

export type Question = {
  field: string;
  /** Who may ask: a scope, or everybody, whoever has credentials, a signed-in person, the operator; `credentials`: what is sent decides. */
  scope: Scope | 'everybody' | 'anybody' | 'person' | 'operator' | 'credentials';
  /** Sets of variables with ids in them. The same function makes the questions about nothing, in the same order. */
  variables(ids: Ids, own: Own): Record<string, unknown>[];
  /** The operator may ask about everybody's. */
  operatorSees?: true;
  /** What the answer tells on purpose: names are unique on the marketplace, and who may ask makes something new. */
  differs?: true;
};

const plain = () => [{}];
const inputs = (list: Record<string, unknown>[]) => list.map((input) => ({ input }));
const pages =
  (...kinds: Kind[]) =>
  (ids: Ids) => [{ first: 100 }, ...kinds.flatMap((kind) => ids[kind].map((id) => ({ first: 100, after: cursor(id) })))];
const PLANS = [{ name: 'basic', unitPriceNanos: '1' }];
const TENSORS = [{ name: 'x', datatype: 'FP32', shape: [1, 3], data: [1, 2, 3] }];
const TRAINING = { targets: ['y'], layers: [{ dense: { units: 2, activation: 'SOFTMAX' } }], loss: 'SPARSE_CROSS_ENTROPY', epochs: 1 };
const ENTRY = '019a0000-0000-7000-8000-000000000001';
const KINDS = Object.keys(TABLES) as Kind[];
const day = (offset: number) => new Date(Date.now() + offset * 86_400_000).toISOString();

/** Every field of Query and Mutation, and what can be asked of it with foreign ids. */
export const QUESTIONS: Question[] = [
  { field: 'node', scope: 'everybody', variables: (ids) => KINDS.flatMap((kind) => global(kind, ids).map((id) => ({ id }))) },
  { field: 'viewer', scope: 'anybody', variables: plain },
  { field: 'apiKeys', scope: 'key:read', variables: pages('ApiKey') },
  {
    field: 'models',
    scope: 'everybody',
    variables: (ids) => [
      ...pages('Model')(ids),
      ...[...ids.handle, ...ids.tenantName].map((name) => ({ first: 100, search: name.split('/').at(-1) })),
    ],
  },
  {
    field: 'model',
    scope: 'everybody',
    variables: (ids) => [...ids.handle, ...ids.tenantName.map((name) => `${name}/model`)].map((handle) => ({ handle })),
  },
  { field: 'ownModels', scope: 'model:read', variables: pages('Model') },
  { field: 'subscriptions', scope: 'subscription:read', variables: pages('Subscription') },
  {
    field: 'usage',
    scope: 'usage:read',
    variables: () => ['DAY', 'MODEL', 'API_KEY'].map((groupBy) => ({ from: day(-2), to: day(2), groupBy })),
  },
  { field: 'usageLimits', scope: 'usage:read', variables: plain },
  { field: 'usageAlerts', scope: 'usage:read', variables: pages('UsageAlert') },
  { field: 'wallet', scope: 'billing:read', variables: plain },
  { field: 'transfers', scope: 'billing:read', variables: pages('Transfer') },
  { field: 'datasets', scope: 'model:read', variables: pages('Dataset') },
  {
    field: 'trainingRuns',
    scope: 'model:read',
    variables: (ids) => [...pages('TrainingRun')(ids), ...global('Model', ids).map((modelId) => ({ first: 100, modelId }))],
  },
  { field: 'deploymentRules', scope: 'model:read', variables: (ids) => global('Model', ids).map((modelId) => ({ modelId })) },
  { field: 'workUsage', scope: 'usage:read', variables: () => [{ from: day(-2), to: day(2) }] },

  {
    field: 'signUp',
    scope: 'credentials',
    differs: true,
    variables: ({ email, tenantName, key }, { password, counter }) =>
      inputs([
        ...email.map((taken) => ({ email: taken, password, tenantName: `new-${counter()}` })),
        ...key.map((idempotencyKey) => ({ email: email[0], password: `not ${password}`, tenantName: 'hidden', idempotencyKey })),
        ...tenantName.map((taken) => ({ email: `new-${counter()}@example.com`, password, tenantName: taken })),
      ]),
  },
  {
    field: 'signIn',
    scope: 'credentials',
    variables: ({ email, tenantName, key }, own) =>
      inputs([
        ...email.map((other) => ({ email: other, password: 'not the password' })),
        ...key.map((idempotencyKey) => ({ email: email[0], password: 'not the password', idempotencyKey })),
        ...tenantName.map((other) => ({ email: own.email, password: own.password, tenantName: other })),
      ]),
  },
  {
    field: 'refreshSession',
    scope: 'credentials',
    variables: ({ key }) => inputs(key.map((idempotencyKey) => ({ refreshToken: `mr_${'A'.repeat(43)}`, idempotencyKey }))),
  },
  { field: 'signOut', scope: 'credentials', variables: () => inputs([{ refreshToken: `mr_${'A'.repeat(43)}` }]) },
  { field: 'createTenant', scope: 'person', differs: true, variables: ({ tenantName }) => inputs(tenantName.map((name) => ({ name }))) },
  {
    field: 'switchTenant',
    scope: 'person',
    variables: (ids) =>
      inputs(global('Tenant', ids).flatMap((tenantId) => ids.key.map((idempotencyKey) => ({ tenantId, idempotencyKey })))),
  },
  {
    field: 'createApiKey',
    scope: 'key:write',
    differs: true,
    variables: ({ key }) =>
      inputs([
        { name: 'swept', scopes: ['key:write'] },
        ...key.map((idempotencyKey) => ({ name: 'swept', scopes: ['key:write'], idempotencyKey })),
      ]),
  },
  { field: 'revokeApiKey', scope: 'key:write', variables: (ids) => inputs(global('ApiKey', ids).map((id) => ({ id }))) },

  {
    field: 'createModel',
    scope: 'model:write',
    differs: true,
    variables: (_, { counter }) => inputs([{ name: `model-${counter()}` }]),
  },
  {
    field: 'createUpload',
    scope: 'model:write',
    differs: true,
    variables: ({ key }) => inputs(key.map((idempotencyKey) => ({ idempotencyKey }))),
  },
  {
    field: 'createModelVersion',
    scope: 'model:write',
    variables: (ids, own) =>
      inputs([
        ...global('Model', ids).map((modelId) => ({ modelId, uploadId: globalId('Upload', own.uploadId) })),
        ...global('Upload', ids).map((uploadId) => ({ modelId: globalId('Model', own.modelId), uploadId })),
      ]),
  },
  {
    field: 'publishListing',
    scope: 'listing:publish',
    variables: (ids, own) =>
      inputs([
        ...global('Model', ids).map((modelId) => ({ modelId, plans: PLANS })),
        ...global('ModelVersion', ids).map((modelVersionId) => ({ modelId: globalId('Model', own.modelId), modelVersionId, plans: PLANS })),
      ]),
  },
  {
    field: 'promoteVersion',
    scope: 'listing:publish',
    variables: (ids) => inputs(global('ModelVersion', ids).map((versionId) => ({ versionId }))),
  },
  { field: 'cancelPrediction', scope: 'model:predict', variables: ({ key }) => inputs(key.map((idempotencyKey) => ({ idempotencyKey }))) },
  {
    field: 'estimateRun',
    scope: 'model:read',
    variables: (ids) => global('ModelVersion', ids).map((modelVersionId) => ({ modelVersionId, inputs: [{ name: 'x', shape: [1, 3] }] })),
  },
  { field: 'deployments', scope: 'model:read', operatorSees: true, variables: plain },
  { field: 'devices', scope: 'operator', variables: plain },
  ...(['loadModelVersion', 'unloadModelVersion'] as const).map((field) => ({
    field,
    scope: 'model:write' as const,
    operatorSees: true as const,
    variables: (ids: Ids) => inputs(global('ModelVersion', ids).map((modelVersionId) => ({ modelVersionId }))),
  })),
  {
    field: 'scaleModelVersion',
    scope: 'model:write',
    operatorSees: true,
    variables: (ids) => inputs(global('ModelVersion', ids).map((modelVersionId) => ({ modelVersionId, maxReplicas: 2 }))),
  },
  {
    field: 'pinModelVersion',
    scope: 'operator',
    variables: (ids) => inputs(global('ModelVersion', ids).map((modelVersionId) => ({ modelVersionId, pinned: true }))),
  },
  { field: 'rollbackVersion', scope: 'listing:publish', variables: (ids) => inputs(global('Model', ids).map((modelId) => ({ modelId }))) },
  {
    field: 'deleteAlias',
    scope: 'listing:publish',
    variables: (ids) => inputs(global('Model', ids).map((modelId) => ({ modelId, alias: 'next' }))),
  },
  { field: 'subscribe', scope: 'subscription:write', variables: (ids) => inputs(global('Plan', ids).map((planId) => ({ planId }))) },
  {
    field: 'cancelSubscription',
    scope: 'subscription:write',
    variables: (ids) => inputs(global('Subscription', ids).map((id) => ({ id }))),
  },

  {
    field: 'createDataset',
    scope: 'model:write',
    variables: (ids) => inputs(global('Upload', ids).map((uploadId) => ({ name: 'swept', format: 'CSV', uploadId }))),
  },
  {
    field: 'createTrainingRun',
    scope: 'model:write',
    variables: (ids, own) =>
      inputs([
        ...global('Model', ids).map((modelId) => ({ ...TRAINING, modelId, datasetId: globalId('Dataset', own.datasetId) })),
        ...global('Dataset', ids).map((datasetId) => ({ ...TRAINING, modelId: globalId('Model', own.modelId), datasetId })),
        ...global('Dataset', ids).map((testDatasetId) => ({
          ...TRAINING,
          modelId: globalId('Model', own.modelId),
          datasetId: globalId('Dataset', own.datasetId),
          testDatasetId,
        })),
      ]),
  },
  { field: 'cancelTrainingRun', scope: 'model:write', variables: (ids) => inputs(global('TrainingRun', ids).map((id) => ({ id }))) },
  {
    field: 'optimizeVersion',
    scope: 'model:write',
    variables: (ids) => inputs(global('ModelVersion', ids).map((versionId) => ({ versionId, kind: 'FP16' }))),
  },
  {
    field: 'createDeploymentRule',
    scope: 'listing:publish',
    variables: (ids) => inputs(global('Model', ids).map((modelId) => ({ modelId }))),
  },
  {
    field: 'deleteDeploymentRule',
    scope: 'listing:publish',
    variables: (ids) => inputs(global('DeploymentRule', ids).map((id) => ({ id }))),
  },

  {
    field: 'createUsageLimit',
    scope: 'billing:write',
    variables: (ids) =>
      inputs(
        (['TENANT', 'SUBSCRIPTION', 'MEMBER', 'API_KEY'] as const).flatMap((subject) =>
          global(({ TENANT: 'Tenant', SUBSCRIPTION: 'Subscription', MEMBER: 'User', API_KEY: 'ApiKey' } as const)[subject], ids).map(
            (subjectId) => ({
              ...{ name: 'swept', window: 'DAY', amount: '1000000' },
              ...{ subject, subjectId },
            }),
          ),
        ),
      ),
  },
  {
    field: 'updateUsageLimit',
    scope: 'billing:write',
    variables: (ids) => inputs(global('UsageLimit', ids).map((id) => ({ id, amount: '9' }))),
  },
  { field: 'deleteUsageLimit', scope: 'billing:write', variables: (ids) => inputs(global('UsageLimit', ids).map((id) => ({ id }))) },

  {
    field: 'addCredit',
    scope: 'operator',
    variables: (ids) => {
      const credit = { amountNanos: '1', idempotencyKey: 'sweep' };
      return inputs([
        ...global('Tenant', ids).map((tenantId) => ({ ...credit, tenantId })),
        ...ids.tenantName.map((tenantName) => ({ ...credit, tenantName })),
      ]);
    },
  },
  { field: 'periods', scope: 'operator', variables: plain },
  {
    field: 'createTransfer',
    scope: 'operator',
    variables: (ids) => {
      const payout = { id: ENTRY, kind: 'PAYOUT', amountNanos: '1' };
      return inputs([
        ...global('Tenant', ids).map((tenantId) => ({ ...payout, tenantId })),
        ...ids.tenantName.map((tenantName) => ({ ...payout, tenantName })),
      ]);
    },
  },
  ...(['postTransfer', 'voidTransfer'] as const).map((field) => ({
    field,
    scope: 'operator' as const,
    variables: (ids: Ids) => inputs(global('Transfer', ids).map((pendingId) => ({ id: ENTRY, pendingId }))),
  })),
  {
    field: 'reverseTransfer',
    scope: 'operator',
    variables: (ids) => inputs(global('Transfer', ids).map((reversesId) => ({ id: ENTRY, reversesId }))),
  },
  { field: 'closePeriod', scope: 'operator', variables: () => inputs([{ period: '2026-01' }]) },

  {
    field: 'predict',
    scope: 'model:predict',
    variables: ({ handle, version, key }) =>
      inputs([
        ...handle.flatMap((model) => [
          { model, inputs: TENSORS },
          { model: `${model}@1`, inputs: TENSORS },
        ]),
        ...version.map((model) => ({ model, inputs: TENSORS })),
        ...key.map((idempotencyKey) => ({ model: 'corner-shop/sold', inputs: TENSORS, idempotencyKey })),
      ]),
  },
];
