import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asTenant } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { asAdmin } from '../support/admin.ts';
import { broken, type Core, codeOf, finished, openCore, type Process } from '../support/core.ts';
import { accountOf, charged, event, refusalOf } from '../support/ledger.ts';

const NOON = '2026-11-15T12:00:00Z';

let core: Core;
let server: Process;
beforeAll(async () => {
  core = await openCore(NOON);
  server = await core.process();
});
afterAll(async () => {
  expect(await broken(core.db)).toEqual([]);
  await core[Symbol.asyncDispose]();
});

const walletOf = (id: string) => asTenant(core.db, id, (tx) => core.billing.wallet(tx, id));
const transfersOf = (id: string) => asTenant(core.db, id, (tx) => core.billing.transfers(tx, id, { first: 100, afterId: null }));
const post = (pendingId: string, amountNanos: bigint | null = null, id = newId()) =>
  core.billing.postTransfer({ id, pendingId, amountNanos, note: null });
const cancel = (pendingId: string, id = newId()) => core.billing.voidTransfer({ id, pendingId, note: null });
const reverse = (reversesId: string, id = newId()) => core.billing.reverseTransfer({ id, reversesId, note: null });

/** A publisher that has earned 8,500. */
async function publisher(): Promise<{ id: string }> {
  return { id: (await charged(core, server)).publisherTenantId };
}

async function credited(nanos: bigint): Promise<{ id: string }> {
  const { id } = await core.tenant();
  await core.billing.addCredit({ id }, { amountNanos: nanos, note: null, idempotencyKey: newId() });
  return { id };
}

describe('an event', () => {
  it('moves money at once between the accounts of its kind', async () => {
    const tenant = await credited(100n);
    const cleared = await accountOf(core, 'PAYOUT_CLEARING');
    await core.billing.createTransfer(tenant, event(30n, { kind: 'ADJUSTMENT', direction: 'IN' }));
    await core.billing.createTransfer(tenant, event(10n, { kind: 'ADJUSTMENT' }));
    expect((await walletOf(tenant.id)).balance.nanos).toBe(120n);
    const paid = await publisher();
    await core.billing.createTransfer(paid, event(8_000n, { direction: null }));
    expect(await accountOf(core, 'PUBLISHER_PAYABLE', paid.id)).toEqual({ balance: 500n, debits: 0n, credits: 0n });
    expect((await accountOf(core, 'PAYOUT_CLEARING')).balance - cleared.balance).toBe(8_000n);
  });

  it.each([
    ['a payout inwards', event(1n, { direction: 'IN' })],
    ['an adjustment that does not say which way', event(1n, { kind: 'ADJUSTMENT', direction: null })],
  ])('refuses %s', async (_, given) => {
    expect(await refusalOf(async () => core.billing.createTransfer(await core.tenant(), given))).toBe('BAD_USER_INPUT direction');
  });

  it('knows no absent tenant', async () => {
    expect(await refusalOf(() => core.billing.createTransfer({ id: newId() }, event(1n)))).toBe('NOT_FOUND');
    expect(await refusalOf(() => core.billing.createTransfer({ id: newId() }, event(0n)))).toBe('BAD_USER_INPUT amountNanos');
  });

  it('is seen by its tenant alone, with what it did', async () => {
    const [tenant, other] = [await credited(100n), await core.tenant()];
    const made = event(40n, { kind: 'ADJUSTMENT', pending: true, timeoutMs: 60_000, note: 'goodwill' });
    const pending = await core.billing.createTransfer(tenant, made);
    const posted = await post(pending.id, 10n);
    const reversal = await reverse(posted.id);
    expect(pending).toMatchObject({ id: made.id, phase: 'PENDING', direction: 'OUT', note: 'goodwill', period: '2026-11' });
    expect(pending.expiresAt).toEqual(new Date('2026-11-15T12:01:00Z'));
    expect(posted).toMatchObject({ phase: 'POST_PENDING', kind: 'ADJUSTMENT', direction: 'OUT', pendingId: pending.id, expiresAt: null });
    expect(reversal).toMatchObject({ phase: 'POSTED', kind: 'REVERSAL', direction: 'IN', reversesId: posted.id, amount: { nanos: 10n } });
    const ids = (await transfersOf(tenant.id)).map(({ id }) => id);
    for (const { id } of [pending, posted, reversal]) {
      expect(ids).toContain(id);
      expect(await asTenant(core.db, other.id, (tx) => core.billing.findTransfer(tx, other.id, id))).toBeNull();
    }
    expect(await transfersOf(other.id)).toEqual([]);
  });
});

