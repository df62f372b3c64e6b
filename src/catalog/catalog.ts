import type { Readable } from 'node:stream';
import type { Principal } from '../access/access.ts';
import type { Tx } from '../base/database.ts';
import type { Connection, PageRequest } from '../base/ids.ts';
import { aliasTarget, createAliases, type Mover } from './aliases.ts';
import { createChecks } from './checks.ts';
import { createDeployments, type Deployments } from './deployments.ts';
import { createEntitlements, type Entitlement } from './entitlements.ts';
import { createEstimates, type EstimateRun } from './estimates.ts';
import { importShipped } from './imports.ts';
import * as listings from './listings.ts';
import * as models from './models.ts';
import type { Stored } from './store.ts';
import * as subscriptions from './subscriptions.ts';
import { createSuspensions, type Suspensions } from './suspensions.ts';
import { createUploads } from './uploads.ts';
import type { CheckOptions } from './verifications.ts';
import { addVersion, createVersion, takeUpload, type VersionInput } from './versions.ts';
import type { ModelVersionView, ModelView, PlanView, SubscriptionView, UploadView } from './views.ts';

export type { DeviceStatus, RunEstimate, SeenOn } from '../inference/inference.ts';
export { aliasesByModel } from './aliases.ts';
export { checksOfVersions } from './check-progress.ts';
export type { HostedVersion } from './deployments.ts';
export type { Entitlement } from './entitlements.ts';
export type { PlanInput } from './input.ts';
export { parseAlias } from './input.ts';
export type { CheckVersion, JobData, Jobs, Queue } from './jobs.ts';
export { versionsByModel } from './models.ts';
export { rejectedAs } from './rejections.ts';
export { createDirectoryStore, type ModelStore } from './store.ts';
export { strikeReports } from './strike-reports.ts';
export { suspensionsByVersion } from './suspensions.ts';
export { isOwnStore, sweepFiles, sweepKeys } from './sweep.ts';
export type { VersionInput } from './versions.ts';
export type { ModelVersionView, ModelView, PlanTerms, PlanView, SubscriptionView, UploadView } from './views.ts';

type NewFile = { modelId: string; file: Stored; like?: Pick<ModelVersionView, 'maxBatchRows' | 'runLimitMs' | 'deadlineMs'> };

export type CatalogOptions = CheckOptions & {
  /** ISO 4217; plans are priced in it. */
  currency: string;
  /** Where uploads go, `https://host/uploads` without a slash at the end; asked for when needed, since a free port is known only then. */
  uploadsUrl(): string;
};

/**
 * Models, versions, listings, plans and subscriptions. Functions with `tx` read as `tenantId` (null: nobody, who sees the public catalogue), which
 * must be the transaction's; the others open their own transactions. What the tenant may not see is absent. Input is checked before
 * anything is looked up, and a field at fault is named.
 */
