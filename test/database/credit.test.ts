import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asSystem, asTenant } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { accountId } from '../../src/billing/accounts.ts';
import type { TransferView } from '../../src/billing/billing.ts';
import { asAdmin } from '../support/admin.ts';
import { broken, type Core, codeOf, finished, openCore, type Process } from '../support/core.ts';

let core: Core;
let server: Process;
beforeAll(async () => {
  core = await openCore();
  server = await core.process();
});
afterAll(async () => {
  expect(await broken(core.db)).toEqual([]);
  await core[Symbol.asyncDispose]();
});

const add = (tenant: { id: string } | { name: string }, amountNanos: bigint, idempotencyKey: string, note: string | null = null) =>
  core.billing.addCredit(tenant, { amountNanos, note, idempotencyKey });
const pageOf = (tenantId: string, first: number, afterId: string | null = null): Promise<TransferView[]> =>
  asTenant(core.db, tenantId, (tx) => core.billing.transfers(tx, tenantId, { first, afterId }));

describe('addCredit', () => {
  it('adds once per key, and answers a retry with the same transfer', async () => {
    const { id, name } = await core.tenant();
    const key = newId();
    const first = await add({ id }, 500n, key, 'welcome');
    const again = await add({ name }, 500n, key, 'welcome');
    expect(again).toEqual(first);
    expect(first).toMatchObject({
      transfer: { kind: 'CREDIT', direction: 'IN', amount: { nanos: 500n, currency: 'EUR' }, note: 'welcome' },
    });
    expect(again.wallet.balance.nanos).toBe(500n);
  });

  it('adds once where two operators press the button at once', async () => {
    const { id } = await core.tenant();
    const key = newId();
    const [first, second] = await Promise.all([add({ id }, 500n, key), add({ id }, 500n, key)]);
    expect(second.transfer).toEqual(first.transfer);
    expect((await add({ id }, 1n, newId())).wallet.balance.nanos).toBe(501n);
  });

  it('loses none of many at once', async () => {
    const { id } = await core.tenant();
    await Promise.all(Array.from({ length: 20 }, () => add({ id }, 3n, newId())));
    expect((await asTenant(core.db, id, (tx) => core.billing.wallet(tx, id))).balance.nanos).toBe(60n);
  });

  it('refuses a key that was used for another amount, note or tenant', async () => {
    const [{ id }, other] = [await core.tenant(), await core.tenant()];
    const key = newId();
    await add({ id }, 500n, key);
    expect(await codeOf(() => add({ id }, 501n, key))).toBe('IDEMPOTENCY_CONFLICT');
    expect(await codeOf(() => add({ id }, 500n, key, 'a note'))).toBe('IDEMPOTENCY_CONFLICT');
    expect(await codeOf(() => add({ id: other.id }, 500n, key))).toBe('IDEMPOTENCY_CONFLICT');
    expect((await asTenant(core.db, other.id, (tx) => core.billing.wallet(tx, other.id))).balance.nanos).toBe(0n);
  });

  it.each([
    ['nothing', 0n, 'key', null, 'amountNanos'],
    ['a negative amount', -1n, 'key', null, 'amountNanos'],
    ['more than a billion', 10n ** 18n + 1n, 'key', null, 'amountNanos'],
    ['an empty key', 1n, '', null, 'idempotencyKey'],
    ['a key with half a surrogate', 1n, 'k\ud800', null, 'idempotencyKey'],
    ['a key of 256 characters', 1n, 'k'.repeat(256), null, 'idempotencyKey'],
    ['a note of 201 characters', 1n, 'key', 'n'.repeat(201), 'note'],
    ['a note with NUL', 1n, 'key', 'a\0b', 'note'],
    ['a note with half a character', 1n, 'key', 'a\ud800', 'note'],
  ])('refuses %s', async (_, amount, key, note, field) => {
    const { id } = await core.tenant();
    await expect(add({ id }, amount, key, note)).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field } });
  });

  it('takes the bounds themselves, and knows no absent tenant', async () => {
    const { id } = await core.tenant();
    expect((await add({ id }, 1n, newId())).wallet.balance.nanos).toBe(1n);
    expect((await add({ id }, 10n ** 18n, 'k'.repeat(255), 'n'.repeat(200))).wallet.balance.nanos).toBe(10n ** 18n + 1n);
    expect(await codeOf(() => add({ id: newId() }, 1n, newId()))).toBe('NOT_FOUND');
    expect(await codeOf(() => add({ name: 'nobody-here' }, 1n, newId()))).toBe('NOT_FOUND');
  });

  it('holds balances of many times the largest transfer', async () => {
    const { id } = await core.tenant();
    for (let i = 0; i < 12; i++) await add({ id }, 10n ** 18n, newId());
    expect((await asTenant(core.db, id, (tx) => core.billing.wallet(tx, id))).balance.nanos).toBe(12n * 10n ** 18n);
  });
});

