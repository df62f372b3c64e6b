import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Database, Tx } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { runAudit, runAuditOf } from '../../src/prediction/audit.ts';
import { asAdmin, undone } from '../support/admin.ts';
import { type Core, finished, openCore } from '../support/core.ts';

let core: Core;
let consumer: string;
let publisherId: string;
/** Two priced calls of one consumer are settled, past thresholds of its limits, one of them under a key, a third is in flight; a call of the publisher's own; and of the ledger's other events there is one each. */
beforeAll(async () => {
  core = await openCore();
  const server = await core.process();
  const right = await core.consumer({ unitPriceNanos: 1_000n, quotaUnits: 20n }, 100_000n);
  [consumer, publisherId] = [right.consumerTenantId, right.publisherTenantId];
  await using own = await core.process();
  const self = { ...right, consumerTenantId: publisherId, terms: null, subscriptionId: null };
  await own.settlement.settle(finished(self, await own.leases.admit(self, 1, 1_000)));
  const limit = { name: 'cap', subject: 'TENANT', subjectId: null, measure: 'UNITS', window: 'DAY', burstUnits: null } as const;
  await core.usage.createLimit(right.consumerTenantId, { ...limit, amount: 100n, hard: true, alertPercents: null });
  await core.usage.createLimit(right.consumerTenantId, { ...limit, name: 'soft', amount: 4n, hard: false, alertPercents: [50, 100] });
  await core.usage.createLimit(right.consumerTenantId, {
    ...limit,
    name: 'hour',
    window: 'HOUR',
    amount: 4n,
    hard: false,
    alertPercents: [50],
  });
  const keyed = { tenantId: right.consumerTenantId, key: 'k', digest: Buffer.alloc(32), answer: Buffer.from('a'), storeKey: null };
  for (const key of [keyed, null]) {
    const admission = await server.leases.admit(right, 2, 1_000);
    await server.settlement.settle(finished(right, admission, { keyed: key }));
  }
  await server.leases.admit(right, 2, 1_000);
  const payout = { kind: 'PAYOUT', direction: 'OUT', amountNanos: 10n, pending: true, timeoutMs: null, note: null } as const;
  const publisher = { id: right.publisherTenantId };
  const pending = await core.billing.createTransfer(publisher, { ...payout, id: newId() });
  await core.billing.postTransfer({ id: newId(), pendingId: pending.id, amountNanos: 7n, note: null });
  const adjustment = await core.billing.createTransfer(
    { id: right.consumerTenantId },
    { ...payout, id: newId(), kind: 'ADJUSTMENT', pending: false },
  );
  await core.billing.reverseTransfer({ id: newId(), reversesId: adjustment.id, note: null });
  await core.billing.createTransfer(publisher, { ...payout, id: newId() });
  // Its maintenance would meet the locks of the broken books; the call in flight keeps its lease, since the clock stands still.
  await server[Symbol.asyncDispose]();
});
afterAll(() => core[Symbol.asyncDispose]());

/** What the audit, of one tenant where it is given, finds where these statements were executed, past every trigger and CHECK. */
function auditAfter(statements: readonly string[], tenantId: string | null = null): Promise<string[]> {
  return undone(core.db, async (tx) => {
    await tx.$executeRaw`set local session_replication_role = replica`;
    for (const index of ['transfer_pending_key', 'transfer_reverses_key']) await tx.$executeRawUnsafe(`drop index ${index}`);
    for (const [table, check] of CHECKS) await tx.$executeRawUnsafe(`alter table ${table} drop constraint ${check}`);
    for (const statement of statements) expect(await tx.$executeRawUnsafe(statement), statement).toBeGreaterThan(0);
    const findings = await runAudit(inside(core.db, tx), tenantId);
    return findings.filter(({ rows }) => rows.length > 0).map(({ invariant }) => invariant);
  });
}

const CHECKS = [
  ['account', 'account_wallet_check'],
  ['account', 'account_payable_check'],
  ['transfer', 'transfer_phase_check'],
  ['usage_counter', 'usage_counter_bounds_check'],
  ['subscription_charge', 'subscription_charge_bounds_check'],
  ['usage_record', 'usage_record_bounds_check'],
] as const;

/** The database as it looks from inside an open transaction, to the system role. */
function inside(db: Database, tx: Tx): Database {
  const $transaction = async (fn: (tx: Tx) => Promise<unknown>) => fn(tx);
  return {
    ...db,
    setRole: true,
    systemQuery: null,
    systemClient: { $transaction } as unknown as Database['systemClient'],
    listen: db.listen,
    [Symbol.asyncDispose]: async () => {},
  };
}

const copy = (table: string, changes: Record<string, string>, where = 'true') => `
  insert into ${table} select (jsonb_populate_record(r, jsonb_build_object(${Object.entries(changes)
    .map(([column, value]) => `'${column}', ${value}`)
    .join(', ')}))).* from ${table} r where ${where} limit 1`;
const copyOf = (where: string, changes: Record<string, string>) => copy('transfer', changes, where);
const OTHER = "'019a0000-0000-7000-8000-000000000000'";