describe('a pending transfer', () => {
  it('reserves what it takes, also from calls, and moves nothing', async () => {
    const right = await core.consumer({ unitPriceNanos: 10n }, 100n);
    const tenant = { id: right.consumerTenantId };
    const pending = await core.billing.createTransfer(tenant, event(60n, { kind: 'ADJUSTMENT', pending: true }));
    expect(await walletOf(tenant.id)).toMatchObject({ balance: { nanos: 100n }, pending: { nanos: 60n }, held: { nanos: 0n } });
    expect(await codeOf(() => server.leases.admit(right, 5, 1_000))).toBe('INSUFFICIENT_CREDIT');
    const admission = await server.leases.admit(right, 4, 1_000);
    expect(await refusalOf(() => core.billing.createTransfer(tenant, event(1n, { kind: 'ADJUSTMENT' })))).toContain('EXCEEDS_BALANCE');
    await server.settlement.settle(finished(right, admission));
    await cancel(pending.id);
    await core.billing.createTransfer(tenant, event(60n, { kind: 'ADJUSTMENT' }));
    expect(await walletOf(tenant.id)).toMatchObject({ balance: { nanos: 0n }, pending: { nanos: 0n } });
  });

  it('brings nothing before it is posted', async () => {
    const tenant = await core.tenant();
    const pending = await core.billing.createTransfer(tenant, event(50n, { kind: 'ADJUSTMENT', direction: 'IN', pending: true }));
    expect(await accountOf(core, 'WALLET', tenant.id)).toEqual({ balance: 0n, debits: 0n, credits: 50n });
    expect(await refusalOf(() => core.billing.createTransfer(tenant, event(1n, { kind: 'ADJUSTMENT' })))).toContain('EXCEEDS_BALANCE');
    await post(pending.id);
    expect(await accountOf(core, 'WALLET', tenant.id)).toEqual({ balance: 50n, debits: 0n, credits: 0n });
  });

  it.each([
    ['in full', null, 8_000n],
    ['in part, and the rest is free again', 3_000n, 3_000n],
    ['to the last nano but one', 7_999n, 7_999n],
  ])('is posted %s', async (_, amount, moved) => {
    const tenant = await publisher();
    const pending = await core.billing.createTransfer(tenant, event(8_000n, { pending: true }));
    expect(await accountOf(core, 'PUBLISHER_PAYABLE', tenant.id)).toEqual({ balance: 8_500n, debits: 8_000n, credits: 0n });
    expect((await post(pending.id, amount)).amount.nanos).toBe(moved);
    expect(await accountOf(core, 'PUBLISHER_PAYABLE', tenant.id)).toEqual({ balance: 8_500n - moved, debits: 0n, credits: 0n });
  });

  it('is voided with the amount that it reserved', async () => {
    const tenant = await publisher();
    const pending = await core.billing.createTransfer(tenant, event(8_500n, { pending: true }));
    expect(await cancel(pending.id)).toMatchObject({ phase: 'VOID_PENDING', amount: { nanos: 8_500n }, pendingId: pending.id });
    expect(await accountOf(core, 'PUBLISHER_PAYABLE', tenant.id)).toEqual({ balance: 8_500n, debits: 0n, credits: 0n });
  });

  it('expires at its instant, and the sweep releases it once', async () => {
    const tenant = await publisher();
    const pending = await core.billing.createTransfer(tenant, event(8_500n, { pending: true, timeoutMs: 5_000 }));
    const kept = await core.billing.createTransfer(await publisher(), event(1n, { pending: true }));
    try {
      await core.setClock('2026-11-15T12:00:04.999Z');
      expect(await core.billing.expireTransfers()).toBe(0);
      await core.setClock('2026-11-15T12:00:05Z');
      for (const resolve of [post, cancel]) {
        expect(await refusalOf(() => resolve(pending.id))).toBe('CONFLICT PENDING_EXPIRED pendingId');
      }
      expect((await accountOf(core, 'PUBLISHER_PAYABLE', tenant.id)).debits).toBe(8_500n);
      expect(await Promise.all([core.billing.expireTransfers(), core.billing.expireTransfers()])).toEqual(expect.arrayContaining([1, 0]));
      expect(await accountOf(core, 'PUBLISHER_PAYABLE', tenant.id)).toEqual({ balance: 8_500n, debits: 0n, credits: 0n });
      expect(await refusalOf(() => post(pending.id))).toBe('CONFLICT PENDING_EXPIRED pendingId');
      const ended = (await transfersOf(tenant.id)).find(({ phase }) => phase === 'EXPIRE_PENDING');
      expect(ended).toMatchObject({ pendingId: pending.id, amount: { nanos: 8_500n } });
      await post(kept.id);
    } finally {
      await core.setClock(NOON);
    }
  });

  it('expires though hundreds before it were resolved', async () => {
    const tenant = await credited(10n);
    const pending = await core.billing.createTransfer(tenant, event(1n, { kind: 'ADJUSTMENT', pending: true, timeoutMs: 1_000 }));
    // By the ids of these, all come before it.
    await asAdmin(core.db, async (tx) => {
      await tx.$executeRaw`
        insert into transfer (id, batch_id, kind, phase, debit_account_id, credit_account_id, amount_nanos, currency, period, created_at, expires_at, consumer_tenant_id)
        select ('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, t.batch_id, t.kind, 'PENDING', t.debit_account_id, t.credit_account_id, 1, t.currency,
               t.period, t.created_at, t.expires_at, t.consumer_tenant_id
          from transfer t, generate_series(1, 500) i where t.id = ${pending.id}::uuid`;
      await tx.$executeRaw`
        insert into transfer (id, batch_id, kind, phase, debit_account_id, credit_account_id, amount_nanos, currency, period, pending_id, consumer_tenant_id)
        select gen_random_uuid(), t.batch_id, t.kind, 'VOID_PENDING', t.debit_account_id, t.credit_account_id, 1, t.currency, t.period, t.id, t.consumer_tenant_id
          from transfer t where t.id::text like '00000000-0000-4000-8000-%'`;
    });
    try {
      await core.setClock('2026-11-15T12:00:10Z');
      while ((await core.billing.expireTransfers()) > 0);
      expect((await accountOf(core, 'WALLET', tenant.id)).debits).toBe(0n);
    } finally {
      await core.setClock(NOON);
    }
  });

  it('is resolved by exactly one of many who try at once', async () => {
    const tenant = await publisher();
    const pending = await core.billing.createTransfer(tenant, event(8_500n, { pending: true }));
    const tries = Array.from({ length: 20 }, (_, i) => refusalOf(() => (i % 2 === 0 ? post(pending.id, 100n) : cancel(pending.id))));
    const outcomes = await Promise.all(tries);
    const won = outcomes.indexOf('OK');
    const lost = `CONFLICT ${won % 2 === 0 ? 'ALREADY_POSTED' : 'ALREADY_VOIDED'} pendingId`;
    expect(outcomes).toEqual(outcomes.map((_, i) => (i === won ? 'OK' : lost)));
    const balance = won % 2 === 0 ? 8_400n : 8_500n;
    expect(await accountOf(core, 'PUBLISHER_PAYABLE', tenant.id)).toEqual({ balance, debits: 0n, credits: 0n });
  });

  it('pays no more than there is, however many ask at once', async () => {
    const tenant = await publisher();
    const asks = Array.from({ length: 20 }, (_, i) =>
      refusalOf(() => core.billing.createTransfer(tenant, event(1_000n, { pending: i % 2 > 0 }))),
    );
    const outcomes = await Promise.all(asks);
    expect(outcomes.filter((outcome) => outcome === 'OK')).toHaveLength(8);
    expect(outcomes.filter((outcome) => outcome === 'CONFLICT EXCEEDS_BALANCE amountNanos')).toHaveLength(12);
    const { balance, debits } = await accountOf(core, 'PUBLISHER_PAYABLE', tenant.id);
    expect(balance - debits).toBe(500n);
  });
});

