import { asSystem, asTenant, type Database, isUniqueViolation, type Tx } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import { newId } from '../base/ids.ts';
import { LIMITS } from '../base/limits.ts';
import { Prisma } from '../generated/prisma/client.ts';
import { type LimitMeasure, type LimitSubject, type LimitWindow, openCounters } from './limit-counters.ts';

/** A limit as its tenant sees it, with what is used of the window that is open. Amounts are units, nanos or calls, by `measure`. */
export type LimitView = {
  id: string;
  name: string;
  subject: LimitSubject;
  subjectId: string;
  measure: LimitMeasure;
  window: LimitWindow | null;
  amount: bigint;
  burstUnits: bigint | null;
  hard: boolean;
  alertPercents: number[];
  used: bigint;
  inFlight: bigint;
  resetsAt: Date | null;
  createdAt: Date;
};

export type NewLimit = {
  name: string;
  subject: LimitSubject;
  /** Null: the tenant itself. */
  subjectId: string | null;
  measure: LimitMeasure;
  window: LimitWindow | null;
  amount: bigint;
  burstUnits: bigint | null;
  hard: boolean;
  /** Null: 80 and 100; of calls in flight 100, of bursts none. */
  alertPercents: readonly number[] | null;
};
/** Null leaves a part as it is. */
export type LimitChange = { [K in 'name' | 'amount' | 'burstUnits' | 'hard' | 'alertPercents']: NewLimit[K] | null };

/** How every server process is made to know a change before it counts as made; the `Invalidations` of access. */
export type Announcer = {
  publish(tx: Tx, kind: 'usage_limit', tenantIds: readonly string[]): Promise<bigint>;
  confirmed(seq: bigint): Promise<void>;
};

/** What refusals and the `RateLimit` fields call what a plan limits, and a publisher's own calls; no limit may have these names. */
export const PLAN_NAMES = { units: 'plan', requests: 'plan-requests', ownCalls: 'own-calls' } as const;

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const MAX = { perTenant: 100, concurrency: 100_000n, percent: 1_000, percents: 10 };

/** The limits of one tenant in force, oldest first; one of them where `id` is given. */
export async function readLimits(tx: Tx, tenantId: string, id: string | null): Promise<LimitView[]> {
  const rows = await tx.$queryRaw<(Omit<LimitView, 'used' | 'inFlight'> & { used: string; inFlight: string })[]>`
    select l.id, l.name, l.subject::text subject, l.subject_id "subjectId", l.measure::text measure, l.window::text "window", l.amount, l.burst_units "burstUnits",
           l.hard, l.alert_percents "alertPercents", l.created_at "createdAt", coalesce(k.leased, 0)::text "inFlight",
           case when k.arrival_at is not null
                then greatest(0, ceil(extract(epoch from k.arrival_at - mercato_now()) * k.arrival_amount / 60 - 0.000001))
                else coalesce(k.used, mercato_used_before(l, s.at)) end::text used,
           mercato_window_end(l.window, l.burst_units is not null, mercato_now()) "resetsAt"
      from usage_limit l
     cross join lateral (select mercato_window_start(l.window, l.burst_units is not null, mercato_now()) at) s
      left join limit_counter k on k.limit_id = l.id and k.starts_at = s.at
     where l.tenant_id = ${tenantId}::uuid and l.removed_at is null and (${id}::uuid is null or l.id = ${id}::uuid)
     order by l.id`;
  return rows.map(({ used, inFlight, ...row }) => ({ ...row, used: BigInt(used), inFlight: BigInt(inFlight) }));
}

/**
 * The mutations of limits. Each returns when every live server process applies it: calls that are let in from then on are under it. A call that was
 * let in before and is settled later is not counted.
 */
