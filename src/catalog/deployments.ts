import type { Invalidations } from '../access/access.ts';
import { asSystem, asTenant, type Database, type Tx } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ModelVersion, Prisma } from '../generated/prisma/client.ts';
import type { Deployment, DeviceStatus, Inference } from '../inference/inference.ts';
import { parseCount } from './input.ts';
import { found } from './models.ts';
import { devicesOf, runnable } from './runnable.ts';
import { type ModelVersionView, toVersionView } from './views.ts';

/** A version, and what of it runs on this host; `deployment` null: nothing does. */
export type HostedVersion = { version: ModelVersionView; deployment: Deployment | null };

type GivenBounds = { minReplicas?: number | null | undefined; maxReplicas?: number | null | undefined };

/** Whose versions: a publisher's tenant, or null, all, for the operator. */
type Owner = string | null;

export type Deployments = {
  /** What is loaded, or being loaded, on the host of this process. */
  list(owner: Owner): Promise<HostedVersion[]>;
  /** What works on the host of this process, in the order in which versions are tried there. */
  devices(): Promise<DeviceStatus[]>;
  /** Loads a version before anybody calls it. NOT_FOUND, CONFLICT (not READY), OVERLOADED, MODEL_FAILED. */
  load(owner: Owner, versionId: string): Promise<HostedVersion>;
  /** Ends its runners once they have answered; the next call loads it again. NOT_FOUND, CONFLICT (it stays loaded, and the operator does not ask). */
  unload(owner: Owner, versionId: string): Promise<HostedVersion>;
  /**
   * Keeps a version loaded on every host, also after a restart, and loads it; or lets it go like others. Returns when every live process keeps to it, and
   * it is loaded here. NOT_FOUND, CONFLICT (not READY), and as `load`.
   */
  pin(versionId: string, pinned: boolean): Promise<HostedVersion>;
  /**
   * Bounds its runners on every host; undefined: as it is, `maxReplicas` null: what the host allows. Returns when every live process keeps to it, and, where it has a
   * minimum, it is loaded here. BAD_USER_INPUT, NOT_FOUND, CONFLICT (not READY), FORBIDDEN (another minimum, not asked by the operator), and as `load`.
   */
  scale(owner: Owner, versionId: string, bounds: GivenBounds): Promise<HostedVersion>;
  /** Loads what stays loaded. */
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

  /** Does here what the database says of a version's devices and replicas; loading goes on by itself. */
  async function follow(version: ModelVersionView): Promise<void> {
    const bounds = boundsOf(version);
    await inference.setDevices(version.id, devicesOf(version));
    await inference.scale(version.id, bounds);
    if (bounds.min === 0 || version.state !== 'READY') return;
    loadVersion(version).catch((error: unknown) =>
      log.error({ err: error, handle: version.handle }, 'a version that stays loaded was not loaded'),
    );
  }

  /** Changes how a version is kept on all hosts, and loads it here where it stays loaded. */
  async function keep(version: ModelVersionView, change: Partial<Kept>): Promise<HostedVersion> {
    const { id } = version;
    const seq = await asTenant(db, version.tenantId, async (tx) => {
      await tx.modelVersion.update({ where: { id }, data: change });
      return invalidations.publish(tx, 'pin', [id]);
    });
    await invalidations.confirmed(seq);
    const kept = { ...version, ...change };
    if (boundsOf(kept).min > 0) await loadVersion(kept);
    return hosted(kept);
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
    async devices() {
      return (await inference.status()).memory;
    },
    async load(owner, versionId) {
      const version = await ready(owner, versionId);
      await loadVersion(version);
      return hosted(version);
    },
    async unload(owner, versionId) {
      const version = found((await versionsOf(owner, [versionId]))[0] ?? null);
      if (boundsOf(version).min > 0 && owner !== null) {
        throw new MercatoError('CONFLICT', 'The operator keeps the version loaded.', { field: 'modelVersionId' });
      }
      await inference.unload(versionId);
      return hosted(version);
    },
    async pin(versionId, pinned) {
      return keep(await ready(null, versionId), { pinned });
    },
    async scale(owner, versionId, given) {
      const version = await ready(owner, versionId);
      const minReplicas = parseCount('minReplicas', given.minReplicas, [0, REPLICAS_MAX]) ?? version.minReplicas;
      const maxReplicas =
        given.maxReplicas === undefined ? version.maxReplicas : parseCount('maxReplicas', given.maxReplicas, [1, REPLICAS_MAX]);
      if (owner !== null && minReplicas !== version.minReplicas) {
        throw new MercatoError('FORBIDDEN', 'Only the operator changes minReplicas: what stays loaded takes room from others.', {
          field: 'minReplicas',
        });
      }
      if (maxReplicas !== null && maxReplicas < minReplicas) {
        const expected = `at least minReplicas, ${minReplicas}`;
        throw badInput('maxReplicas', `maxReplicas is ${expected}.`, { given: String(maxReplicas), expected });
      }
      // Nothing that was not given, which somebody else may change meanwhile.
      return keep(version, {
        ...(given.minReplicas == null ? {} : { minReplicas }),
        ...(given.maxReplicas === undefined ? {} : { maxReplicas }),
      });
    },
    async start() {
      const where: Prisma.ModelVersionWhereInput = {
        state: 'READY',
        OR: [{ pinned: true }, { minReplicas: { gt: 0 } }, { maxReplicas: { not: null } }],
      };
      const kept = await asSystem(db, (tx) => views(tx, tx.modelVersion.findMany({ where })));
      for (const version of kept) await follow(version);
    },
  };
}

type Kept = Pick<ModelVersionView, 'pinned' | 'minReplicas' | 'maxReplicas'>;

/** As the database has it; a host may allow less. */
const REPLICAS_MAX = 64;

/** A pinned version has at least one replica. */
function boundsOf({ pinned, minReplicas, maxReplicas }: Kept): { min: number; max: number | null } {
  return { min: Math.max(minReplicas, pinned ? 1 : 0), max: maxReplicas };
}

async function views(tx: Tx, rows: Promise<ModelVersion[]>): Promise<ModelVersionView[]> {
  const versions = await rows;
  const listings = await tx.listing.findMany({ where: { modelId: { in: versions.map(({ modelId }) => modelId) } } });
  const handles = new Map(listings.map(({ modelId, handle }) => [modelId, handle]));
  return versions.map((version) => toVersionView(version, handles.get(version.modelId) ?? ''));
}
