import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { asSystem, type Tx } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { grantLease, lockCounter } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { booksOf, broken, type Core, finished, openCore, type Process } from '../support/core.ts';
import { calendarOf, recordOf, refusalOf, transferOf } from '../support/ledger.ts';
import { onPostgres, race } from '../support/races.ts';

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

// Embedded, one transaction runs at a time.
describe.skipIf(!onPostgres)('a race with the closing', () => {
  it.each([
    ['a transfer', transferOf],
    ['a usage record', recordOf],
    ['a counter', (period: string) => `update usage_counter set used_units = used_units where period = '${period}'`],
  ])('is lost by the closing where %s was written first: it gives up, and closes once that has ended', async (_, sql) => {
    const { period, end } = await calendar.newMonth();
    await server.leases.admit(await core.consumer({}), 1, 1_000);
    await end();
    await other.leases.maintain();
    const written = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<void>();
    const writer = asAdmin(core.db, async (tx) => {
      await tx.$executeRawUnsafe(sql(period));
      written.resolve();
      await ended.promise;
      throw new Error('undone');
    }).catch(() => {});
    await written.promise;
    expect(await calendar.close(period)).toBe('OVERLOADED');
    expect(await calendar.closedMonths()).not.toContain(period);
    ended.resolve();
    await writer;
    expect(await calendar.close(period)).toBe('OK');
  });

  it.each([
    ['a transfer', transferOf],
    ['a usage record', recordOf],
  ])('is lost by %s that waits for a closing under way', async (_, sql) => {
    const { period, end } = await calendar.newMonth();
    await end();
    const late = () => asSystem(core.db, (tx) => tx.$executeRawUnsafe(sql(period)));
    const { waited, result } = await race(core.db, closing(period), late);
    expect(waited).toBe(true);
    expect(String((result as PromiseRejectedResult).reason)).toContain('is closed');
  });

  it('is lost by a settlement that waits for a closing under way: nothing of it is left', async () => {
    const { period, end } = await calendar.newMonth();
    const right = await core.consumer({ unitPriceNanos: 10n }, 1_000n);
    const admission = await server.leases.admit(right, 1, 1_000);
    await end();
    await other.leases.maintain();
    const late = () => refusalOf(() => server.settlement.settle(finished(right, admission)));
    expect(await race(core.db, closing(period), late)).toMatchObject({ waited: true, result: { value: 'OVERLOADED' } });
    expect(await booksOf(core.db, right, period)).toMatchObject({ used: 0n, records: 0n, balance: 1_000n });
  });
});

describe.skipIf(!onPostgres)('the first lease of a consumer and month', () => {
  it('is waited for by the closing where it came first, though nothing of it is seen yet', async () => {
    const { period, end } = await calendar.newMonth();
    const right = await core.consumer({});
    const grant = async (tx: Tx) => {
      const counter = await lockCounter(tx, right);
      const taking = {
        planVersionId: right.terms?.planVersionId ?? null,
        quotaUnits: null,
        units: 1n,
        slots: 0n,
        nanos: 0n,
        counterIds: [],
      };
      await grantLease(tx, counter, { leaseId: newId(), processId: server.id, ...taking });
    };
    const close = () => end().then(() => calendar.close(period));
    expect(await race(core.db, grant, close)).toMatchObject({ waited: true, result: { value: 'CONFLICT PERIOD_IN_USE period' } });
    await other.leases.maintain();
    expect(await calendar.close(period)).toBe('OK');
  });

  it('waits for a closing under way, and is then of a month that is closed', async () => {
    const { period, middle, end } = await calendar.newMonth();
    await end();
    const right = await core.consumer({});
    const late = () => core.setClock(middle).then(() => refusalOf(async () => server.leases.admit(right, 1, 10_000)));
    expect(await race(core.db, closing(period), late)).toMatchObject({ waited: true, result: { value: 'OVERLOADED' } });
  });
});

const closing = (period: string) => (tx: Tx) => tx.$executeRaw`select mercato_close_period(${period})`;
