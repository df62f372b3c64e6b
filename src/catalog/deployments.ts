import type { Invalidations } from '../access/access.ts';
import { asSystem, asTenant, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ModelVersion } from '../generated/prisma/client.ts';
import type { Deployment, Inference } from '../inference/inference.ts';
import { found } from './models.ts';
import { runnable } from './runnable.ts';
import { type ModelVersionView, toVersionView } from './views.ts';

/** A version, and what of it runs on this host; `deployment` null: nothing does. */
export type HostedVersion = { version: ModelVersionView; deployment: Deployment | null };

/** Whose versions: a publisher's tenant, or null, all, for the operator. */
type Owner = string | null;

export type Deployments = {
  /** What is loaded, or being loaded, on the host of this process. */
  list(owner: Owner): Promise<HostedVersion[]>;
  /** Loads a version before anybody calls it. NOT_FOUND, CONFLICT (not READY), OVERLOADED, MODEL_FAILED. */
  load(owner: Owner, versionId: string): Promise<HostedVersion>;
  /** Ends its runners once they have answered; the next call loads it again. NOT_FOUND, CONFLICT (pinned, and not asked by the operator). */
  unload(owner: Owner, versionId: string): Promise<HostedVersion>;
  /**
   * Keeps a version loaded on every host, also after a restart, and loads it; or lets it go like others. Returns when every live process keeps to it, and
   * it is loaded here. NOT_FOUND, CONFLICT (not READY), and as `load`.
   */
  pin(versionId: string, pinned: boolean): Promise<HostedVersion>;
  /** Loads what is pinned. */
  start(): Promise<void>;
};

type DeploymentOptions = {
  db: Database;
  inference: Inference;
  invalidations: Pick<Invalidations, 'on' | 'publish' | 'confirmed'>;
  log: Log;
};

export function createDeployments({ db, inference, invalidations, log }: DeploymentOptions): Deployments {
  /** The system sees every version; a tenant its own. */
  function versionsOf(owner: Owner, ids: readonly string[]): Promise<ModelVersionView[]> {
    const where = { id: { in: [...ids] } };
    if (owner === null) return asSystem(db, (tx) => views(tx, tx.modelVersion.findMany({ where })));
    return asTenant(db, owner, (tx) => views(tx, tx.modelVersion.findMany({ where: { ...where, tenantId: owner } })));
  }

  async function ready(owner: Owner, versionId: string): Promise<ModelVersionView> {
    const version = found((await versionsOf(owner, [versionId]))[0] ?? null);
    if (version.state === 'READY') return version;
    throw new MercatoError('CONFLICT', 'Only a READY version can be loaded.', { given: version.state });
  }

  async function hosted(version: ModelVersionView): Promise<HostedVersion> {
    const { deployments } = await inference.status();
    return { version, deployment: deployments.find(({ versionId }) => versionId === version.id) ?? null };
  }

  async function loadVersion(version: ModelVersionView): Promise<void> {
    if (version.signature !== null) await inference.load(runnable(version, version.signature));
  }

  /** Does here what the database says of a version's pin; loading goes on by itself. */
  async function follow(version: ModelVersionView): Promise<void> {
    await inference.pin(version.id, version.pinned);
    if (!version.pinned || version.state !== 'READY') return;
    loadVersion(version).catch((error: unknown) => log.error({ err: error, handle: version.handle }, 'a pinned version was not loaded'));
  }

  invalidations.on('pin', async (versionId) => {
    for (const version of await versionsOf(null, [versionId])) await follow(version);
  });

  return {
    async list(owner) {
      const { deployments } = await inference.status();
      const byId = new Map(deployments.map((deployment) => [deployment.versionId, deployment]));
      const versions = await versionsOf(owner, [...byId.keys()]);
      const listed = versions.map((version) => ({ version, deployment: byId.get(version.id) ?? null }));
      return listed.toSorted((a, b) => a.version.handle.localeCompare(b.version.handle));
    },
    async load(owner, versionId) {
      const version = await ready(owner, versionId);
      await loadVersion(version);
      return hosted(version);
    },
    async unload(owner, versionId) {
      const version = found((await versionsOf(owner, [versionId]))[0] ?? null);
      if (version.pinned && owner !== null) {
        throw new MercatoError('CONFLICT', 'The operator has pinned the version: it stays loaded.', { field: 'modelVersionId' });
      }
      await inference.unload(versionId);
      return hosted(version);
    },
    async pin(versionId, pinned) {
      const version = await ready(null, versionId);
      const seq = await asTenant(db, version.tenantId, async (tx) => {
        await tx.modelVersion.update({ where: { id: versionId }, data: { pinned } });
        return invalidations.publish(tx, 'pin', [versionId]);
      });
      await invalidations.confirmed(seq);
      if (pinned) await loadVersion(version);
      return hosted({ ...version, pinned });
    },
    async start() {
      const pinned = await asSystem(db, (tx) => views(tx, tx.modelVersion.findMany({ where: { pinned: true, state: 'READY' } })));
      for (const version of pinned) await follow(version);
    },
  };
}

async function views(tx: Tx, rows: Promise<ModelVersion[]>): Promise<ModelVersionView[]> {
  const versions = await rows;
  const listings = await tx.listing.findMany({ where: { modelId: { in: versions.map(({ modelId }) => modelId) } } });
  const handles = new Map(listings.map(({ modelId, handle }) => [modelId, handle]));
  return versions.map((version) => toVersionView(version, handles.get(version.modelId) ?? ''));
}
