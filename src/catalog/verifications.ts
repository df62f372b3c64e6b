import type { Invalidations } from '../access/access.ts';
import { asSystem, asTenant, type Database, type Tx } from '../base/database.ts';
import type { Log } from '../base/log.ts';
import { type ModelVersion, Prisma } from '../generated/prisma/client.ts';
import type { Grounds, Inference, Sample, SeenOn, Verified } from '../inference/inference.ts';
import type { CheckVersion, Jobs } from './jobs.ts';
import type { ModelStore } from './store.ts';
import { resumeVerified, suspendUntilVerified } from './suspensions.ts';
import { measuresOf, type VersionMeasures } from './views.ts';

/** What checks work with. */
export type CheckOptions = {
  db: Database;
  store: ModelStore;
  inference: Inference;
  invalidations: Invalidations;
  jobs: Jobs;
  /** This server process in `server_process`. */
  processId: string;
  log: Log;
};

/** What is to be checked; `turn`: how many of its tenant's are before it. */
export type OpenVersion = CheckVersion & { turn: number };

export type Checked = Prisma.ModelVersionGetPayload<{ include: { samples: true } }>;

export type Verifications = {
  /** Whether these are the grounds of this host. */
  isHere(grounds: string): Promise<boolean>;
  /**
   * Runs the samples of a READY version on the devices of this host. One that no device of a living host is known to answer by this runtime is suspended for everybody, until one does. Rejects
   * where nothing can be told: it may be tried again.
   */
  verify(version: Checked): Promise<void>;
  /**
   * Asks for that of each version, where given of one listing, of which it is not known whether the devices of this host answer its samples by this runtime, and of
   * those that are suspended, or that none of a living host answers.
   */
  request(listingId?: string): Promise<void>;
};

/** At 5 s each: others' jobs are left to them until these may be asked for again. */
const TRIES = 100;

export function createVerifications({ db, store, inference, invalidations, jobs, processId, log }: CheckOptions): Verifications {
  async function isHere(grounds: string): Promise<boolean> {
    return grounds === textOf(await inference.grounds());
  }

  async function verify(version: Checked): Promise<void> {
    const { id } = version;
    const verified = await inference.verify(await store.read(version.sha256), gateOf(version));
    const { fault, fallbacks } = verified;
    const alive = await asSystem(db, livingDevices);
    const answers = await asTenant(db, version.tenantId, (tx) => answersBy(tx, version, verified, alive));
    await asSystem(db, (tx) => (answers ? resumeVerified(tx, id) : suspendUntilVerified(tx, version, fault?.message ?? '')));
    // Last: a version of which each device of here is decided is not looked at again.
    const seq = await asTenant(db, version.tenantId, (tx) => write(tx, version, verified));
    if (fault === null)
      for (const { device, fault: why } of fallbacks) log.warn({ versionId: id, device, fault: why }, 'a device does not run a model');
    else log.error({ versionId: id, err: fault, suspended: !answers }, 'a model version answers its samples on no device here');
    if (!answers) await inference.unload(id);
    await invalidations.confirmed(seq);
  }

  /** Whether, with what was found here, some device of a living host is known to answer by this runtime. */
  async function answersBy(tx: Tx, { id }: Checked, verified: Verified, alive: readonly SeenOn[] | null): Promise<boolean> {
    const { verifiedOn } = withVerified(measuresOf(await tx.modelVersion.findUniqueOrThrow({ where: { id } })), verified);
    const isAlive = ({ device, hardware }: SeenOn) =>
      alive === null || hardware === undefined || alive.some((one) => one.device === device && one.hardware === hardware);
    return verifiedOn.some((one) => one.runtime === verified.runtime && isAlive(one));
  }

  /** Hosts may verify a version at once, each for its devices. */
  async function write(tx: Tx, { id, tenantId, modelId }: Checked, verified: Verified): Promise<bigint> {
    await tx.$queryRaw`select id from model_version where id = ${id}::uuid for update`;
    const profile = withVerified(measuresOf(await tx.modelVersion.findUniqueOrThrow({ where: { id } })), verified);
    await tx.modelVersion.updateMany({ where: { id, tenantId }, data: { profile } });
    const listing = await tx.listing.findUniqueOrThrow({ where: { modelId, publisherTenantId: tenantId } });
    await invalidations.publish(tx, 'listing', [listing.id]);
    return invalidations.publish(tx, 'pin', [id]);
  }

  async function request(listingId?: string): Promise<void> {
    const model = Prisma.sql`${listingId ?? null}::uuid is null or model_id = (select model_id from listing where id = ${listingId ?? null}::uuid)`;
    const sampled = Prisma.sql`state = 'READY' and sample_count > 0 and (${model})`;
    const some = await asSystem(db, (tx) => tx.$queryRaw<unknown[]>`select id from model_version where ${sampled} limit 1`);
    if (some.length === 0) return;
    const here = await inference.grounds();
    const grounds = textOf(here);
    const wanted = JSON.stringify(here.devices.map((device) => ({ device, hardware: here.hardware[device] })));
    const own = JSON.stringify(Object.fromEntries(here.devices.map((device) => [device, here.hardware[device]])));
    await asSystem(db, async (tx) => {
      await tx.$executeRaw`update server_process set hardware = ${own}::jsonb where id = ${processId}::uuid and hardware is distinct from ${own}::jsonb`;
      const devices = await livingDevices(tx);
      const alive = devices && JSON.stringify(devices);
      const open = await tx.$queryRaw<OpenVersion[]>`
        select id as "versionId", tenant_id as "tenantId", row_number() over (partition by tenant_id order by id)::int - 1 turn
          from model_version v where ${sampled}
           and (not ${wanted}::jsonb <@ (
                 select coalesce(jsonb_agg(one), '[]')
                   from jsonb_array_elements(coalesce(profile->'verifiedOn', jsonb_build_array(profile)) || coalesce(profile->'fallbacks', '[]')) one
                  where coalesce(one->>'runtime', ${here.runtime}) = ${here.runtime})
               or ${alive}::jsonb is not null and not exists (
                 select from jsonb_array_elements(coalesce(profile->'verifiedOn', jsonb_build_array(profile))) one
                  where coalesce(one->>'runtime', ${here.runtime}) = ${here.runtime} and (one->'hardware' is null
                    or ${alive}::jsonb @> jsonb_build_array(jsonb_build_object('device', one->'device', 'hardware', one->'hardware'))))
               or exists (select from suspension s where s.version_id = v.id and s.ended_at is null and s.until > mercato_now() + interval '1 year'))
        order by id`;
      for (const { turn, ...data } of open)
        await jobs.enqueue(tx, 'check-version', { ...data, grounds }, `${data.versionId} ${grounds}`, { tries: TRIES, turn });
    });
    jobs.wake('check-version');
  }

  return { isHere, verify, request };
}