describe('a reversal', () => {
  it('gives the consumer a charge back, with the commission, and touches no unit', async () => {
    const right = await charged(core, server);
    const before = await accountOf(core, 'PLATFORM_REVENUE');
    const charge = (await transfersOf(right.consumerTenantId)).find(({ kind }) => kind === 'CHARGE');
    const reversal = await reverse(charge?.id ?? '');
    expect(reversal).toMatchObject({ direction: 'IN', amount: { nanos: 10_000n }, reversesId: charge?.id });
    expect((await walletOf(right.consumerTenantId)).balance.nanos).toBe(10_000n);
    expect((await accountOf(core, 'PUBLISHER_PAYABLE', right.publisherTenantId)).balance).toBe(0n);
    expect(before.balance - (await accountOf(core, 'PLATFORM_REVENUE')).balance).toBe(1_500n);
    const seen = (await transfersOf(right.consumerTenantId)).filter(({ kind }) => kind === 'REVERSAL');
    expect(seen.map(({ id }) => id)).toEqual([reversal.id]);
    expect((await transfersOf(right.publisherTenantId)).filter(({ kind }) => kind === 'REVERSAL')).toHaveLength(2);
  });

  it('of a commission alone leaves only the charge to be reversed', async () => {
    const right = await charged(core, server);
    const mine = await transfersOf(right.publisherTenantId);
    const idOf = (kind: string) => mine.find((transfer) => transfer.kind === kind)?.id ?? '';
    await reverse(idOf('COMMISSION'));
    expect((await accountOf(core, 'PUBLISHER_PAYABLE', right.publisherTenantId)).balance).toBe(10_000n);
    await reverse(idOf('CHARGE'));
    expect((await accountOf(core, 'PUBLISHER_PAYABLE', right.publisherTenantId)).balance).toBe(0n);
    for (const kind of ['COMMISSION', 'CHARGE'])
      expect(await refusalOf(() => reverse(idOf(kind)))).toBe('CONFLICT ALREADY_REVERSED reversesId');
  });

  it('is refused where the publisher was paid out, whole', async () => {
    const right = await charged(core, server);
    const payout = await core.billing.createTransfer({ id: right.publisherTenantId }, event(1n));
    const charge = (await transfersOf(right.consumerTenantId)).find(({ kind }) => kind === 'CHARGE');
    await expect(core.billing.reverseTransfer({ id: newId(), reversesId: charge?.id ?? '', note: null })).rejects.toMatchObject({
      data: { rule: 'EXCEEDS_BALANCE', given: '8500', expected: 'at most 8499' },
    });
    expect((await accountOf(core, 'PUBLISHER_PAYABLE', right.publisherTenantId)).balance).toBe(8_499n);
    await reverse(payout.id);
    await reverse(charge?.id ?? '');
  });

  it('happens once, however many try at once', async () => {
    const tenant = await credited(100n);
    const [credit] = await transfersOf(tenant.id);
    const outcomes = await Promise.all(Array.from({ length: 20 }, () => refusalOf(() => reverse(credit?.id ?? ''))));
    expect(outcomes.filter((outcome) => outcome === 'OK')).toHaveLength(1);
    expect(outcomes.filter((outcome) => outcome === 'CONFLICT ALREADY_REVERSED reversesId')).toHaveLength(19);
    expect((await walletOf(tenant.id)).balance.nanos).toBe(0n);
  });
});

