import { authorize, authorizeOperator, type Principal, type Scope } from '../access/access.ts';
import { MercatoError } from '../base/errors.ts';
import { globalId, type NodeType, pageRequest, parseGlobalId } from '../base/ids.ts';
import type { Resolvers } from '../generated/schema.ts';
import {
  aliasesByModel,
  checksOfVersions,
  type DeviceStatus,
  type HostedVersion,
  type ModelVersionView,
  type RunEstimate,
  type SeenOn,
  strikeReports,
  suspensionsByVersion,
  versionsByModel,
} from './catalog.ts';

type Caller = { principal: Principal | null };

const viewerOf = ({ principal }: Caller) => principal?.tenantId ?? null;
const tenantOf = ({ principal }: Caller, scope: Scope) => authorize(principal, scope).tenantId;

const isPublisher = ({ principal }: Caller, { tenantId }: ModelVersionView) =>
  principal?.tenantId === tenantId && principal.scopes.has('model:read');

const isOpen = ({ state }: ModelVersionView) => state === 'DRAFT' || state === 'CHECKED';

/** Whose versions a caller may load: the operator anybody's. */
const ownerOf = ({ principal }: Caller, scope: Scope) => (principal?.isOperator ? null : authorize(principal, scope).tenantId);

/** Who moves an alias. */
const moverOf = ({ principal }: Caller) => ({ userId: principal?.userId ?? null, apiKeyId: principal?.apiKeyId ?? null });

/** What is no id of this type names no object of it. */
function idOf(type: NodeType, text: string): string {
  const parsed = parseGlobalId(text);
  if (parsed?.type !== type) throw new MercatoError('NOT_FOUND');
  return parsed.id;
}

function sumOf(deployment: HostedVersion['deployment'], key: 'memoryBytes' | 'queued' | 'running'): number {
  return deployment?.replicas.reduce((sum, replica) => sum + replica[key], 0) ?? 0;
}

function shownEstimate({ activationBytes, weightBytes, ...estimate }: RunEstimate) {
  const peak = activationBytes === null || weightBytes === null ? null : BigInt(activationBytes) + BigInt(weightBytes);
  const shown = (bytes: number | bigint | null) => bytes?.toString() ?? null;
  return { ...estimate, activationBytes: shown(activationBytes), weightBytes: shown(weightBytes), peakMemoryBytes: shown(peak) };
}

const shownDevice = ({ device, hardware, memoryBytes, memoryBytesMax }: DeviceStatus) => ({
  name: device,
  hardware,
  memoryBytes: String(memoryBytes),
  memoryBytesMax: String(memoryBytesMax),
});

function fallbackFindings(profile: ModelVersionView['profile']): string[] {
  const nameOf = ({ device, hardware }: SeenOn) => (hardware === undefined ? device : `${device} (${hardware})`);
  const ran = profile?.verifiedOn[0] ?? profile;
  return profile?.fallbacks?.map((one) => `It does not run on ${nameOf(one)}, but on ${ran && nameOf(ran)}: ${one.fault}`) ?? [];
}