/** What computes on the hosts of living processes; null: some have not told yet. */
async function livingDevices(tx: Tx): Promise<SeenOn[] | null> {
  const processes = await tx.$queryRaw<{ hardware: Record<string, string> | null }[]>`
    select hardware from server_process where heartbeat_at > mercato_now() - interval '1 minute'`;
  if (processes.some(({ hardware }) => hardware === null)) return null;
  return processes.flatMap(({ hardware }) => Object.entries(hardware ?? {}).map(([device, text]) => ({ device, hardware: text })));
}

/** What a host computes with, as jobs name it. */
export const textOf = ({ devices, hardware, runtime }: Grounds) =>
  `${devices.map((device) => `${device} (${hardware[device]})`).join()} ${runtime}`;

/**
 * Devices of one name and hardware count as one, whichever host's they are: what this host cannot tell stays as it was. What was seen before hardware was told is
 * decided by the first host that has a device of that name.
 */
function withVerified(before: VersionMeasures | null, { devices, hardware, runtime, verifiedOn, fallbacks }: Verified) {
  const isElsewhere = (one: SeenOn & { runtime?: string }) =>
    !devices.includes(one.device) ||
    (one.hardware ?? hardware[one.device]) !== hardware[one.device] ||
    (one.runtime ?? runtime) !== runtime;
  return {
    ...before,
    verifiedOn: [...(before?.verifiedOn ?? []).filter(isElsewhere), ...verifiedOn],
    fallbacks: [...(before?.fallbacks ?? []).filter(isElsewhere), ...fallbacks],
  };
}

export const gateOf = ({
  runLimitMs,
  maxBatchRows,
  samples,
}: Pick<ModelVersion, 'runLimitMs' | 'maxBatchRows'> & Pick<Checked, 'samples'>) => ({
  runLimitMs,
  maxBatchRows,
  samples: (samples?.samples ?? []) as unknown as Sample[],
});