/** Each invariant, and what breaks it. */
const BROKEN: Record<string, string[]> = {
  'the sum of all balances is zero per currency': ["update account set balance_nanos = balance_nanos + 1 where kind = 'PLATFORM_REVENUE'"],
  'a stored balance is the sum of its transfers': [
    "update account set balance_nanos = balance_nanos + 1 where kind = 'PLATFORM_REVENUE'",
    "update account set balance_nanos = balance_nanos - 1 where kind = 'FUNDING'",
  ],
  'what an account has pending is the sum of its unresolved transfers': [
    "update account set pending_debits_nanos = pending_debits_nanos + 1 where kind = 'PUBLISHER_PAYABLE'",
  ],
  'a pending transfer is resolved once, between its accounts, by no more than it reserves': [
    "update transfer set amount_nanos = 11 where phase = 'POST_PENDING'",
  ],
  'a transfer is reversed once, between its accounts, by no more than it posted': [
    "update transfer set amount_nanos = amount_nanos + 1 where kind = 'REVERSAL'",
  ],
  'nothing is written to a period after its closing': [
    "insert into closed_period (period, closed_at) values ('2026-11', mercato_now() - interval '1 second')",
  ],
  'the transfers of a batch sum to zero per currency': ["update transfer set currency = 'USD' where kind = 'COMMISSION'"],
  'a wallet less its holds and what is pending is within its credit limit': [
    "update account set pending_debits_nanos = balance_nanos - held_nanos + 1 where kind = 'WALLET'",
  ],
  'a publisher is paid no more than it earned': [
    "update account set pending_debits_nanos = balance_nanos + 1 where kind = 'PUBLISHER_PAYABLE'",
  ],
  'a wallet holds what its leases can cost': ["update account set held_nanos = held_nanos - 1 where kind = 'WALLET'"],
  'used and leased units are within the quota': ['update usage_counter set quota_units = used_units + leased_units - 1'],
  'a counter is the sum of its usage records': ['update usage_counter set used_units = used_units - 1'],
  'the calls of a month under one plan version cost what it says': ['update plan_version set unit_price_nanos = unit_price_nanos + 1'],
  'every usage record has its counter': ['delete from usage_counter'],
  'leased units are the sum of the leases': ['update lease set units = units - 1'],
  'every lease has its counter': ['delete from usage_counter'],
  'a limit has leased what its leases hold': ['update limit_counter set leased = leased + 1'],
  'a limit past a threshold has told of it': ['delete from usage_alert where percent = 100'],
  'every alert has one message in the outbox, for as long as that is kept': ['delete from outbox'],
  'a rollup is the sum of its usage records': ["update usage_rollup set units = units + 1 where grain = 'DAY'"],
  'no lease outlives its expiry by more than a sweep': ["update lease set expires_at = mercato_now() - interval '6 seconds'"],
  'one usage record per prediction': [copy('usage_record', { period: "'2026-12'" }, 'amount_nanos > 0')],
  'every idempotency key has its usage record': [copy('idempotency_key', { key: "'other'", record_id: OTHER })],
  'a charge is the sum of its usage records': ['update usage_record set amount_nanos = amount_nanos + 1'],
  'every priced usage record has its charge': [`update usage_record set transfer_id = ${OTHER}::uuid`],
  'the consumer pays what publisher and platform receive': [
    "update transfer set debit_account_id = (select id from account where kind = 'PLATFORM_REVENUE') where kind = 'CHARGE'",
  ],
  'commission is the rate of what was charged, rounded down once': [
    "update transfer set amount_nanos = amount_nanos - 1 where kind = 'COMMISSION'",
  ],
};

const ANOTHER_PAYABLE = copy('account', { id: OTHER, kind: "'PUBLISHER_PAYABLE'", tenant_id: OTHER });

/** As BROKEN, where that breaks what only the platform has. */
const BROKEN_OF_TENANT: Record<string, string[]> = {
  'a stored balance is the sum of its transfers': ["update account set balance_nanos = balance_nanos - 1 where kind <> 'PLATFORM_REVENUE'"],
};
const ofTenant = Object.entries({ ...BROKEN, ...BROKEN_OF_TENANT }).filter(
  ([invariant]) => !invariant.startsWith('the sum of all balances'),
);
/** What only one side has. */
const ONE_SIDED: Record<string, 'consumer' | 'publisher'> = {
  'what an account has pending is the sum of its unresolved transfers': 'publisher',
  'a pending transfer is resolved once, between its accounts, by no more than it reserves': 'publisher',
  'a transfer is reversed once, between its accounts, by no more than it posted': 'consumer',
  'a wallet less its holds and what is pending is within its credit limit': 'consumer',
  'a publisher is paid no more than it earned': 'publisher',
  'a wallet holds what its leases can cost': 'consumer',
  'every lease has its counter': 'consumer',
  'a limit has leased what its leases hold': 'consumer',
  'every idempotency key has its usage record': 'consumer',
  'a limit past a threshold has told of it': 'consumer',
  'every alert has one message in the outbox, for as long as that is kept': 'consumer',
};