describe('an account', () => {
  it('of a wallet pays as far as its credit limit', async () => {
    const right = await core.consumer({ unitPriceNanos: 10n }, 10n);
    await asAdmin(
      core.db,
      (tx) =>
        tx.$executeRaw`update account set credit_limit_nanos = 20 where kind = 'WALLET' and tenant_id = ${right.consumerTenantId}::uuid`,
    );
    expect(await codeOf(() => server.leases.admit(right, 4, 1_000))).toBe('INSUFFICIENT_CREDIT');
    await server.settlement.settle(finished(right, await server.leases.admit(right, 3, 1_000)));
  });

  it('whose making was undone is made anew', async () => {
    const { id } = await core.tenant();
    const undone = asSystem(core.db, async (tx) => {
      await core.billing.accounts(tx, id, id);
      throw new Error('undone');
    });
    await expect(undone).rejects.toThrow('undone');
    const { walletId } = await asSystem(core.db, (tx) => core.billing.accounts(tx, id, id));
    expect(await asSystem(core.db, (tx) => tx.account.count({ where: { id: walletId } }))).toBe(1);
  });

  it('is of one currency', async () => {
    const { id } = await core.tenant();
    const walletOf = async (currency: string) => (await asSystem(core.db, (tx) => accountId(tx, 'WALLET', id, currency))).id;
    const [eur, usd] = [await walletOf('EUR'), await walletOf('USD')];
    expect(usd).not.toBe(eur);
    expect([await walletOf('USD'), await walletOf('EUR')]).toEqual([usd, eur]);
  });
});

describe('transfers', () => {
  it('shows each side its direction, the consumer no commission, and a third tenant nothing', async () => {
    const right = await core.consumer({ unitPriceNanos: 1_000n }, 5_000n);
    const admission = await server.leases.admit(right, 2, 1_000);
    await server.settlement.settle(finished(right, admission));
    const shown = (views: TransferView[]) => views.map(({ kind, direction, amount }) => `${kind} ${direction} ${amount.nanos}`).sort();
    expect(shown(await pageOf(right.consumerTenantId, 10))).toEqual(['CHARGE OUT 2000', 'CREDIT IN 5000']);
    const earned = await pageOf(right.publisherTenantId, 10);
    expect(shown(earned)).toEqual(['CHARGE IN 2000', 'COMMISSION OUT 300']);
    const third = (await core.tenant()).id;
    expect(await pageOf(third, 10)).toEqual([]);
    for (const { id, kind } of earned) {
      const seen = await asTenant(core.db, right.consumerTenantId, (tx) => core.billing.findTransfer(tx, right.consumerTenantId, id));
      expect(seen?.kind).toBe(kind === 'CHARGE' ? 'CHARGE' : undefined);
      expect(await asTenant(core.db, third, (tx) => core.billing.findTransfer(tx, third, id))).toBeNull();
    }
  });

  it('pages newest first through equal times, without gap or repetition', async () => {
    const { id } = await core.tenant();
    for (let i = 1n; i <= 7n; i++) await add({ id }, i, newId());
    const seen: TransferView[] = [];
    for (let after: string | null = null; ; ) {
      const rows = await pageOf(id, 3, after);
      seen.push(...rows.slice(0, 3));
      if (rows.length <= 3) break;
      after = rows[2]?.id ?? null;
    }
    expect(seen.map(({ amount }) => amount.nanos).sort()).toEqual([1n, 2n, 3n, 4n, 5n, 6n, 7n]);
    expect(seen.map(({ createdAt }) => createdAt.getTime())).toEqual(
      seen.map(({ createdAt }) => createdAt.getTime()).sort((a, b) => b - a),
    );
  });

  it("is empty after another tenant's cursor, as after none that exists", async () => {
    const [{ id }, other] = [await core.tenant(), await core.tenant()];
    await add({ id }, 1n, newId());
    const { transfer } = await add({ id: other.id }, 1n, newId());
    expect(await pageOf(id, 3, transfer.id)).toEqual(await pageOf(id, 3, newId()));
  });
});

describe('the ledger', () => {
  it.each(['transfer', 'usage_record', 'idempotency_key'])('neither changes nor forgets a row of %s, whoever asks', async (table) => {
    const right = await core.consumer({ unitPriceNanos: 1_000n }, 5_000n);
    const admission = await server.leases.admit(right, 1, 1_000);
    const keyed = { tenantId: right.consumerTenantId, key: 'k', digest: Buffer.alloc(32), answer: Buffer.from('a'), storeKey: null };
    await server.settlement.settle(finished(right, admission, { keyed }));
    const rows = await asAdmin(core.db, (tx) => tx.$queryRawUnsafe<unknown[]>(`select * from ${table}`));
    expect(rows.length).toBeGreaterThan(0);
    for (const statement of [`update ${table} set period = period`, `delete from ${table}`]) {
      await expect(asAdmin(core.db, (tx) => tx.$executeRawUnsafe(statement))).rejects.toThrow('append-only');
    }
  });
});