describe('the same id', () => {
  it('with the same content answers the transfer that there is, whatever has become of it', async () => {
    const tenant = await publisher();
    const made = event(8_500n, { pending: true, timeoutMs: 60_000, note: 'November' });
    const [first, ...others] = await Promise.all(Array.from({ length: 20 }, () => core.billing.createTransfer(tenant, made)));
    for (const other of others) expect(other).toEqual(first);
    const [postId, reverseId] = [newId(), newId()];
    const [posted, ...again] = await Promise.all(Array.from({ length: 20 }, () => post(made.id, 500n, postId)));
    for (const other of again) expect(other).toEqual(posted);
    const [reversal, ...back] = await Promise.all(Array.from({ length: 20 }, () => reverse(postId, reverseId)));
    for (const other of back) expect(other).toEqual(reversal);
    await core.billing.createTransfer(tenant, event(8_500n));
    expect(await core.billing.createTransfer(tenant, made)).toEqual(first);
    expect(await post(made.id, 500n, postId)).toEqual(posted);
    expect(await reverse(postId, reverseId)).toEqual(reversal);
    const whole = await core.billing.createTransfer(await publisher(), event(10n, { pending: true }));
    const voidId = newId();
    expect(await cancel(whole.id, voidId)).toEqual(await cancel(whole.id, voidId));
  });

  it.each([
    ['kind', { kind: 'PAYOUT' }],
    ['pending', { pending: true }],
    ['direction', { direction: 'IN' }],
    ['amountNanos', { amountNanos: 41n }],
    ['note', { note: 'another' }],
  ] as const)('with another %s conflicts, naming it', async (field, change) => {
    const tenant = await credited(100n);
    const made = event(40n, { kind: 'ADJUSTMENT' });
    await core.billing.createTransfer(tenant, made);
    expect(await refusalOf(() => core.billing.createTransfer(tenant, { ...made, ...change }))).toBe(`IDEMPOTENCY_CONFLICT ${field}`);
  });

  it('with another tenant, timeout, pending transfer, part, or original conflicts, naming it', async () => {
    const [tenant, other] = [await publisher(), await publisher()];
    const made = event(40n, { pending: true, timeoutMs: 60_000 });
    await core.billing.createTransfer(tenant, made);
    expect(await refusalOf(() => core.billing.createTransfer(other, made))).toBe('IDEMPOTENCY_CONFLICT tenantId');
    const longer = { ...made, timeoutMs: 60_001 };
    expect(await refusalOf(() => core.billing.createTransfer(tenant, longer))).toBe('IDEMPOTENCY_CONFLICT timeoutMs');
    const second = await core.billing.createTransfer(other, event(40n, { pending: true }));
    const { id } = await post(made.id, 30n);
    expect(await refusalOf(() => post(second.id, 30n, id))).toBe('IDEMPOTENCY_CONFLICT pendingId');
    expect(await refusalOf(() => post(made.id, 31n, id))).toBe('IDEMPOTENCY_CONFLICT amountNanos');
    expect(await refusalOf(() => cancel(made.id, id))).toBe('IDEMPOTENCY_CONFLICT id');
    expect(await refusalOf(() => core.billing.createTransfer(tenant, { ...made, id }))).toBe('IDEMPOTENCY_CONFLICT id');
    expect(await refusalOf(() => reverse(made.id, id))).toBe('IDEMPOTENCY_CONFLICT reversesId');
    await cancel(second.id);
  });
});