describe('the audit of one tenant', () => {
  it('is clean while calls are in flight, has every invariant but the sum of all balances, and finds nothing of a tenant without books', async () => {
    for (const tenantId of [consumer, publisherId, newId()]) {
      const findings = await runAudit(core.db, tenantId);
      expect(findings.filter(({ rows }) => rows.length > 0)).toEqual([]);
      expect(findings.map(({ invariant }) => invariant).sort()).toEqual(ofTenant.map(([invariant]) => invariant).sort());
    }
  });

  it.each(ofTenant)('reports to the sides that it concerns, and to nobody else, a breach of: %s', async (invariant, statements) => {
    const side = ONE_SIDED[invariant];
    const found = async (tenantId: string) => (await auditAfter(statements, tenantId)).includes(invariant);
    expect({ consumer: await found(consumer), publisher: await found(publisherId), other: await found(newId()) }).toEqual({
      consumer: side !== 'publisher',
      publisher: side !== 'consumer',
      other: false,
    });
  });

  it('reports to a publisher a payout in its name that is out of none of its accounts', async () => {
    const ofAnother = [ANOTHER_PAYABLE, `update transfer set debit_account_id = ${OTHER}::uuid where kind = 'PAYOUT'`];
    expect(await auditAfter(ofAnother, publisherId)).toContain('the consumer pays what publisher and platform receive');
  });

  it('is of the tenant of a name', async () => {
    const { name } = await core.tenant();
    expect(await runAuditOf(core.db, name)).toHaveLength(ofTenant.length);
    expect(await runAuditOf(core.db, null)).toHaveLength(ofTenant.length + 1);
    await expect(runAuditOf(core.db, 'nobody')).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });
});

describe('the audit', () => {
  it('is clean while calls are in flight', async () => {
    expect((await runAudit(core.db)).filter(({ rows }) => rows.length > 0)).toEqual([]);
  });

  it('is proved able to fail in every invariant that it has', async () => {
    expect((await runAudit(core.db)).map(({ invariant }) => invariant).sort()).toEqual(Object.keys(BROKEN).sort());
  });

  it.each(Object.entries(BROKEN))('reports a breach of: %s', async (invariant, statements) => {
    expect(await auditAfter(statements)).toContain(invariant);
  });

  it.each([
    ['a limit was removed', 'update usage_limit set removed_at = mercato_now()'],
    ['a counter is of a window that is over', "update limit_counter set starts_at = starts_at - interval '1 day'"],
    ['an hour of the same day has told', "update usage_alert set counter_id = limit_id where day <> ''"],
    ['its amount is larger now', 'update usage_limit set amount = 9'],
  ])('asks no limit to tell where %s', async (_, statement) => {
    const [silent, quiet] = [await auditAfter([statement, 'delete from outbox']), await auditAfter([statement])];
    expect(silent).toEqual(['every alert has one message in the outbox, for as long as that is kept']);
    expect(quiet).toEqual([]);
  });

  it.each([
    ['a usage record is lost', ['delete from usage_record where id in (select record_id from idempotency_key)']],
    ['a transfer is lost', ["delete from transfer where kind = 'CHARGE'"]],
    ['a lease is lost', ['delete from lease']],
    ['a rollup is lost', ["delete from usage_rollup where grain = 'HOUR'"]],
    ['an account is lost', ["delete from account where kind = 'PUBLISHER_PAYABLE'"]],
    ['a pending transfer is resolved twice', [copyOf("phase = 'POST_PENDING'", { id: OTHER })]],
    ['a transfer is reversed twice', [copyOf("kind = 'REVERSAL'", { id: OTHER })]],
    ['a pending transfer is lost', ["delete from transfer where phase = 'PENDING'"]],
    [
      'a usage record comes after the closing',
      [
        "insert into closed_period (period, closed_at) values ('2026-11', mercato_now())",
        "update usage_record set created_at = mercato_now() + interval '1 second'",
      ],
    ],
    ['an alert is told of twice', [copy('outbox', { id: OTHER })]],
    ['a limit of an hour does not tell', ["delete from usage_alert where day <> ''"]],
    ['a free unit was billed', ['update plan_version set free_units = 1']],
    ['a call of the publisher itself was billed', ['update usage_record set amount_nanos = 1 where amount_nanos = 0']],
    ['a charge is posted twice', [copy('transfer', { id: OTHER })]],
    [
      'a charge pays the wrong publisher',
      [ANOTHER_PAYABLE, `update transfer set credit_account_id = ${OTHER}::uuid where kind = 'CHARGE'`],
    ],
  ])('finds out when %s', async (_, statements) => {
    expect(await auditAfter(statements)).not.toEqual([]);
  });
});

it('no breach stays behind', async () => {
  const constraints = await asAdmin(core.db, (tx) => tx.$queryRaw<{ name: string }[]>`select conname::text "name" from pg_constraint`);
  expect(constraints.map(({ name }) => name)).toEqual(expect.arrayContaining(CHECKS.map(([, check]) => check)));
});
