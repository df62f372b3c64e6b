import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { asSystem, type Database } from '../../src/base/database.ts';
import { openPostgres } from '../../src/base/database-postgres.ts';
import { newId } from '../../src/base/ids.ts';
import { createLog } from '../../src/base/log.ts';
import { type Billing, createBilling } from '../../src/billing/billing.ts';
import { createDirectoryStore, type ModelStore, type PlanTerms } from '../../src/catalog/catalog.ts';
import { runAudit } from '../../src/prediction/audit.ts';
import type { GrantKey } from '../../src/prediction/grants.ts';
import { createLeaseStore, systemTime, type Time } from '../../src/prediction/lease-store.ts';
import { type Admission, createLeases, type Leases } from '../../src/prediction/leases.ts';
import { createReplays, type Replays } from '../../src/prediction/replays.ts';
import { createSettlement, type Finished, type Settlement } from '../../src/prediction/settlement.ts';
import { createSettlementStore } from '../../src/prediction/settlement-store.ts';
import { createUsage, type Usage } from '../../src/usage/usage.ts';
import { asAdmin } from './admin.ts';
import { openTestDatabase, withDatabase } from './database.ts';

export const log = createLog('silent');
export const CURRENCY = 'EUR';
export const COMMISSION_BPS = 1_500;

export type Terms = Partial<Pick<PlanTerms, 'unitPriceNanos' | 'freeUnits' | 'quotaUnits' | 'requestsPerMinute' | 'burst'>>;
export type Offer = {
  publisherTenantId: string;
  listingId: string;
  modelId: string;
  modelVersionId: string;
  handle: string;
  planId: string;
};
/** What a call of this consumer needs; `terms` are of the plan version subscribed to. */
export type Right = GrantKey & Offer & { subscriptionId: string | null };

/** Leases, replays and settlement as one server process has them; its leases are maintained when a test says so. */
export type Process = AsyncDisposable & { id: string; leases: Leases; replays: Replays; settlement: Settlement };

/** Metering and money on a database of their own, whose clock stands still: without HTTP, catalogue or runners. */
export type Core = AsyncDisposable & {
  db: Database;
  usage: Usage;
  billing: Billing;
  store: ModelStore;
  /** Stops the clock of windows, expiries and periods at an instant. */
  setClock(instant: string): Promise<void>;
  tenant(): Promise<{ id: string; name: string }>;
  offer(terms: Terms): Promise<{ offer: Offer; terms: PlanTerms }>;
  /** The next version of the offer's plan. */
  version(offer: Offer, number: number, terms: Terms): Promise<PlanTerms>;
  subscribe(consumerTenantId: string, offer: Offer, terms: PlanTerms): Promise<Right>;
  /** A new consumer of a new offer, with credit. */
  consumer(terms: Terms, creditNanos?: bigint): Promise<Right>;
  /** `time`: what its leases' ages and its calls' patience are measured with; without it, the machine's. */
  process(time?: Time): Promise<Process>;
};

