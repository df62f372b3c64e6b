import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { asSystem } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { closeDuePeriods } from '../../src/billing/periods.ts';
import type { Finished } from '../../src/prediction/settlement.ts';
import { asAdmin } from '../support/admin.ts';
import { booksOf, broken, type Core, finished, openCore, type Process, type Right } from '../support/core.ts';
import { calendarOf, event, recordOf, transferOf } from '../support/ledger.ts';

let core: Core;
let calendar: ReturnType<typeof calendarOf>;
let server: Process;
let other: Process;
beforeAll(async () => {
  core = await openCore('2020-01-15T12:00:00Z');
  [server, other] = [await core.process(), await core.process()];
  calendar = calendarOf(core, [server, other]);
});
afterEach(async () => expect(await broken(core.db)).toEqual([]));
afterAll(() => core[Symbol.asyncDispose]());

const used = async (right: Right, period: string) => (await booksOf(core.db, right, period)).used;

async function keyed(right: Right): Promise<Finished['keyed']> {
  return { tenantId: right.consumerTenantId, key: newId(), digest: Buffer.alloc(32), answer: Buffer.from('a'), storeKey: null };
}

describe('closing', () => {
  it('looks in the order that it documents', async () => {
    const { period, end } = await calendar.newMonth();
    const right = await core.consumer({});
    const admission = await server.leases.admit(right, 1, 1_000);
    for (const form of ['2020-13', '2020-1', '2020-01-01', 'x'.repeat(100)])
      expect(await calendar.close(form)).toBe('BAD_USER_INPUT period');
    expect(await calendar.close('2999-01')).toBe('CONFLICT PERIOD_NOT_OVER period');
    expect(await calendar.close(period)).toBe('CONFLICT PERIOD_NOT_OVER period');
    await end();
    expect(await calendar.close('2001-01')).toBe('NOT_FOUND PERIOD_NOT_FOUND period');
    expect(await calendar.close(period)).toBe('CONFLICT PERIOD_IN_USE period');
    await server.settlement.settle(finished(right, admission));
    await other.leases.maintain();
    expect(await calendar.close(period)).toBe('OK');
    await asAdmin(core.db, (tx) => tx.$executeRaw`update usage_counter set leased_units = 1 where period = ${period}`);
    expect(await calendar.close(period)).toBe('CONFLICT ALREADY_CLOSED period');
    await asAdmin(core.db, (tx) => tx.$executeRaw`update usage_counter set leased_units = 0 where period = ${period}`);
    expect(await calendar.closedMonths()).toContain(period);
  });

  it('waits for the leases: refused while a call is in flight, done after the sweep', async () => {
    const { period, end } = await calendar.newMonth();
    const right = await core.consumer({ unitPriceNanos: 10n }, 1_000n);
    const admission = await server.leases.admit(right, 3, 1_000);
    await end();
    expect(await calendar.close(period)).toBe('CONFLICT PERIOD_IN_USE period');
    await other.leases.maintain();
    expect(await calendar.close(period)).toBe('OK');
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
    const { period, end } = await calendar.newMonth();
    const right = await core.consumer({ unitPriceNanos: 10n }, 1_000n);
    const late = await server.leases.admit(right, 1, 1_000);
    await end();
    await other.leases.maintain();
    expect(await calendar.close(period)).toBe('OK');
    const now = await other.leases.admit(right, 2, 1_000);
    const outcomes = await Promise.allSettled([late, now].map((admission) => server.settlement.settle(finished(right, admission))));
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'fulfilled']);
    expect([await used(right, period), await used(right, now.period)]).toEqual([0n, 2n]);
    await other.leases.maintain();
  });

  it('happens once where two ask at once', async () => {
    const { period, end } = await calendar.newMonth();
    await end();
    const outcomes = await Promise.all([calendar.close(period), calendar.close(period)]);
    expect(outcomes.sort()).toEqual(['CONFLICT ALREADY_CLOSED period', 'OK']);
  });

  it('comes by itself to every month that can be closed', async () => {
    const [first, second] = [await calendar.newMonth(), await calendar.newMonth()];
    await core.setClock(first.middle);
    const right = await core.consumer({});
    await server.leases.admit(right, 1, 1_000);
    await second.end();
    await core.billing.closeDuePeriods();
    expect(await calendar.closedMonths()).not.toContain(second.period);
    await core.setClock(second.aDayAfter);
    await core.billing.closeDuePeriods();
    expect(await calendar.closedMonths()).toContain(second.period);
    expect(await calendar.closedMonths()).not.toContain(first.period);
    await other.leases.maintain();
    await core.billing.closeDuePeriods();
    const closed = await calendar.closedMonths();
    expect(closed).toContain(first.period);
    expect(closed).toEqual(closed.toSorted().reverse());
    expect(closed.every((period) => period <= second.period)).toBe(true);
  });

  it('does not come by itself where the clock of the process says that the month is not over', async () => {
    const { period, middle, aDayAfter } = await calendar.newMonth();
    await core.setClock(aDayAfter);
    await closeDuePeriods(core.db, new Date(middle));
    expect(await calendar.closedMonths()).not.toContain(period);
    await closeDuePeriods(core.db);
    expect(await calendar.closedMonths()).toContain(period);
  });

  it('lets nobody call in a month that is closed, though the clock was set back into it', async () => {
    const { period, middle, aDayAfter, end } = await calendar.newMonth();
    await end();
    expect(await calendar.close(period)).toBe('OK');
    await core.setClock(middle);
    const right = await core.consumer({});
    const refusal = {
      code: 'OVERLOADED',
      message: expect.stringContaining('books of this month are closed'),
      data: { retryAfterMs: 60_000 },
    };
    await expect(server.leases.admit(right, 1, 1_000)).rejects.toMatchObject(refusal);
    expect(await asAdmin(core.db, (tx) => tx.lease.count({ where: { period } }))).toBe(0);
    await end();
    const admission = await server.leases.admit(right, 1, 1_000);
    await server.settlement.settle(finished(right, admission));
    await core.setClock(aDayAfter);
    await other.leases.maintain();
  });

  it('leaves pending transfers, which are resolved in the month that it is then', async () => {
    const { period, end } = await calendar.newMonth();
    const tenant = await core.tenant();
    const pending = await core.billing.createTransfer(tenant, event(5n, { kind: 'ADJUSTMENT', direction: 'IN', pending: true }));
    await end();
    expect(await calendar.close(period)).toBe('OK');
    const posted = await core.billing.postTransfer({ id: newId(), pendingId: pending.id, amountNanos: null, note: null });
    expect(posted.period > period).toBe(true);
    expect((await core.billing.reverseTransfer({ id: newId(), reversesId: posted.id, note: null })).period > period).toBe(true);
  });
});

describe('a closed month', () => {
  it('takes no record and no transfer, whoever writes', async () => {
    const { period, end } = await calendar.newMonth();
    await end();
    await core.billing.closePeriod(period);
    for (const sql of [recordOf(period), transferOf(period)]) {
      for (const as of [asSystem, asAdmin]) await expect(as(core.db, (tx) => tx.$executeRawUnsafe(sql))).rejects.toThrow('is closed');
    }
  });

  it('is not declared by the system role itself', async () => {
    const declare = asSystem(core.db, (tx) => tx.$executeRaw`insert into closed_period (period) values ('2019-01')`);
    await expect(declare).rejects.toThrow('permission denied');
  });
});
