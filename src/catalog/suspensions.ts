import type { Invalidations } from '../access/access.ts';
import { asSystem, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { newId } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import type { Suspension } from '../generated/prisma/client.ts';
import type { Inference, ModelKilled } from '../inference/inference.ts';
import type { Entitlement } from './entitlements.ts';

/**
 * So many runs of one tenant's calls that ended their runner within the window suspend the version for that tenant. So many such consumers, or
 * the publisher, suspend it for everybody: no tenant can take a rival's model off the market, or keep it off, alone. What an earlier suspension
 * was for does not count again.
 */
const STRIKES = { windowMinutes: 10, max: 3, consumers: 2 };
/** The first time, and what each call that is let through and fails again doubles. */
const SUSPENDED_S = { first: 60, max: 3_600 };
/** No call ends a suspension for wrong answers: it has no time, which a column must have. */
const UNVERIFIED_YEARS = 100;
/** What a call that is let through may take beyond its version's run limit, loading included. */
const PROBE_GRACE_S = 120;
const PROBING_RETRY_MS = 1_000;

/** An open suspension as a process remembers it: `untilMs` of its monotonic clock. */
export type Suspended = { id: string; untilMs: number; everyone: boolean };

/** A call that was let through to see whether the version works again; exactly one of these is called, or its strike is counted. */
type Probe = {
  /** It was answered: the suspension ends. */
  answered(): Promise<void>;
  /** It told nothing: another may try. */
  untold(): Promise<void>;
};

export type Suspensions = {
  /**
   * Lets a call of a version pass: null where it is not suspended, at once. @throws MODEL_SUSPENDED with `retryAfterMs`; after that time one call
   * at a time passes as a probe: of the suspension of its own tenant, where a consumer has one, and else of everybody's
   */
  pass(entitlement: Entitlement): Promise<Probe> | null;
  /**
   * Counts a run that ended its runner against the tenant whose call it was. A probe that fails doubles the time: everybody's where the publisher's failed, or that
   * of a consumer which had not struck yet, and else its own. A suspension holds in this process when it resolves, in others soon.
   */
  strike(entitlement: Entitlement, killed: ModelKilled): Promise<void>;
};

type Options = { db: Database; inference: Inference; invalidations: Invalidations; log: Log };

export function createSuspensions({ db, inference, invalidations, log }: Options): Suspensions {
  function pass({ suspended, runnable, consumerTenantId, publisherTenantId }: Entitlement): Promise<Probe> | null {
    if (suspended.length === 0) return null;
    const leftMs = Math.max(...suspended.map(({ untilMs }) => untilMs)) - performance.now();
    if (leftMs > 0) throw refusal(suspended, leftMs);
    const own = suspended.filter(({ everyone }) => !everyone);
    // Who has a suspension of its own keeps nobody else from showing that the version works.
    const probed = own.length > 0 && consumerTenantId !== publisherTenantId ? own : suspended;
    return probe(suspended, probed, runnable.runLimitMs);
  }

  async function probe(suspended: readonly Suspended[], probed: readonly Suspended[], runLimitMs: number): Promise<Probe> {
    const ids = probed.map(({ id }) => id);
    const seconds = runLimitMs / 1000 + PROBE_GRACE_S;
    const claimed = await asSystem(db, async (tx) => {
      const open = await tx.$queryRaw<{ free: boolean }[]>`
        select until <= mercato_now() and (probing_until is null or probing_until <= mercato_now() or id <> all(${ids}::uuid[])) free
          from suspension where id = any(${suspended.map(({ id }) => id)}::uuid[]) and ended_at is null order by id for update`;
      if (open.some(({ free }) => !free)) return false;
      await tx.$executeRaw`
        update suspension set probing_until = mercato_now() + make_interval(secs => ${seconds}) where id = any(${ids}::uuid[]) and ended_at is null`;
      return true;
    });
    if (!claimed) throw refusal(suspended, PROBING_RETRY_MS);
    return {
      answered: () => end(ids),
      async untold() {
        await asSystem(db, (tx) => tx.$executeRaw`update suspension set probing_until = null where id = any(${ids}::uuid[])`);
      },
    };
  }

  async function end(ids: readonly string[]): Promise<void> {
    await asSystem(db, async (tx) => {
      await tx.$executeRaw`update suspension set ended_at = mercato_now() where id = any(${ids}::uuid[]) and ended_at is null`;
      const listings = await tx.$queryRaw<{ id: string }[]>`
        select distinct l.id from suspension s join model_version v on v.id = s.version_id join listing l on l.model_id = v.model_id
         where s.id = any(${ids}::uuid[])`;
      await invalidations.publish(
        tx,
        'listing',
        listings.map(({ id }) => id),
      );
    });
  }

  async function strike(entitlement: Entitlement, { kind, runner }: ModelKilled): Promise<void> {
    const { version, publisherTenantId, consumerTenantId, listingId } = entitlement;
    const struck = { versionId: version.id, publisherTenantId, consumerTenantId };
    const suspended = await asSystem(db, async (tx) => {
      const written = await tx.$executeRaw`
        insert into strike (id, version_id, publisher_tenant_id, consumer_tenant_id, kind, runner)
        values (${newId()}::uuid, ${version.id}::uuid, ${publisherTenantId}::uuid, ${consumerTenantId}::uuid, ${kind}::strike_kind, ${runner})
        on conflict (runner) do nothing`;
      // Another call of the same run was here first.
      if (written === 0) return [];
      await tx.$executeRaw`select pg_advisory_xact_lock(hashtextextended(${version.id}, 4))`;
      const whom = await suspend(tx, struck);
      if (whom.length > 0) await invalidations.publish(tx, 'listing', [listingId]);
      return whom;
    });
    if (suspended.length === 0) return;
    const everyone = suspended.includes(null);
    await invalidations.refresh();
    log.warn({ versionId: version.id, handle: version.handle, consumerTenantId, everyone }, 'suspended a model version');
    if (everyone) await inference.unload(version.id);
  }

  return { pass, strike };
}

type Struck = { versionId: string; publisherTenantId: string; consumerTenantId: string };
type Count = { consumerTenantId: string; crashes: number; overruns: number };
/** Everybody's, null, or of the tenant that struck. */
type Open = { consumerTenantId: string | null; passed: boolean; since: Date };

/** Opens or lengthens what the strikes of the window, and a failed probe, ask for. Returns for whom; null: for everybody. */
async function suspend(tx: Tx, struck: Struck): Promise<(string | null)[]> {
  const { versionId, publisherTenantId, consumerTenantId } = struck;
  const open = await tx.$queryRaw<Open[]>`
    select consumer_tenant_id "consumerTenantId", until <= mercato_now() passed, since from suspension
     where version_id = ${versionId}::uuid and ended_at is null
       and (consumer_tenant_id is null or consumer_tenant_id = ${consumerTenantId}::uuid)`;
  const everybodys = open.find((row) => row.consumerTenantId === null);
  const own = await countStrikes(tx, struck, consumerTenantId);
  const all = await countStrikes(tx, struck, null);
  const offenders = all.filter(isOffender);
  const consumers = offenders.filter((count) => count.consumerTenantId !== publisherTenantId);
  const whom = new Set<string | null>();
  if (own.some(isOffender) || open.some((row) => row.consumerTenantId !== null && row.passed)) whom.add(consumerTenantId);
  if (everybodys === undefined) {
    if (consumers.length >= STRIKES.consumers || offenders.length > consumers.length) whom.add(null);
  } else if (everybodys.passed) {
    const lengthens = await mayLengthen(tx, struck, everybodys.since);
    whom.add(lengthens ? null : consumerTenantId);
    // Without one of its own it was everybody's that its call probed: another may try.
    if (!lengthens && open.length === 1)
      await tx.$executeRaw`update suspension set probing_until = null where version_id = ${versionId}::uuid and consumer_tenant_id is null and ended_at is null`;
  }
  for (const tenant of [...whom].sort()) await suspendFor(tx, struck, tenant, reasonOf(tenant === null ? all : own));
  return [...whom];
}

const isOffender = ({ crashes, overruns }: Count) => crashes + overruns >= STRIKES.max;

/** The strikes of the window that no suspension of `tenant`, null: of everybody, has ended for since: of that tenant, null: of all. */
async function countStrikes(tx: Tx, { versionId }: Struck, tenant: string | null): Promise<Count[]> {
  return tx.$queryRaw<Count[]>`
    select consumer_tenant_id "consumerTenantId", count(*) filter (where kind = 'CRASH')::int crashes, count(*) filter (where kind = 'OVERRUN')::int overruns
      from strike where version_id = ${versionId}::uuid and (${tenant}::uuid is null or consumer_tenant_id = ${tenant}::uuid)
       and created_at > greatest(mercato_now() - make_interval(mins => ${STRIKES.windowMinutes}::int),
             (select max(ended_at) from suspension where version_id = ${versionId}::uuid and consumer_tenant_id is not distinct from ${tenant}::uuid))
     group by 1`;
}

/** Once each consumer that had no part in everybody's suspension, or it would be one tenant that keeps the version off the market. */
async function mayLengthen(tx: Tx, { versionId, publisherTenantId, consumerTenantId }: Struck, since: Date): Promise<boolean> {
  if (consumerTenantId === publisherTenantId) return true;
  const [row] = await tx.$queryRaw<{ strikes: number }[]>`
    select count(*)::int strikes from strike where version_id = ${versionId}::uuid and consumer_tenant_id = ${consumerTenantId}::uuid
       and created_at > ${since}::timestamptz - make_interval(mins => ${STRIKES.windowMinutes}::int)`;
  return (row?.strikes ?? 0) <= 1;
}

/** What is open and has not yet passed stays: it was decided on what had already happened. */
async function suspendFor(tx: Tx, { versionId, publisherTenantId }: Struck, tenant: string | null, reason: string): Promise<void> {
  await tx.$executeRaw`
    insert into suspension as s (id, version_id, publisher_tenant_id, consumer_tenant_id, reason, until)
    values (${newId()}::uuid, ${versionId}::uuid, ${publisherTenantId}::uuid, ${tenant}::uuid, ${reason},
            mercato_now() + make_interval(secs => ${SUSPENDED_S.first}))
    on conflict (version_id, coalesce(consumer_tenant_id, '00000000-0000-0000-0000-000000000000')) where ended_at is null do update
      set failed_probes = s.failed_probes + 1, probing_until = null, reason = excluded.reason,
          until = mercato_now() + make_interval(secs => least(${SUSPENDED_S.max}::float8, ${SUSPENDED_S.first}::float8 * 2 ^ (s.failed_probes + 1)))
      where s.until <= mercato_now()`;
}

function reasonOf(counts: readonly Count[]): string {
  const sum = (key: 'crashes' | 'overruns') => counts.reduce((total, count) => total + count[key], 0);
  const parts = [
    ...(sum('crashes') > 0 ? [`crashed ${sum('crashes')} times`] : []),
    ...(sum('overruns') > 0 ? [`exceeded its run limit ${sum('overruns')} times`] : []),
  ];
  const callers = counts.length <= 1 ? 'one tenant' : `${counts.length} tenants`;
  return `In ${STRIKES.windowMinutes} minutes the version ${parts.join(' and ') || 'failed again'}, called by ${callers}.`;
}

function refusal(suspended: readonly Suspended[], leftMs: number): MercatoError {
  const retryAfterMs = Math.min(Math.ceil(leftMs), SUSPENDED_S.max * 1000);
  const whom = suspended.some(({ everyone }) => everyone) ? 'for everybody' : 'for your tenant';
  return new MercatoError('MODEL_SUSPENDED', `The model version is suspended ${whom}; its \`suspension\` says why.`, {
    retryAfterMs,
  });
}

/** Suspends for everybody a version that does not answer its samples any more, until `resumeVerified`. */
export async function suspendUntilVerified(tx: Tx, version: { id: string; tenantId: string }, reason: string): Promise<void> {
  await tx.$executeRaw`
    insert into suspension (id, version_id, publisher_tenant_id, consumer_tenant_id, reason, until)
    values (${newId()}::uuid, ${version.id}::uuid, ${version.tenantId}::uuid, null, ${reason},
            mercato_now() + make_interval(years => ${UNVERIFIED_YEARS}::int))
    on conflict (version_id, coalesce(consumer_tenant_id, '00000000-0000-0000-0000-000000000000')) where ended_at is null do update
      set reason = excluded.reason, until = excluded.until, probing_until = null`;
}

export async function resumeVerified(tx: Tx, versionId: string): Promise<void> {
  await tx.$executeRaw`
    update suspension set ended_at = mercato_now() where version_id = ${versionId}::uuid and ended_at is null
       and until > since + make_interval(years => ${UNVERIFIED_YEARS}::int) - interval '1 day'`;
}

/** What keeps a tenant from calling a version now. */
export async function suspendedFor(tx: Tx, tenantId: string, versionId: string): Promise<Suspended[]> {
  const rows = await tx.$queryRaw<{ id: string; leftMs: number; everyone: boolean }[]>`
    select id, (extract(epoch from until - mercato_now()) * 1000)::float8 "leftMs", consumer_tenant_id is null everyone
      from suspension
     where version_id = ${versionId}::uuid and ended_at is null and (consumer_tenant_id is null or consumer_tenant_id = ${tenantId}::uuid)`;
  return rows.map(({ id, leftMs, everyone }) => ({ id, untilMs: performance.now() + leftMs, everyone }));
}

/** Of each version the open one that lasts longest of those that the reader may see. For a loader. */
export async function suspensionsByVersion(tx: Tx, versionIds: readonly string[]): Promise<Map<string, Suspension>> {
  const rows = await tx.suspension.findMany({ where: { versionId: { in: [...versionIds] }, endedAt: null }, orderBy: { until: 'asc' } });
  return new Map(rows.map((row) => [row.versionId, row]));
}