export function createLimits(db: Database, announcer: Announcer) {
  /** Writes in one transaction, then waits for every process. */
  async function announced(tenantId: string, write: (tx: Tx) => Promise<string>): Promise<LimitView> {
    try {
      const { view, seq } = await asTenant(db, tenantId, async (tx) => {
        const id = await write(tx);
        const [view] = await readLimits(tx, tenantId, id);
        if (!view) throw new MercatoError('NOT_FOUND');
        return { view, seq: await announcer.publish(tx, 'usage_limit', [tenantId]) };
      });
      await announcer.confirmed(seq);
      return view;
    } catch (error) {
      if (isUniqueViolation(error)) throw new MercatoError('CONFLICT', 'A limit in force has this name already.', { field: 'name' });
      throw error;
    }
  }

  return {
    /** Checks name, amount, window, burst, thresholds, then the subject. @throws BAD_USER_INPUT, NOT_FOUND (subject), CONFLICT (name, number of limits) */
    async create(tenantId: string, given: NewLimit): Promise<LimitView> {
      checkName(given.name);
      checkForm(given);
      const view = await announced(tenantId, async (tx) => {
        const subjectId = await subjectOf(tx, tenantId, given);
        await checkRoom(tx, tenantId);
        const id = newId();
        const alertPercents = [
          ...(given.alertPercents ?? (given.measure === 'CONCURRENCY' ? [100] : given.burstUnits === null ? [80, 100] : [])),
        ];
        await tx.usageLimit.create({ data: { ...given, id, tenantId, subjectId, alertPercents } });
        return id;
      });
      // Not before every process applies it: what is settled until then is in what the window had used. The first call would open it too.
      await asSystem(db, (tx) => openCounters(tx, [view.id], view.createdAt));
      return view;
    },

    /** What a limit is about cannot change. What was used counts at once against what it is now. @throws NOT_FOUND, BAD_USER_INPUT, CONFLICT */
    update(tenantId: string, id: string, change: LimitChange): Promise<LimitView> {
      return announced(tenantId, async (tx) => {
        const [row] = await tx.$queryRaw<{ id: string }[]>`
          select id from usage_limit where id = ${id}::uuid and tenant_id = ${tenantId}::uuid and removed_at is null for no key update`;
        const [known] = row ? await readLimits(tx, tenantId, id) : [];
        if (!known) throw new MercatoError('NOT_FOUND');
        const { name, amount, burstUnits, hard, alertPercents } = known;
        const now = { name, amount, burstUnits, hard, alertPercents, ...definedOf(change) };
        if ((now.burstUnits === null) !== (known.burstUnits === null)) {
          throw badInput('burstUnits', 'A limit has bursts from its beginning, or never.', { expected: 'delete it and create another' });
        }
        if (now.name !== known.name) checkName(now.name);
        checkForm({ ...known, ...now });
        await tx.usageLimit.update({ where: { id }, data: { ...now, alertPercents: [...(now.alertPercents ?? [])] } });
        return id;
      });
    },

    /** Its name is free again; its alerts stay. @throws NOT_FOUND */
    async remove(tenantId: string, id: string): Promise<LimitView> {
      const { view, seq } = await asTenant(db, tenantId, async (tx) => {
        const [view] = await readLimits(tx, tenantId, id);
        const removed = await tx.$executeRaw`
          update usage_limit set removed_at = mercato_now() where id = ${id}::uuid and tenant_id = ${tenantId}::uuid and removed_at is null`;
        if (!view || removed === 0) throw new MercatoError('NOT_FOUND');
        return { view, seq: await announcer.publish(tx, 'usage_limit', [tenantId]) };
      });
      await announcer.confirmed(seq);
      return view;
    },
  };
}

/** The ids of the members and keys of a tenant that have limits of their own. */
export async function limitedCallers(tx: Tx, tenantId: string): Promise<Set<string>> {
  const rows = await tx.$queryRaw<{ id: string }[]>`
    select distinct subject_id id from usage_limit
     where tenant_id = ${tenantId}::uuid and removed_at is null and subject in ('MEMBER', 'API_KEY')`;
  return new Set(rows.map(({ id }) => id));
}

function checkName(name: string): void {
  if (!NAME.test(name)) {
    throw badInput('name', 'name must be 1 to 64 letters, digits, dots, underscores and hyphens, and start with a letter or digit.', {
      given: name.slice(0, 80),
    });
  }
  if (Object.values<string>(PLAN_NAMES).includes(name)) {
    throw badInput('name', `The name ${name} is that of what a plan limits.`, { given: name, expected: 'another name' });
  }
}

