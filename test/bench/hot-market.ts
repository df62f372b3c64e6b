import { randomBytes } from 'node:crypto';
import { asSystem, type Database } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { createBilling } from '../../src/billing/billing.ts';
import { createUsage } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { COMMISSION_BPS, CURRENCY, type Right } from '../support/core.ts';

/** Of each process and role, as a server of four has it. */
export const POOL_SIZE = 10;
export const CREDIT_NANOS = 10n ** 15n;
const UNIT_PRICE_NANOS = 10n;
const QUOTA_UNITS = 10n ** 12n;

/** A consumer with a key, credit and a priced plan with a quota; `limits`: and units of a day and spend of a month limited. */
export async function hotTenant(db: Database, limits: boolean): Promise<Right> {
  const [publisherTenantId, consumerTenantId] = [newId(), newId()];
  const [modelId, modelVersionId, listingId, planId, planVersionId, subscriptionId, apiKeyId] = Array.from({ length: 7 }, newId) as Seven;
  const name = `t${randomBytes(6).toString('hex')}`;
  const terms = { unitPriceNanos: UNIT_PRICE_NANOS, freeUnits: 0n, quotaUnits: QUOTA_UNITS, requestsPerMinute: null, burst: null };
  const plan = { ...terms, alias: null, currency: CURRENCY, priority: 0 };
  await asAdmin(db, async (tx) => {
    for (const [id, tenant] of [
      [publisherTenantId, `${name}p`],
      [consumerTenantId, `${name}c`],
    ] as const) {
      await tx.tenant.create({ data: { id, name: tenant, displayName: tenant } });
    }
    await tx.model.create({ data: { id: modelId, tenantId: publisherTenantId, name: 'model' } });
    const sha256 = randomBytes(32).toString('hex');
    await tx.modelVersion.create({ data: { id: modelVersionId, tenantId: publisherTenantId, modelId, number: 1, sha256, sizeBytes: 1n } });
    await tx.listing.create({ data: { id: listingId, publisherTenantId, modelId, handle: `${name}p/model`, state: 'PUBLISHED' } });
    await tx.plan.create({ data: { id: planId, publisherTenantId, listingId, name: 'plan' } });
    await tx.planVersion.create({ data: { id: planVersionId, publisherTenantId, planId, number: 1, ...plan } });
    const sides = { consumerTenantId, publisherTenantId };
    await tx.subscription.create({ data: { id: subscriptionId, ...sides, listingId, planId, planVersionId } });
    await tx.apiKey.create({
      data: { id: apiKeyId, tenantId: consumerTenantId, name: 'key', hash: randomBytes(32), prefix: 'mk_x', scopes: [] },
    });
    await tx.$executeRaw`select mercato_ensure_partitions(1)`;
  });
  const credit = { amountNanos: CREDIT_NANOS, note: null, idempotencyKey: newId() };
  await createBilling({ db, currency: CURRENCY, commissionBps: COMMISSION_BPS }).addCredit({ id: consumerTenantId }, credit);
  if (limits) await limit(db, consumerTenantId);
  const offer = { publisherTenantId, listingId, modelId, modelVersionId, handle: `${name}p/model`, planId };
  return { ...offer, consumerTenantId, subscriptionId, memberId: null, apiKeyId, terms: { planVersionId, ...plan } };
}

type Seven = [string, string, string, string, string, string, string];

async function limit(db: Database, tenantId: string): Promise<void> {
  const announcer = { publish: async () => 0n, confirmed: async () => {} };
  const usage = createUsage({ db, announcer, currency: CURRENCY });
  const common = { subject: 'TENANT', subjectId: null, burstUnits: null, hard: true, alertPercents: null } as const;
  await usage.createLimit(tenantId, { ...common, name: 'units', measure: 'UNITS', window: 'DAY', amount: QUOTA_UNITS });
  await usage.createLimit(tenantId, {
    ...common,
    name: 'spend',
    measure: 'SPEND',
    window: 'MONTH',
    amount: QUOTA_UNITS * UNIT_PRICE_NANOS,
  });
}

/** The tables of the baseline, with one tenant's rows. */
export async function naiveTables(db: Database, { consumerTenantId }: Right): Promise<void> {
  await asAdmin(db, async (tx) => {
    for (const sql of [
      'create table naive_counter (tenant_id uuid primary key, used bigint not null, quota bigint not null)',
      `create table naive_record (id uuid primary key, tenant_id uuid not null, units bigint not null, amount bigint not null,
                                  created_at timestamptz(3) not null default now())`,
      'create index on naive_record (tenant_id, created_at)',
      'create table naive_account (tenant_id uuid, kind text, balance numeric(38) not null, primary key (tenant_id, kind))',
      `insert into naive_counter values ('${consumerTenantId}', 0, ${QUOTA_UNITS})`,
      `insert into naive_account values ('${consumerTenantId}', 'WALLET', ${CREDIT_NANOS}), ('${consumerTenantId}', 'PAYABLE', 0)`,
    ]) {
      await tx.$executeRawUnsafe(sql);
    }
  });
}

/** @throws Error where the books do not say that so many calls of one unit were settled */
export async function checkBooks(db: Database, right: Right, settled: number): Promise<void> {
  const tenant = right.consumerTenantId;
  const [row] = await asSystem(
    db,
    (tx) => tx.$queryRaw<{ records: bigint; used: bigint; balance: bigint; held: bigint }[]>`
      select (select count(*) from usage_record where consumer_tenant_id = ${tenant}::uuid) records,
             (select coalesce(sum(used_units), 0)::bigint from usage_counter where consumer_tenant_id = ${tenant}::uuid) used,
             balance_nanos::bigint balance, held_nanos::bigint held from account where kind = 'WALLET' and tenant_id = ${tenant}::uuid`,
  );
  const calls = BigInt(settled);
  const fits =
    row && row.records === calls && row.used === calls && row.held === 0n && row.balance === CREDIT_NANOS - calls * UNIT_PRICE_NANOS;
  if (!fits) throw new Error(`${settled} calls were settled, the books say ${JSON.stringify(row, (_, value) => String(value))}`);
}

export async function checkNaive(db: Database, settled: number): Promise<void> {
  const [row] = await asAdmin(
    db,
    (tx) => tx.$queryRaw<{ records: bigint; used: bigint; paid: bigint }[]>`
      select (select count(*) from naive_record) records, used, (select balance::bigint from naive_account where kind = 'PAYABLE') paid from naive_counter`,
  );
  const calls = BigInt(settled);
  if (row?.records !== calls || row.used !== calls || row.paid !== calls * UNIT_PRICE_NANOS)
    throw new Error(`the baseline lost calls of ${settled}`);
}
