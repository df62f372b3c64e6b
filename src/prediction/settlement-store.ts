import { asSystem, type Database, sqlDetail, sqlState, systemStatement } from '../base/database.ts';
import { newId } from '../base/ids.ts';
import type { Billing } from '../billing/billing.ts';
import { Prisma } from '../generated/prisma/client.ts';
import { settledLimitOf } from '../usage/usage.ts';
import { type Short, shortOfSwept } from './grants.ts';
import { shortOfSettled } from './lease-refusals.ts';
import type { Admission } from './leases.ts';
import { keyOf, type Replays, type Stored } from './replays.ts';
import type { Finished, Keyed, Metered } from './settlement.ts';

/** BILLED now; LOST, since its idempotency key was used before; REVOKED, since its API key is valid no more. */
export type Outcome = { id: string; outcome: 'BILLED' | 'LOST' | 'REVOKED'; amountNanos: bigint };

/** The books that a group of finished predictions is written to, which all processes share. */
export type SettlementStore = {
  /** One transaction: done as a whole, refused as a whole (`wasRefused`), not begun (`neverStarted`), or of an outcome that is not known. */
  settle(group: readonly Finished[]): Promise<Outcome[]>;
  /**
   * What there was too little of for a call that the database refused, since what its lease held is with others: a limit as the refusal has it, quota and wallet
   * as they are now. Null where there is room again, or many look already.
   */
  shortOf(call: Finished, refusal: unknown): Promise<Short | null>;
  /** What was billed of a group whose outcome is not known, by prediction. */
  billed(group: readonly Finished[]): Promise<ReadonlyMap<string, bigint>>;
  /** What was answered under these keys, each read when it is asked for; by `keyOf`. */
  answered(keys: readonly Keyed[]): Promise<ReadonlyMap<string, () => Promise<Stored>>>;
};

/** Looks at the books at once: those that grant and settle need the connections. */
const LOOKS_MAX = 2;

/** The books in the database: one statement, `mercato_settle`, is one transaction. */
export function createSettlementStore(options: { db: Database; replays: Replays; billing: Billing; replayHours: number }): SettlementStore {
  const { db, replays, billing, replayHours } = options;
  const { currency, commissionBps } = billing;
  const looking = new Map<string, Promise<Short | null>>();

  /** One look for all calls alike that ask meanwhile. */
  async function look(admission: Admission): Promise<Short | null> {
    const { key, period, units } = admission;
    const name = [key.consumerTenantId, key.listingId, key.terms?.planVersionId, period, units].join(':');
    const running = looking.get(name);
    if (running || looking.size === LOOKS_MAX) return running ?? null;
    const looked = asSystem(db, (tx) => shortOfSwept(tx, billing, admission)).finally(() => looking.delete(name));
    looking.set(name, looked);
    return looked;
  }

  return {
    async settle(group) {
      const calls = callsOf(group);
      const rows = await systemStatement<{ id: string; outcome: Outcome['outcome']; amount_nanos: string | null }>(
        db,
        Prisma.sql`select id::text, outcome, amount_nanos::text from mercato_settle(${calls}::jsonb, ${currency}, ${commissionBps}::int, ${replayHours}::int)`,
      );
      return rows.map(({ id, outcome, amount_nanos }) => ({ id, outcome, amountNanos: BigInt(amount_nanos ?? 0) }));
    },
    async shortOf({ admission, metered }, refusal) {
      const detail = sqlState(refusal) === 'MC002' ? sqlDetail(refusal) : undefined;
      if (detail === undefined) return look(admission);
      const unitNanos = admission.key.terms?.unitPriceNanos ?? 0n;
      const { limit, ...left } = settledLimitOf(detail);
      return { ...shortOfSettled(limit, metered.units, { unitNanos, ...left }), foreign: false };
    },
    async billed(group) {
      const rows = await asSystem(
        db,
        (tx) => tx.$queryRaw<{ id: string; amountNanos: bigint }[]>`
          select id, amount_nanos "amountNanos" from usage_record
           where period = any(${[...new Set(group.map((item) => item.admission.period))]}::text[])
             and id = any(${group.map((item) => item.metered.id)}::uuid[])`,
      );
      return new Map(rows.map((row) => [row.id, row.amountNanos]));
    },
    async answered(keys) {
      const rows = await asSystem(db, (tx) => replays.find(tx, keys));
      return new Map([...rows.values()].map((row) => [keyOf(row), () => replays.load(row)]));
    },
  };
}

/**
 * The group for `mercato_settle`, as one parameter: Prisma and the driver take their time for each, and for each byte. So what calls share,
 * usually all of them, is said once.
 */
function callsOf(group: readonly Finished[]): string {
  const charges = new Map<string, string>();
  const shared = new Map<string, { calls: object[] }>();
  for (const { admission, metered, keyed } of group) {
    const name = [admission.leaseId, metered.subscriptionId, metered.modelVersionId, metered.apiKeyId, metered.userId].join();
    let common = shared.get(name);
    if (!common) {
      const charge = `${metered.subscriptionId}:${admission.period}`;
      const chargeId = charges.get(charge) ?? newId();
      charges.set(charge, chargeId);
      common = { ...commonOf(admission, metered, chargeId), calls: [] };
      shared.set(name, common);
    }
    common.calls.push({
      id: metered.id,
      units: metered.units,
      rows: metered.rows,
      runs: metered.runs,
      compute_micros: Number(metered.computeMicros),
      bytes_in: metered.bytesIn,
      bytes_out: metered.bytesOut,
      key: keyed?.key,
      digest: keyed?.digest.toString('hex'),
      answer: keyed?.answer?.toString('base64'),
      store_key: keyed?.storeKey ?? undefined,
    });
  }
  return JSON.stringify([...shared.values()]);
}

function commonOf({ leaseId, period, accounts, counterIds }: Admission, metered: Metered, chargeId: string) {
  return {
    lease_id: leaseId,
    period,
    consumer_tenant_id: metered.consumerTenantId,
    publisher_tenant_id: metered.publisherTenantId,
    listing_id: metered.listingId,
    model_id: metered.modelId,
    model_version_id: metered.modelVersionId,
    subscription_id: metered.subscriptionId,
    plan_version_id: metered.planVersionId,
    api_key_id: metered.apiKeyId,
    user_id: metered.userId,
    charge_id: chargeId,
    counters: counterIds.length === 0 ? undefined : counterIds,
    wallet_id: accounts?.walletId,
    payable_id: accounts?.payableId,
    revenue_id: accounts?.revenueId,
  };
}