export const resolvers = {
  Query: {
    models: (_, args, ctx) => {
      const page = pageRequest(args);
      return ctx.read((tx) => ctx.catalog.models(tx, viewerOf(ctx), args.search ?? null, page));
    },
    model: (_, { handle }, ctx) => ctx.read((tx) => ctx.catalog.model(tx, viewerOf(ctx), handle)),
    ownModels: (_, args, ctx) => {
      const tenantId = tenantOf(ctx, 'model:read');
      const page = pageRequest(args);
      return ctx.read((tx) => ctx.catalog.ownModels(tx, tenantId, page));
    },
    subscriptions: (_, args, ctx) => {
      const tenantId = tenantOf(ctx, 'subscription:read');
      const page = pageRequest(args);
      return ctx.read((tx) => ctx.catalog.subscriptions(tx, tenantId, page));
    },
    estimateRun: (_, { modelVersionId, inputs }, ctx) => {
      const tenantId = tenantOf(ctx, 'model:read');
      const versionId = idOf('ModelVersion', modelVersionId);
      return ctx.apart(async () => shownEstimate(await ctx.catalog.estimateRun(tenantId, versionId, inputs)));
    },
    deployments: (_, __, ctx) => {
      const owner = ownerOf(ctx, 'model:read');
      return ctx.apart(() => ctx.catalog.deployments.list(owner));
    },
    devices: (_, __, ctx) => {
      authorizeOperator(ctx.principal);
      return ctx.apart(async () => (await ctx.catalog.deployments.devices()).map(shownDevice));
    },
  },
  Mutation: {
    createModel: async (_, { input }, ctx) => ({ model: await ctx.catalog.createModel(tenantOf(ctx, 'model:write'), input) }),
    createUpload: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'model:write');
      const key = input?.idempotencyKey ?? null;
      const made = key === null ? ctx.catalog.createUpload(tenantId) : ctx.catalog.createUploadOnce(tenantId, key);
      const { upload, url, maxSizeBytes } = await made;
      return { upload, url, maxSizeBytes: String(maxSizeBytes) };
    },
    createModelVersion: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'model:write');
      const ids = { modelId: idOf('Model', input.modelId), uploadId: idOf('Upload', input.uploadId) };
      return { modelVersion: await ctx.catalog.createModelVersion(tenantId, { ...input, ...ids }) };
    },
    publishListing: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'listing:publish');
      const modelId = idOf('Model', input.modelId);
      const { modelVersionId: version = null, plans, summary = null, tags = null } = input;
      const modelVersionId = version === null ? null : idOf('ModelVersion', version);
      return { model: await ctx.catalog.publishListing(tenantId, { modelId, modelVersionId, plans, summary, tags }, moverOf(ctx)) };
    },
    promoteVersion: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'listing:publish');
      const versionId = idOf('ModelVersion', input.versionId);
      return { model: await ctx.catalog.promoteVersion(tenantId, { versionId, alias: input.alias }, moverOf(ctx)) };
    },
    rollbackVersion: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'listing:publish');
      const modelId = idOf('Model', input.modelId);
      return { model: await ctx.catalog.rollbackVersion(tenantId, { modelId, alias: input.alias }, moverOf(ctx)) };
    },
    deleteAlias: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'listing:publish');
      const modelId = idOf('Model', input.modelId);
      return { model: await ctx.catalog.deleteAlias(tenantId, { modelId, alias: input.alias }, moverOf(ctx)) };
    },
    loadModelVersion: async (_, { input }, ctx) => {
      const owner = ownerOf(ctx, 'model:write');
      return { hostedVersion: await ctx.catalog.deployments.load(owner, idOf('ModelVersion', input.modelVersionId)) };
    },
    unloadModelVersion: async (_, { input }, ctx) => {
      const owner = ownerOf(ctx, 'model:write');
      return { hostedVersion: await ctx.catalog.deployments.unload(owner, idOf('ModelVersion', input.modelVersionId)) };
    },
    pinModelVersion: async (_, { input }, ctx) => {
      authorizeOperator(ctx.principal);
      return { hostedVersion: await ctx.catalog.deployments.pin(idOf('ModelVersion', input.modelVersionId), input.pinned) };
    },
    scaleModelVersion: async (_, { input }, ctx) => {
      const owner = ownerOf(ctx, 'model:write');
      return { hostedVersion: await ctx.catalog.deployments.scale(owner, idOf('ModelVersion', input.modelVersionId), input) };
    },
    subscribe: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'subscription:write');
      return { subscription: await ctx.catalog.subscribe(tenantId, idOf('Plan', input.planId)) };
    },
    cancelSubscription: async (_, { input }, ctx) => {
      const tenantId = tenantOf(ctx, 'subscription:write');
      return { subscription: await ctx.catalog.cancelSubscription(tenantId, idOf('Subscription', input.id)) };
    },
  },
  HostedVersion: {
    modelVersion: ({ version }) => version,
    state: ({ deployment }) => deployment?.state ?? 'UNLOADED',
    failure: ({ deployment }) => deployment?.failure ?? null,
    device: ({ deployment }) => deployment?.replicas[0]?.device ?? null,
    pinned: ({ version }) => version.pinned,
    minReplicas: ({ version }) => version.minReplicas,
    maxReplicas: ({ version }) => version.maxReplicas,
    memoryBytes: ({ deployment }) => sumOf(deployment, 'memoryBytes').toString(),
    queued: ({ deployment }) => sumOf(deployment, 'queued'),
    running: ({ deployment }) => sumOf(deployment, 'running'),
    answered: ({ deployment }) => String(deployment?.answered ?? 0),
    overloaded: ({ deployment }) => String(deployment?.overloaded ?? 0),
    late: ({ deployment }) => String(deployment?.late ?? 0),
    failed: ({ deployment }) => String(deployment?.failed ?? 0),
    leftDevices: ({ deployment }) => deployment?.left.map(({ device, forMs }) => ({ device, until: new Date(Date.now() + forMs) })) ?? [],
    replicas: ({ deployment }) =>
      deployment?.replicas.map((replica) => ({ ...replica, memoryBytes: replica.memoryBytes.toString() })) ?? [],
  },
  Model: {
    id: (model) => globalId('Model', model.id),
    signature: (model) => model.version?.signature ?? null,
    versions: async (model, _, ctx) => (await ctx.loaders.load(versionsByModel, model.id)) ?? [],
    aliases: async (model, _, ctx) => (await ctx.loaders.load(aliasesByModel, model.id)) ?? [],
  },
  ModelAlias: {
    version: async ({ versionId }, _, ctx) => {
      const version = await ctx.read((tx) => ctx.catalog.findModelVersion(tx, viewerOf(ctx), versionId));
      if (version === null) throw new Error('an alias without its version');
      return version;
    },
  },
  ModelVersion: {
    id: (version) => globalId('ModelVersion', version.id),
    sizeBytes: (version) => version.sizeBytes.toString(),
    inspection: ({ contents, batchFinding, profile }) => {
      if (contents === null) return null;
      const { parameters, findings, estimates, ...rest } = contents;
      return {
        ...rest,
        parameters: String(parameters),
        findings: [...findings, ...(batchFinding === null ? [] : [batchFinding]), ...fallbackFindings(profile)],
        estimates: estimates.map(shownEstimate),
      };
    },
    profile: ({ profile, sampleCount }) =>
      profile && {
        ...profile,
        partlyOnCpu: profile.partlyOnCpu ?? false,
        measuredAt: new Date(profile.measuredAt),
        peakMemoryBytes: String(profile.peakMemoryBytes),
        peakDeviceBytes: profile.peakOnDevice ? String(profile.peakOnDevice.bytes) : null,
        fixedRows: profile.fixedRows?.rows ?? null,
        verifiedOn: sampleCount === 0 ? [] : profile.verifiedOn.map(({ hardware = null, ...one }) => ({ ...one, hardware })),
      },
    check: (version, _, ctx) => (isPublisher(ctx, version) && isOpen(version) ? ctx.loaders.load(checksOfVersions, version.id) : null),
    suspension: (version, _, ctx) => ctx.loaders.load(suspensionsByVersion, version.id),
    strikes: (version, _, ctx) => (isPublisher(ctx, version) ? ctx.loaders.load(strikeReports, version.id) : null),
  },
  Suspension: { everyone: ({ consumerTenantId }) => consumerTenantId === null },
  Plan: {
    id: (plan) => globalId('Plan', plan.id),
    version: (plan) => plan.number,
    unitPrice: ({ terms }) => ({ nanos: terms.unitPriceNanos, currency: terms.currency }),
    freeUnitsPerMonth: ({ terms }) => terms.freeUnits.toString(),
    quotaUnitsPerMonth: ({ terms }) => terms.quotaUnits?.toString() ?? null,
    requestsPerMinute: ({ terms }) => terms.requestsPerMinute,
    burst: ({ terms }) => terms.burst,
    priority: ({ terms }) => terms.priority,
    alias: ({ terms }) => terms.alias,
  },
  Subscription: { id: (subscription) => globalId('Subscription', subscription.id) },
  Upload: {
    id: (upload) => globalId('Upload', upload.id),
    sizeBytes: (upload) => upload.sizeBytes?.toString() ?? null,
  },
} satisfies Resolvers;
