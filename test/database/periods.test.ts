import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { asSystem } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import type { Finished } from '../../src/prediction/settlement.ts';
import { asAdmin } from '../support/admin.ts';
import { booksOf, broken, type Core, finished, openCore, type Process, type Right } from '../support/core.ts';
import { event, refusalOf } from '../support/ledger.ts';

let core: Core;
let server: Process;
let other: Process;
beforeAll(async () => {
  core = await openCore('2020-01-15T12:00:00Z');
  [server, other] = [await core.process(), await core.process()];
});
afterEach(async () => expect(await broken(core.db)).toEqual([]));
afterAll(() => core[Symbol.asyncDispose]());

let months = 0;
/** The next month that no test has used, in whose middle it is now; `end` goes to the start of the one after it. */
async function newMonth(): Promise<{ period: string; end(): Promise<void>; middle: string }> {
  const month = new Date(Date.UTC(2020, 2 * ++months));
  const after = new Date(Date.UTC(2020, 2 * months + 1));
  const period = month.toISOString().slice(0, 7);
  const middle = `${period}-15T12:00:00Z`;
  await core.setClock(middle);
  for (const process of [server, other]) await process.leases.maintain();
  return { period, middle, end: () => core.setClock(after.toISOString()) };
}

const close = (period: string) => refusalOf(() => core.billing.closePeriod(period));
const closedMonths = async () => (await core.billing.periods()).map(({ period }) => period);
const used = async (right: Right, period: string) => (await booksOf(core.db, right, period)).used;

async function keyed(right: Right): Promise<Finished['keyed']> {
  return { tenantId: right.consumerTenantId, key: newId(), digest: Buffer.alloc(32), answer: Buffer.from('a'), storeKey: null };
}

describe('closing', () => {
  it('looks in the order that it documents', async () => {
    const { period, end } = await newMonth();
    const right = await core.consumer({});
    const admission = await server.leases.admit(right, 1, 1_000);
    for (const form of ['2020-13', '2020-1', '2020-01-01', 'x'.repeat(100)]) expect(await close(form)).toBe('BAD_USER_INPUT period');
    expect(await close('2999-01')).toBe('CONFLICT PERIOD_NOT_OVER period');
    expect(await close(period)).toBe('CONFLICT PERIOD_NOT_OVER period');
    await end();
    expect(await close('2001-01')).toBe('NOT_FOUND PERIOD_NOT_FOUND period');
    expect(await close(period)).toBe('CONFLICT PERIOD_IN_USE period');
    await server.settlement.settle(finished(right, admission));
    await other.leases.maintain();
    expect(await close(period)).toBe('OK');
    await asAdmin(core.db, (tx) => tx.$executeRaw`update usage_counter set leased_units = 1 where period = ${period}`);
    expect(await close(period)).toBe('CONFLICT ALREADY_CLOSED period');
    await asAdmin(core.db, (tx) => tx.$executeRaw`update usage_counter set leased_units = 0 where period = ${period}`);
    expect(await closedMonths()).toContain(period);
  });

  it('waits for the leases: refused while a call is in flight, done after the sweep', async () => {
    const { period, end } = await newMonth();
    const right = await core.consumer({ unitPriceNanos: 10n }, 1_000n);
    const admission = await server.leases.admit(right, 3, 1_000);
    await end();
    expect(await close(period)).toBe('CONFLICT PERIOD_IN_USE period');
    await other.leases.maintain();
    expect(await close(period)).toBe('OK');
    const call = finished(right, admission, { keyed: await keyed(right) });
    const late = server.settlement.settle(call);
    await expect(late).rejects.toMatchObject({ code: 'OVERLOADED', message: expect.stringContaining('month') });
    expect(await booksOf(core.db, right, period)).toEqual({ used: 0n, leased: 0n, balance: 1_000n, held: 0n, records: 0n });
    expect(await server.replays.lookUp(right.consumerTenantId, call.keyed?.key ?? '')).toBeNull();
    const left = await asSystem(core.db, (tx) =>
      tx.transfer.count({ where: { consumerTenantId: right.consumerTenantId, kind: 'CHARGE' } }),
    );
    expect(left).toBe(0);
  });

  it('lets the rest of a group settle, in the month that is open', async () => {
    const { period, end } = await newMonth();
    const right = await core.consumer({ unitPriceNanos: 10n }, 1_000n);
    const late = await server.leases.admit(right, 1, 1_000);
    await end();
    await other.leases.maintain();
    expect(await close(period)).toBe('OK');
    const now = await other.leases.admit(right, 2, 1_000);
    const outcomes = await Promise.allSettled([late, now].map((admission) => server.settlement.settle(finished(right, admission))));
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'fulfilled']);
    expect([await used(right, period), await used(right, now.period)]).toEqual([0n, 2n]);
    await other.leases.maintain();
  });

  it('happens once where two ask at once', async () => {
    const { period, end } = await newMonth();
    await end();
    const outcomes = await Promise.all([close(period), close(period)]);
    expect(outcomes.sort()).toEqual(['CONFLICT ALREADY_CLOSED period', 'OK']);
  });

  it('comes by itself to every month that can be closed', async () => {
    const [first, second] = [await newMonth(), await newMonth()];
    await core.setClock(first.middle);
    const right = await core.consumer({});
    await server.leases.admit(right, 1, 1_000);
    await second.end();
    await core.billing.closeDuePeriods();
    expect(await closedMonths()).toContain(second.period);
    expect(await closedMonths()).not.toContain(first.period);
    await other.leases.maintain();
    await core.billing.closeDuePeriods();
    const closed = await closedMonths();
    expect(closed).toContain(first.period);
    expect(closed).toEqual(closed.toSorted().reverse());
    expect(closed.every((period) => period <= second.period)).toBe(true);
  });

  it('leaves pending transfers, which are resolved in the month that it is then', async () => {
    const { period, end } = await newMonth();
    const tenant = await core.tenant();
    const pending = await core.billing.createTransfer(tenant, event(5n, { kind: 'ADJUSTMENT', direction: 'IN', pending: true }));
    await end();
    expect(await close(period)).toBe('OK');
    const posted = await core.billing.postTransfer({ id: newId(), pendingId: pending.id, amountNanos: null, note: null });
    expect(posted.period > period).toBe(true);
    expect((await core.billing.reverseTransfer({ id: newId(), reversesId: posted.id, note: null })).period > period).toBe(true);
  });
});

