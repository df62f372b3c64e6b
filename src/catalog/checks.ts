import { asSystem, asTenant, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { type ModelVersion, type ModelVersionState, Prisma } from '../generated/prisma/client.ts';
import type { Profile } from '../inference/inference.ts';
import { releaseFile } from './files.ts';
import type { CheckVersion } from './jobs.ts';
import { found } from './models.ts';
import { rejectionOf } from './rejections.ts';
import { type Checked, type CheckOptions, createVerifications, gateOf, type OpenVersion } from './verifications.ts';
import { type ModelVersionView, versionInclude, versionView } from './views.ts';

const SWEEP_MS = 60_000;
const SWEEP_MAX = 100;
/** One slow check leaves room for another, of another tenant; each has a whole model in memory. */
const CONCURRENCY = 2;
const PER_TENANT = 1;
/** How long a caller waits for the gate, and how often it looks where another process works. */
const PATIENCE_MS = 30_000;
const LOOK_MS = { first: 50, last: 2_000 };

export type Checks = {
  start(): Promise<void>;
  stop(): Promise<void>;
  /**
   * Puts a version through the gate; of one that is READY, and is asked for on grounds, it runs the samples again, and suspends it where it answers otherwise. What
   * is wrong with the model ends in REJECTED; anything else throws, and may be tried again, as where the grounds are another host's.
   */
  check(data: CheckVersion): Promise<void>;
  /** Asks for a check, by whichever process. `turn`: as a job's; absent: behind its tenant's older versions. */
  request(data: CheckVersion, turn?: number): Promise<void>;
  /** Lets go of a file that was brought for a version that has been rejected already. */
  release(sha256: string): Promise<void>;
  /** The version once it is READY or REJECTED and every process knows it, or as it is after 30 s. */
  settled(data: CheckVersion): Promise<ModelVersionView>;
};

export function createChecks({ db, store, inference, invalidations, jobs, processId, log }: CheckOptions): Checks {
  const waiting = new Map<string, Set<() => void>>();
  const verifications = createVerifications({ db, store, inference, invalidations, jobs, processId, log });
  let sweeping: NodeJS.Timeout | null = null;
  let stopped = false;

  async function check({ tenantId, versionId, grounds }: CheckVersion): Promise<void> {
    if (grounds !== undefined && !(await verifications.isHere(grounds))) throw new Error('the samples are to be answered on another host');
    const version = await asTenant(db, tenantId, (tx) =>
      tx.modelVersion.findFirst({ where: { id: versionId, tenantId }, include: { samples: true } }),
    );
    if (version !== null) await attempt(version, grounds !== undefined).catch((error: unknown) => putOff(versionId, error));
    for (const look of waiting.get(versionId) ?? []) look();
  }

  async function attempt(version: Checked, again: boolean): Promise<void> {
    if (isOpen(version.state)) {
      const verdict = await judge(version);
      // The runners end after the checks: what was found meanwhile may be their end, not the model.
      if (stopped) throw new Error('the checks were stopped; the version is checked again');
      await settle(version, verdict);
    } else if (again && version.state === 'READY' && version.sampleCount > 0) await verifications.verify(version);
  }

  function putOff(versionId: string, error: unknown): never {
    if (!stopped) log.warn({ err: error, versionId }, 'a check ended without a verdict; it is tried again');
    throw error;
  }

  async function judge(version: Checked): Promise<Prisma.ModelVersionUpdateManyMutationInput> {
    const bytes = await store.read(version.sha256);
    try {
      const { signature, profile, ...found } = await inference.inspect(bytes, gateOf(version), (contents) =>
        change(version, { state: 'CHECKED', contents }),
      );
      tellFallbacks(version, profile);
      const measured = { threads: profile.threads, profile: { ...profile, measuredAt: new Date().toISOString() } };
      return { state: 'READY', signature: signature as unknown as Prisma.InputJsonObject, ...found, ...measured };
    } catch (error) {
      if (!(error instanceof MercatoError) || error.code !== 'MODEL_REJECTED') throw error;
      return { state: 'REJECTED', rejection: rejectionOf(error) };
    }
  }

  function tellFallbacks({ id }: ModelVersion, { device, fallbacks }: Pick<Profile, 'device' | 'fallbacks'>): void {
    for (const { device: failed, fault } of fallbacks)
      log.warn({ versionId: id, device: failed, fault, next: device }, 'a device does not run a model; it stays on the next');
  }

  async function change({ id, tenantId }: ModelVersion, data: Prisma.ModelVersionUpdateManyMutationInput): Promise<void> {
    await asTenant(db, tenantId, (tx) => tx.modelVersion.updateMany({ where: { id, tenantId, state: { in: [...OPEN] } }, data }));
  }

  /** The owner's calls of a model that is not published yet go to its newest READY version: a new one makes processes forget. */
  async function settle({ id, tenantId, modelId, sha256 }: ModelVersion, data: Prisma.ModelVersionUpdateManyMutationInput): Promise<void> {
    const seq = await asTenant(db, tenantId, async (tx) => {
      await tx.modelVersion.updateMany({ where: { id, tenantId, state: { in: [...OPEN] } }, data });
      const listing = await tx.listing.findUniqueOrThrow({ where: { modelId, publisherTenantId: tenantId } });
      return invalidations.publish(tx, 'listing', [listing.id]);
    });
    if (data.state === 'REJECTED') await release(sha256);
    log.debug({ versionId: id, state: data.state }, 'checked a model version');
    await invalidations.confirmed(seq);
  }

  /** That its file could not be deleted must not bring a rejected version back to the gate. */
  async function release(sha256: string): Promise<void> {
    await releaseFile(db, store, sha256).catch((error: unknown) => log.error({ err: error, sha256 }, 'a rejected file stays in the store'));
  }

  async function request(data: CheckVersion, turn?: number): Promise<void> {
    await asSystem(db, (tx) => enqueueOpen(tx, Prisma.sql`id = ${data.versionId}::uuid`, turn));
    jobs.wake('check-version');
  }

  async function settled({ tenantId, versionId }: CheckVersion): Promise<ModelVersionView> {
    const endMs = performance.now() + PATIENCE_MS;
    for (let lookMs = LOOK_MS.first; ; lookMs = Math.min(2 * lookMs, LOOK_MS.last)) {
      const row = await asTenant(db, tenantId, (tx) =>
        tx.modelVersion.findFirst({ where: { id: versionId, tenantId }, include: versionInclude }),
      );
      const version = versionView(found(row));
      const leftMs = endMs - performance.now();
      if (!isOpen(version.state)) {
        await invalidations.caughtUp();
        return version;
      }
      if (leftMs <= 0 || stopped) return version;
      await sign(versionId, Math.min(lookMs, leftMs));
    }
  }

  /** Until this process has checked the version, or `ms` have passed. */
  async function sign(versionId: string, ms: number): Promise<void> {
    const looks = waiting.get(versionId) ?? new Set();
    waiting.set(versionId, looks);
    await new Promise<void>((resolve) => {
      const look = () => {
        clearTimeout(timer);
        looks.delete(look);
        resolve();
      };
      const timer = setTimeout(look, ms);
      looks.add(look);
    });
    if (looks.size === 0) waiting.delete(versionId);
  }

  /** What was made, but whose job was never written or was lost, or waits for its turn: that may be another by now. */
  async function sweep(): Promise<void> {
    const count = await asSystem(db, (tx) => enqueueOpen(tx, Prisma.sql`created_at < mercato_now() - interval '1 minute'`));
    if (count > 0) jobs.wake('check-version');
  }

  /** Each tenant's first come before any tenant's second, unless their turn is given. Returns how many there are. */
  async function enqueueOpen(tx: Tx, which: Prisma.Sql, given?: number): Promise<number> {
    const open = await tx.$queryRaw<OpenVersion[]>`
      select id as "versionId", tenant_id as "tenantId",
             (select count(*)::int from model_version o where o.tenant_id = v.tenant_id and o.state in ('DRAFT', 'CHECKED') and o.id < v.id) turn
        from model_version v where state in ('DRAFT', 'CHECKED') and ${which} order by id limit ${SWEEP_MAX}`;
    for (const { turn, ...data } of open) await jobs.enqueue(tx, 'check-version', data, data.versionId, { turn: given ?? turn });
    return open.length;
  }

  function verifyHere(listingId: string): void {
    if (stopped) return;
    verifications
      .request(listingId)
      .catch((error: unknown) => log.warn({ err: error, listingId }, 'samples could not be asked for; they are within a minute'));
  }

  return {
    async start() {
      await jobs.work('check-version', check, CONCURRENCY, PER_TENANT);
      await sweep();
      await verifications.request();
      // What was measured on another host may compute otherwise on this one: its callers here wait for that.
      if (sweeping === null) invalidations.on('listing', verifyHere);
      else clearInterval(sweeping);
      sweeping = setInterval(() => {
        sweep()
          .then(() => verifications.request())
          .catch((error: unknown) => log.error({ err: error }, 'looking for lost checks failed'));
      }, SWEEP_MS);
      sweeping.unref();
    },
    async stop() {
      stopped = true;
      if (sweeping) clearInterval(sweeping);
      for (const looks of waiting.values()) for (const look of looks) look();
    },
    check,
    request,
    release,
    settled,
  };
}

/** Of versions that are not checked yet. */
export const OPEN = ['DRAFT', 'CHECKED'] as const satisfies ModelVersionState[];

function isOpen(state: ModelVersionState): boolean {
  return state === 'DRAFT' || state === 'CHECKED';
}