function checkForm(given: Omit<NewLimit, 'name' | 'subject' | 'subjectId'>): void {
  const { measure, window, amount, burstUnits, hard, alertPercents } = given;
  const max = measure === 'SPEND' ? LIMITS.moneyNanosMax : measure === 'UNITS' ? LIMITS.unitsMax : MAX.concurrency;
  if (amount < 0n || amount > max) throw badInput('amount', `amount must be 0 to ${max}.`, { given: `${amount}`, expected: `0 to ${max}` });
  if ((window === null) !== (measure === 'CONCURRENCY')) {
    const expected = measure === 'CONCURRENCY' ? 'none' : 'MINUTE, HOUR, DAY or MONTH';
    throw badInput('window', `A limit of ${measure} has ${expected === 'none' ? 'no window' : 'a window'}.`, {
      given: window ?? 'none',
      expected,
    });
  }
  if (!hard && measure === 'CONCURRENCY') throw badInput('hard', 'A limit of CONCURRENCY is hard.', { expected: 'true' });
  if (burstUnits !== null) {
    if (measure !== 'UNITS' || window !== 'MINUTE' || !hard || amount < 1n) {
      throw badInput('burstUnits', 'Only a hard limit of 1 or more UNITS per MINUTE has bursts.', {
        given: `${burstUnits}`,
        expected: 'null',
      });
    }
    if (burstUnits < 1n || burstUnits > LIMITS.unitsMax) {
      throw badInput('burstUnits', `burstUnits must be 1 to ${LIMITS.unitsMax}.`, { given: `${burstUnits}` });
    }
  }
  if (alertPercents !== null) checkPercents(alertPercents, given);
}

function checkPercents(percents: readonly number[], { measure, burstUnits }: Pick<NewLimit, 'measure' | 'burstUnits'>): void {
  const given = percents.slice(0, 20).join(', ');
  if (burstUnits !== null && percents.length > 0) {
    throw badInput('alertPercents', 'Bursts, which time takes back, have no thresholds.', { given, expected: 'none' });
  }
  // What is leased of them are places; only a refusal says that as many calls are in flight.
  if (measure === 'CONCURRENCY' && percents.some((percent) => percent !== 100)) {
    const message = 'Calls in flight have one threshold: 100, at which a call is refused.';
    throw badInput('alertPercents', message, { given, expected: '100, or none' });
  }
  const isRight = (percent: number) => Number.isInteger(percent) && percent >= 1 && percent <= MAX.percent;
  if (percents.length > MAX.percents || new Set(percents).size < percents.length || !percents.every(isRight)) {
    const expected = `at most ${MAX.percents} different whole numbers, 1 to ${MAX.percent}`;
    throw badInput('alertPercents', `alertPercents must be ${expected}.`, { given, expected });
  }
}

/** @throws BAD_USER_INPUT, NOT_FOUND */
async function subjectOf(tx: Tx, tenantId: string, { subject, subjectId }: NewLimit): Promise<string> {
  if (subject === 'TENANT') {
    if (subjectId === null || subjectId === tenantId) return tenantId;
    throw badInput('subjectId', 'A limit of a TENANT is of the current one.', { expected: 'null' });
  }
  if (subjectId === null) throw badInput('subjectId', `subjectId must be the global id of the ${subject}.`);
  const own = {
    SUBSCRIPTION: Prisma.sql`select from subscription where id = ${subjectId}::uuid and consumer_tenant_id = ${tenantId}::uuid and state = 'ACTIVE'`,
    MEMBER: Prisma.sql`select from member where user_id = ${subjectId}::uuid and tenant_id = ${tenantId}::uuid`,
    API_KEY: Prisma.sql`select from api_key where id = ${subjectId}::uuid and tenant_id = ${tenantId}::uuid and revoked_at is null`,
  }[subject];
  const [row] = await tx.$queryRaw<{ found: boolean }[]>`select exists (${own}) found`;
  if (!row?.found) throw new MercatoError('NOT_FOUND', `There is no such ${subject}.`, { field: 'subjectId' });
  return subjectId;
}

/** Under a lock per tenant, or two calls would both take the last place. @throws CONFLICT */
async function checkRoom(tx: Tx, tenantId: string): Promise<void> {
  await tx.$executeRaw`select pg_advisory_xact_lock(hashtext('mercato.limits'), hashtext(${tenantId}))`;
  const count = await tx.usageLimit.count({ where: { tenantId, removedAt: null } });
  if (count >= MAX.perTenant) {
    throw new MercatoError('CONFLICT', 'The tenant has as many limits as it may have.', { limit: String(MAX.perTenant) });
  }
}

/** The parts of a change that change something. */
function definedOf(change: LimitChange): Partial<Pick<NewLimit, keyof LimitChange>> {
  return Object.fromEntries(Object.entries(change).filter(([, value]) => value !== null));
}