export async function openCore(instant = '2026-11-15T12:00:00Z'): Promise<Core> {
  const stack = new AsyncDisposableStack();
  const db = stack.use(await openTestDatabase());
  const billing = createBilling({ db, currency: CURRENCY, commissionBps: COMMISSION_BPS });
  const dir = await mkdtemp(join(tmpdir(), 'core-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const store = await createDirectoryStore(dir);
  let plans = 0;
  /** What tells processes of a change, without their heartbeats. */
  const listeners: ((tenantId: string) => void)[] = [];
  const told: string[] = [];
  const invalidations = {
    isFresh: () => true,
    on: (_: string, forget: (tenantId: string) => void) => void listeners.push(forget),
    publish: async (_: unknown, __: string, tenantIds: readonly string[]) => BigInt(told.push(...tenantIds)),
    confirmed: async () => {
      for (const tenantId of told.splice(0)) for (const forget of listeners) forget(tenantId);
    },
  };
  const usage = createUsage({ db, announcer: invalidations, currency: CURRENCY });

  async function setClock(at: string): Promise<void> {
    await asAdmin(db, (tx) =>
      tx.$executeRawUnsafe(
        `create or replace function mercato_now() returns timestamptz language sql volatile as $$ select timestamptz '${at}' $$`,
      ),
    );
    await asSystem(db, (tx) => tx.$executeRaw`select mercato_ensure_partitions(1)`);
  }

  async function tenant(): Promise<{ id: string; name: string }> {
    const id = newId();
    const name = `t${randomBytes(6).toString('hex')}`;
    await asSystem(db, (tx) => tx.tenant.create({ data: { id, name, displayName: name } }));
    return { id, name };
  }

  async function offer(given: Terms): Promise<{ offer: Offer; terms: PlanTerms }> {
    const publisher = await tenant();
    const publisherTenantId = publisher.id;
    const [modelId, modelVersionId, listingId, planId] = [newId(), newId(), newId(), newId()];
    const handle = `${publisher.name}/model`;
    await asAdmin(db, async (tx) => {
      await tx.model.create({ data: { id: modelId, tenantId: publisherTenantId, name: 'model' } });
      const sha256 = createHash('sha256').update(modelVersionId).digest('hex');
      await tx.modelVersion.create({
        data: { id: modelVersionId, tenantId: publisherTenantId, modelId, number: 1, sha256, sizeBytes: 1n },
      });
      await tx.listing.create({
        data: { id: listingId, publisherTenantId, modelId, handle, state: 'PUBLISHED' },
      });
      await tx.modelAlias.create({ data: { modelId, name: 'live', tenantId: publisherTenantId, versionId: modelVersionId } });
      await tx.plan.create({ data: { id: planId, publisherTenantId, listingId, name: `plan${++plans}` } });
    });
    const made = { publisherTenantId, listingId, modelId, modelVersionId, handle, planId };
    return { offer: made, terms: await version(made, 1, given) };
  }

  async function version({ publisherTenantId, planId }: Offer, number: number, given: Terms): Promise<PlanTerms> {
    const id = newId();
    const nothing = { quotaUnits: null, requestsPerMinute: null, burst: null, alias: null };
    const terms = { unitPriceNanos: 0n, freeUnits: 0n, ...nothing, ...given, currency: CURRENCY, priority: 0 };
    await asAdmin(db, (tx) => tx.planVersion.create({ data: { id, publisherTenantId, planId, number, ...terms } }));
    return { planVersionId: id, ...terms };
  }

  async function subscribe(consumerTenantId: string, to: Offer, terms: PlanTerms): Promise<Right> {
    const subscriptionId = newId();
    const { publisherTenantId, listingId, planId } = to;
    const data = { id: subscriptionId, consumerTenantId, publisherTenantId, listingId, planId, planVersionId: terms.planVersionId };
    await asAdmin(db, async (tx) => {
      await tx.subscription.updateMany({ where: { consumerTenantId, listingId }, data: { state: 'CANCELLED' } });
      await tx.subscription.create({ data });
    });
    return { ...to, consumerTenantId, terms, subscriptionId, memberId: null, apiKeyId: null };
  }

  async function consumer(given: Terms, creditNanos = 0n): Promise<Right> {
    const { offer: made, terms } = await offer(given);
    const { id } = await tenant();
    if (creditNanos > 0n) await billing.addCredit({ id }, { amountNanos: creditNanos, note: null, idempotencyKey: newId() });
    return subscribe(id, made, terms);
  }

  async function openProcess(time = systemTime): Promise<Process> {
    const parts = new AsyncDisposableStack();
    const own = parts.use(await openAgain(db));
    const id = newId();
    // A test that stops the clock must not race with maintenance: it renews, or sweeps, under the clock of the moment.
    const leases = parts.use(
      await createLeases({
        store: createLeaseStore({ db: own, billing, processId: id, nowMs: time.nowMs }),
        ...{ time, invalidations, log, maintainMs: null, connections: own.connections },
      }),
    );
    const replays = createReplays({ db: own, store });
    const books = createSettlementStore({ db: own, replays, billing, replayHours: 24 });
    const settlement = createSettlement({ store: books, inFlight: () => 0, log });
    stack.use(parts);
    return { id, leases, replays, settlement, [Symbol.asyncDispose]: () => parts.disposeAsync() };
  }

  await setClock(instant);
  return {
    ...{ db, usage, billing, store, setClock, tenant, offer, version, subscribe, consumer, process: openProcess },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/** The same database as another process sees it, with connections of its own; embedded there is one connection for all. */
async function openAgain(db: Database): Promise<Database> {
  const url = process.env.MERCATO_TEST_DATABASE_URL;
  if (url === undefined) return { ...db, listen: db.listen.bind(db), [Symbol.asyncDispose]: async () => {} };
  const [row] = await asSystem(db, (tx) => tx.$queryRaw<{ name: string }[]>`select current_database()::text "name"`);
  return openPostgres({ url: withDatabase(url, row?.name ?? ''), serverUrl: null, poolSize: 3 }, log);
}

/** A finished call of `admission`, as the settlement takes it. */
export function finished(
  right: Right,
  admission: Admission,
  more: Partial<Finished['metered']> & { keyed?: Finished['keyed'] } = {},
): Finished {
  const { keyed = null, ...metered } = more;
  const { consumerTenantId, publisherTenantId, listingId, modelId, modelVersionId, subscriptionId } = right;
  const planVersionId = right.terms?.planVersionId ?? null;
  const measured = { units: admission.units, rows: admission.units, runs: 1, computeMicros: 1n, bytesIn: 1, bytesOut: 1 };
  const who = {
    consumerTenantId,
    publisherTenantId,
    listingId,
    modelId,
    modelVersionId,
    subscriptionId,
    planVersionId,
    apiKeyId: null,
    userId: null,
  };
  return { admission, metered: { id: newId(), ...who, ...measured, ...metered }, keyed };
}

/** The invariants that do not hold. */
export async function broken(db: Database): Promise<string[]> {
  return (await runAudit(db)).filter(({ rows }) => rows.length > 0).map(({ invariant, rows }) => `${invariant}: ${JSON.stringify(rows)}`);
}

export type Books = { used: bigint; leased: bigint; balance: bigint; held: bigint; records: bigint };

/** The consumer's counter of this listing and period, wallet, and number of records. */
export async function booksOf(db: Database, right: GrantKey, period = '2026-11'): Promise<Books> {
  const [row] = await asSystem(
    db,
    (tx) => tx.$queryRaw<Books[]>`
      select coalesce(sum(c.used_units), 0)::bigint used, coalesce(sum(c.leased_units), 0)::bigint leased,
             (select coalesce(sum(balance_nanos), 0)::bigint from account where kind = 'WALLET' and tenant_id = ${right.consumerTenantId}::uuid) balance,
             (select coalesce(sum(held_nanos), 0)::bigint from account where kind = 'WALLET' and tenant_id = ${right.consumerTenantId}::uuid) held,
             (select count(*) from usage_record where consumer_tenant_id = ${right.consumerTenantId}::uuid and period = ${period}) records
        from usage_counter c
       where c.consumer_tenant_id = ${right.consumerTenantId}::uuid and c.listing_id = ${right.listingId}::uuid and c.period = ${period}`,
  );
  if (!row) throw new Error('an aggregate without a row');
  return row;
}

/** The catalogue's code of a refusal, or 'OK'. */
export function codeOf(work: () => unknown): Promise<string> {
  return (async () => work())().then(
    () => 'OK',
    (error: unknown) => (error instanceof Error && 'code' in error ? String(error.code) : `unexpected: ${error}`),
  );
}