describe('a closed month', () => {
  it('takes no record and no transfer, whoever writes', async () => {
    const { period, end } = await newMonth();
    await end();
    await core.billing.closePeriod(period);
    for (const sql of [record(period), transfer(period)]) {
      for (const as of [asSystem, asAdmin]) await expect(as(core.db, (tx) => tx.$executeRawUnsafe(sql))).rejects.toThrow('is closed');
    }
  });

  it('is not declared by the system role itself', async () => {
    const declare = asSystem(core.db, (tx) => tx.$executeRaw`insert into closed_period (period) values ('2019-01')`);
    await expect(declare).rejects.toThrow('permission denied');
  });
});

// Embedded, one transaction runs at a time.
describe.skipIf(process.env.MERCATO_TEST_DATABASE_URL === undefined)('a race with the closing', () => {
  it.each([
    ['a transfer', transfer],
    ['a usage record', record],
  ])('is lost by the closing where %s was written first: it gives up, and closes once that has ended', async (_, sql) => {
    const { period, end } = await newMonth();
    await end();
    const written = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<void>();
    const writer = asAdmin(core.db, async (tx) => {
      await tx.$executeRawUnsafe(sql(period));
      written.resolve();
      await ended.promise;
      throw new Error('undone');
    }).catch(() => {});
    await written.promise;
    expect(await close(period)).toBe('OVERLOADED');
    expect(await closedMonths()).not.toContain(period);
    ended.resolve();
    await writer;
    expect(await close(period)).toBe('OK');
  });

  it.each([
    ['a transfer', transfer],
    ['a usage record', record],
  ])('is lost by %s that waits for a closing under way', async (_, sql) => {
    const { period, end } = await newMonth();
    await end();
    const closing = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<void>();
    const closer = asSystem(core.db, async (tx) => {
      await tx.$executeRaw`select mercato_close_period(${period})`;
      closing.resolve();
      await ended.promise;
    });
    await closing.promise;
    const late = asSystem(core.db, (tx) => tx.$executeRawUnsafe(sql(period))).then(
      () => 'written',
      (error: Error) => error.message,
    );
    await waiting();
    ended.resolve();
    await closer;
    expect(await late).toContain('is closed');
  });

  it('is lost by a settlement that waits for a closing under way: nothing of it is left', async () => {
    const { period, end } = await newMonth();
    const right = await core.consumer({ unitPriceNanos: 10n }, 1_000n);
    const admission = await server.leases.admit(right, 1, 1_000);
    await end();
    await other.leases.maintain();
    const closing = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<void>();
    const closer = asSystem(core.db, async (tx) => {
      await tx.$executeRaw`select mercato_close_period(${period})`;
      closing.resolve();
      await ended.promise;
    });
    await closing.promise;
    const late = refusalOf(() => server.settlement.settle(finished(right, admission)));
    await waiting();
    ended.resolve();
    await closer;
    expect(await late).toBe('OVERLOADED');
    expect(await booksOf(core.db, right, period)).toMatchObject({ used: 0n, records: 0n, balance: 1_000n });
  });

  /** Until somebody waits for a lock. */
  async function waiting(): Promise<void> {
    for (;;) {
      const [row] = await asAdmin(
        core.db,
        (tx) => tx.$queryRaw<{ found: boolean }[]>`
          select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock') found`,
      );
      if (row?.found) return;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
});

function transfer(period: string): string {
  const accounts = [newId(), newId()].map((id) => `'${id}'`).join();
  return `insert into transfer (id, batch_id, kind, debit_account_id, credit_account_id, amount_nanos, currency, period)
    values ('${newId()}', '${newId()}', 'CREDIT', ${accounts}, 1, 'EUR', '${period}')`;
}

function record(period: string): string {
  const ids = Array.from({ length: 6 }, () => `'${newId()}'`).join();
  return `insert into usage_record (period, id, consumer_tenant_id, publisher_tenant_id, listing_id, model_id, model_version_id, units, rows, runs,
      compute_micros, bytes_in, bytes_out, amount_nanos, currency)
    values ('${period}', ${ids}, 1, 1, 1, 1, 1, 1, 0, 'EUR')`;
}