export type Catalog = AsyncDisposable & {
  /** Starts checking versions, those that are enqueued and every minute those that lost their job, and loads what stays loaded. */
  start(): Promise<void>;

  /** Published models that match every word of `search` (at most 200 characters), best first; without words, newest first. BAD_USER_INPUT. */
  models(tx: Tx, tenantId: string | null, search: string | null, page: PageRequest): Promise<Connection<ModelView>>;
  /** The model with a handle `tenant/name`; null where there is none to see. */
  model(tx: Tx, tenantId: string | null, handle: string): Promise<ModelView | null>;
  ownModels(tx: Tx, tenantId: string, page: PageRequest): Promise<Connection<ModelView>>;
  /** As a consumer, newest first. */
  subscriptions(tx: Tx, tenantId: string, page: PageRequest): Promise<Connection<SubscriptionView>>;
  findModel(tx: Tx, tenantId: string | null, id: string): Promise<ModelView | null>;
  findModelVersion(tx: Tx, tenantId: string | null, id: string): Promise<ModelVersionView | null>;
  /** By a plan version's id. */
  findPlan(tx: Tx, tenantId: string | null, id: string): Promise<PlanView | null>;
  findSubscription(tx: Tx, tenantId: string | null, id: string): Promise<SubscriptionView | null>;
  /**
   * What a run of a version would take on inputs of these shapes, by its file alone. NOT_FOUND, CONFLICT (not READY), BAD_USER_INPUT (a call with
   * such inputs would be refused), OVERLOADED.
   */
  estimateRun: EstimateRun;
  findUpload(tx: Tx, tenantId: string | null, id: string): Promise<UploadView | null>;

  /** BAD_USER_INPUT (`name`, `summary`, `tags`), CONFLICT. */
  createModel(tenantId: string, input: models.ModelInput): Promise<ModelView>;
  /** `url` takes the file once, by PUT, within LIMITS.uploadLifetimeMs; `maxSizeBytes` bounds it. */
  createUpload(tenantId: string): Promise<{ upload: UploadView; url: string; maxSizeBytes: number }>;
  /** As `createUpload`, once for a key: a retry answers the same object, its URL null. BAD_USER_INPUT (the key's form). */
  createUploadOnce(tenantId: string, idempotencyKey: string): Promise<{ upload: UploadView; url: string | null; maxSizeBytes: number }>;
  /**
   * Takes the file of an upload. NOT_FOUND (unknown, expired or used token, alike), CONFLICT (another is being sent now), PAYLOAD_TOO_LARGE,
   * BAD_USER_INPUT (empty). A failed one leaves the upload open.
   */
  receiveUpload(token: string, body: Readable): Promise<UploadView>;
  /**
   * A version of the upload's bytes; the same bytes in the same model give the version that there is, as it is. Waits up to 30 s for READY or
   * REJECTED. BAD_USER_INPUT (`maxBatchRows` 1–4096, `runLimitMs`, `deadlineMs` 1–60000), NOT_FOUND (model, upload), CONFLICT (no file yet,
   * or used for another model), OVERLOADED (20 of the tenant's versions wait for their check).
   */
  createModelVersion(tenantId: string, input: VersionInput): Promise<ModelVersionView>;
  /** Returns when every server process knows. BAD_USER_INPUT, NOT_FOUND (model, version), CONFLICT (the version is not READY). */
  publishListing(tenantId: string, input: listings.PublishInput, by?: Mover): Promise<ModelView>;
  /**
   * Moves an alias of the model to one of its READY versions, which is loaded first; it returns when every server process knows, and calls in flight on the
   * version before it are answered by that. BAD_USER_INPUT (`alias`), NOT_FOUND, CONFLICT (not READY).
   */
  promoteVersion(tenantId: string, input: { versionId: string; alias: string }, by: Mover): Promise<ModelView>;
  /**
   * Moves an alias back to what it pointed to before the newest promotion that was not undone yet; once more goes further back. BAD_USER_INPUT
   * (`alias`), NOT_FOUND (model), CONFLICT (nothing was there before).
   */
  rollbackVersion(tenantId: string, input: { modelId: string; alias: string }, by: Mover): Promise<ModelView>;
  /** BAD_USER_INPUT (`alias`: a name that cannot be one, or `live`), NOT_FOUND (model, alias), CONFLICT (a plan on offer sells it). */
  deleteAlias(tenantId: string, input: { modelId: string; alias: string }, by: Mover): Promise<ModelView>;
  /** The version that an alias of an own model points to; null: there is no such alias. */
  aliasTarget(tx: Tx, tenantId: string, modelId: string, alias: string): Promise<string | null>;
  /** The file of an upload, used up; `taken` false: it was used before, as a retry may find it. NOT_FOUND, CONFLICT (no file yet). */
  takeUpload(tx: Tx, tenantId: string, uploadId: string): Promise<{ file: Stored; taken: boolean }>;
  /**
   * A version of a file that is in the store, bounded like another where one is given, through the same gate as an upload. The same bytes give the version
   * that there is. NOT_FOUND (model).
   */
  addVersion(tenantId: string, input: NewFile): Promise<ModelVersionView>;
  /** Under a plan version's id. NOT_FOUND, CONFLICT (own model, retired or superseded plan, subscribed already). */
  subscribe(tenantId: string, planVersionId: string): Promise<SubscriptionView>;
  /** Returns when no server process accepts calls under it. Cancelling twice is the same. NOT_FOUND. */
  cancelSubscription(tenantId: string, id: string): Promise<SubscriptionView>;

  /**
   * What lets a tenant call `tenant/name` or `tenant/name@version`: from memory, and then at once and the same object each time, where it is
   * known and this process is in touch with the database. BAD_USER_INPUT (`model`), NOT_FOUND, NOT_SUBSCRIBED.
   */
  entitlement(principal: Pick<Principal, 'tenantId'>, model: string): Entitlement | Promise<Entitlement>;

  suspensions: Suspensions;
  deployments: Deployments;

  /**
   * Puts `model.onnx` of a local folder through the same gate, as a version of the tenant's model `name`, made where there is none. The
   * operator vouches for it: tenants may share its batches. Doing it again is the same.
   */
  importShipped(tenantId: string, name: string, dir: string): Promise<ModelVersionView>;
};

export function createCatalog(options: CatalogOptions): Catalog {
  const { db, invalidations } = options;
  const uploads = createUploads(options);
  const checks = createChecks(options);
  const entitlements = createEntitlements(options);
  const aliases = createAliases(options);
  const deployments = createDeployments(options);
  return {
    async start() {
      await checks.start();
      await deployments.start();
    },
    models: models.listModels,
    model: models.modelByHandle,
    ownModels: models.ownModels,
    subscriptions: subscriptions.ownSubscriptions,
    findModel: models.findModel,
    findModelVersion: models.findModelVersion,
    findPlan: models.findPlan,
    findSubscription: subscriptions.findSubscription,
    estimateRun: createEstimates(options),
    findUpload: uploads.find,
    createModel: (tenantId, input) => models.createModel(db, tenantId, input),
    createUpload: uploads.create,
    createUploadOnce: uploads.createOnce,
    receiveUpload: uploads.receive,
    createModelVersion: (tenantId, input) => createVersion(db, checks, tenantId, input),
    publishListing: (tenantId, input, by = {}) => listings.publishListing(options, tenantId, input, by),
    promoteVersion: aliases.promote,
    rollbackVersion: aliases.rollback,
    deleteAlias: aliases.remove,
    aliasTarget,
    takeUpload,
    addVersion: (tenantId, input) => addVersion(db, checks, tenantId, input),
    subscribe: (tenantId, planVersionId) => subscriptions.subscribe(db, invalidations, tenantId, planVersionId),
    cancelSubscription: (tenantId, id) => subscriptions.cancelSubscription(db, invalidations, tenantId, id),
    entitlement: entitlements.of,
    suspensions: createSuspensions(options),
    deployments,
    importShipped: (tenantId, name, dir) => importShipped(options, checks, tenantId, name, dir),
    [Symbol.asyncDispose]: checks.stop,
  };
}
