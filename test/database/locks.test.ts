import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { asSystem, type Tx } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { accountId } from '../../src/billing/accounts.ts';
import type { LockedLimit } from '../../src/usage/limit-counters.ts';
import { grantLease, lockCounter, lockLimits, returnUnits, sweepLeases, takeFromLimits, takeRequests } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { booksOf, broken, type Core, codeOf, finished, openCore, type Process, type Right } from '../support/core.ts';
import { event } from '../support/ledger.ts';
import { isLocked, onPostgres, race } from '../support/races.ts';

const NOON = '2026-11-15T12:00:00Z';
const AFTER_THE_LEASES = '2026-11-15T12:00:03Z';
let core: Core;
let one: Process;
let two: Process;
beforeAll(async () => {
  core = await openCore(NOON);
  [one, two] = [await core.process(), await core.process()];
});
afterEach(async () => {
  await core.setClock(NOON);
  expect(await broken(core.db)).toEqual([]);
});
afterAll(() => core[Symbol.asyncDispose]());

const DONE = { waited: true, result: { status: 'fulfilled' } };

/** A lease of the consumer's on its counter, of an id of one's own. */
async function leaseOf(tx: Tx, right: Right, units: bigint, leaseId = newId(), counterIds: string[] = []): Promise<string> {
  const counter = await lockCounter(tx, right);
  const taking = {
    planVersionId: right.terms?.planVersionId ?? null,
    quotaUnits: right.terms?.quotaUnits ?? null,
    counterIds,
    slots: 0n,
    nanos: 0n,
  };
  await grantLease(tx, counter, { leaseId, processId: one.id, units, ...taking });
  return leaseId;
}

async function capped(right: Right, amount: bigint, name = 'cap'): Promise<void> {
  const plain = { subject: 'TENANT', subjectId: null, measure: 'UNITS', window: 'DAY', burstUnits: null, hard: true } as const;
  await core.usage.createLimit(right.consumerTenantId, { ...plain, name, amount, alertPercents: null });
}

// Embedded, one transaction runs at a time.
describe.skipIf(!onPostgres)('whoever changes what another is about to change waits, and then sees it', () => {
  it('two who make a counter', async () => {
    const right = await core.consumer({});
    expect(
      await race(
        core.db,
        (tx) => lockCounter(tx, right),
        () => asSystem(core.db, (tx) => lockCounter(tx, right)),
      ),
    ).toMatchObject(DONE);
  });

  it('two grants of one counter', async () => {
    const right = await core.consumer({ quotaUnits: 3n });
    await asSystem(core.db, (tx) => lockCounter(tx, right));
    const second = () => asSystem(core.db, async (tx) => (await lockCounter(tx, right)).leasedUnits);
    expect(await race(core.db, (tx) => leaseOf(tx, right, 3n), second)).toMatchObject({ ...DONE, result: { value: 3n } });
  });

  it('a return and a grant of one counter', async () => {
    const right = await core.consumer({});
    const leaseId = await asSystem(core.db, (tx) => leaseOf(tx, right, 5n));
    const second = () => asSystem(core.db, (tx) => returnUnits(tx, [{ leaseId, number: 1n, units: 2n, slots: 0n }]));
    expect(await race(core.db, (tx) => leaseOf(tx, right, 4n), second)).toMatchObject(DONE);
    expect((await booksOf(core.db, right)).leased).toBe(7n);
  });

  it('a return and the sweep of one lease', async () => {
    const right = await core.consumer({});
    const leaseId = await asSystem(core.db, (tx) => leaseOf(tx, right, 5n));
    await core.setClock(AFTER_THE_LEASES);
    const second = () => asSystem(core.db, (tx) => returnUnits(tx, [{ leaseId, number: 1n, units: 2n, slots: 0n }]));
    expect(await race(core.db, sweepLeases, second)).toMatchObject({ ...DONE, result: { value: [] } });
    expect((await booksOf(core.db, right)).leased).toBe(0n);
  });

  it('two who make the counter of a limit', async () => {
    const right = await core.consumer({});
    await capped(right, 5n);
    await asAdmin(core.db, (tx) => tx.$executeRaw`delete from limit_counter where tenant_id = ${right.consumerTenantId}::uuid`);
    expect(
      await race(
        core.db,
        (tx) => lockLimits(tx, right),
        () => asSystem(core.db, (tx) => lockLimits(tx, right)),
      ),
    ).toMatchObject(DONE);
  });

  it('two who make the counter of a window that is used: both see all of it', async () => {
    const right = await core.consumer({});
    const call = async (process: Process, units: number) =>
      process.settlement.settle(finished(right, await process.leases.admit(right, units, 5_000)));
    await call(one, 2);
    await call(two, 3);
    await capped(right, 9n);
    await asAdmin(core.db, (tx) => tx.$executeRaw`delete from limit_counter where tenant_id = ${right.consumerTenantId}::uuid`);
    const usedBefore = async (tx: Tx) => (await lockLimits(tx, right)).map(({ used }) => used);
    let first: bigint[] = [];
    const outcome = await race(
      core.db,
      async (tx) => {
        first = await usedBefore(tx);
      },
      () => asSystem(core.db, usedBefore),
    );
    expect([first, outcome]).toMatchObject([[5n], { ...DONE, result: { value: [5n] } }]);
    const outcomes = await Promise.all([one, two, one, two, one, two].map((process) => codeOf(() => call(process, 1))));
    expect(outcomes.sort()).toEqual(['OK', 'OK', 'OK', 'OK', 'QUOTA_EXCEEDED', 'QUOTA_EXCEEDED']);
    expect(await asSystem(core.db, usedBefore)).toEqual([9n]);
  });

  it('two who take of a limit', async () => {
    const right = await core.consumer({});
    await capped(right, 5n);
    await asSystem(core.db, (tx) => lockLimits(tx, right));
    const take = async (tx: Tx) => leaseOf(tx, right, 4n, newId(), await taken(tx, right, 4n));
    const second = () => asSystem(core.db, async (tx) => (await lockLimits(tx, right))[0]?.leased);
    expect(await race(core.db, take, second)).toMatchObject({ ...DONE, result: { value: 4n } });
  });

  it.each([true, false])('two who take of a rate (its row is there: %s)', async (isThere) => {
    const right = await core.consumer({});
    const rate = { requestsPerMinute: 60, burst: 5 };
    if (isThere) await asSystem(core.db, (tx) => takeRequests(tx, right, rate, 1));
    const second = () => asSystem(core.db, (tx) => takeRequests(tx, right, rate, 5));
    const rest = isThere ? 2 : 3;
    expect(await race(core.db, (tx) => takeRequests(tx, right, rate, 2), second)).toMatchObject({
      ...DONE,
      result: { value: { granted: rest } },
    });
  });

  it('who takes of a rate that another has looked at', async () => {
    const right = await core.consumer({});
    const rate = { requestsPerMinute: 60, burst: 5 };
    await asSystem(core.db, (tx) => takeRequests(tx, right, rate, 1));
    const look = async (tx: Tx) => {
      await tx.$executeRaw`select from rate_limit where consumer_tenant_id = ${right.consumerTenantId}::uuid for update`;
      return () => takeRequests(tx, right, rate, 2);
    };
    const second = () => asSystem(core.db, (tx) => takeRequests(tx, right, rate, 5));
    expect(await race(core.db, look, second)).toMatchObject({ waited: true, result: { value: { granted: 2 } } });
  });

  it('two who make an account', async () => {
    const { id } = await core.tenant();
    const make = (tx: Tx) => accountId(tx, 'WALLET', id, 'EUR');
    expect(await race(core.db, make, () => asSystem(core.db, make))).toMatchObject({ ...DONE, result: { value: { made: true } } });
  });

  it('two who take of a wallet', async () => {
    const right = await core.consumer({ unitPriceNanos: 1n }, 10n);
    const { walletId } = await asSystem(core.db, (tx) => core.billing.accounts(tx, right.consumerTenantId, right.publisherTenantId));
    const select = `select from account where id = '${walletId}'`;
    const whileHeld = asSystem(core.db, async (tx) => {
      await core.billing.lockAvailable(tx, walletId);
      return isLocked(core.db, select);
    });
    expect(await whileHeld).toBe(true);
  });

  it('two who end the same pending transfers', async () => {
    const { id } = await core.tenant();
    await core.billing.createTransfer({ id }, event(5n, { kind: 'ADJUSTMENT', direction: 'IN', pending: true, timeoutMs: 1_000 }));
    await core.setClock(AFTER_THE_LEASES);
    const ledger = await import('../../src/billing/ledger.ts');
    expect(await race(core.db, ledger.expireTransfers, () => core.billing.expireTransfers())).toMatchObject({
      ...DONE,
      result: { value: 0 },
    });
  });

  it('two who make the partitions', async () => {
    await core.setClock('2030-01-15T00:00:00Z');
    const make = (tx: Tx) => tx.$executeRaw`select mercato_ensure_partitions(5)`;
    expect(await race(core.db, make, () => asSystem(core.db, make))).toMatchObject(DONE);
  });

  it('two who close a month', async () => {
    await core.setClock('2026-08-15T12:00:00Z');
    await core.setClock(NOON);
    const close = (tx: Tx) => tx.$executeRaw`select mercato_close_period('2026-08')`;
    const result = { status: 'rejected', reason: { data: { rule: 'ALREADY_CLOSED' } } };
    expect(await race(core.db, close, () => core.billing.closePeriod('2026-08'))).toMatchObject({ waited: true, result });
  });

  it('two who tell processes to forget: what is told later is committed later', async () => {
    const tell = (tx: Tx) => tx.$executeRaw`select mercato_invalidate('listing', array[${newId()}]::uuid[])`;
    expect(await race(core.db, tell, () => asSystem(core.db, tell))).toMatchObject(DONE);
  });

  it('two changes of one limit', async () => {
    const right = await core.consumer({});
    await capped(right, 5n);
    const [limit] = await asAdmin(core.db, (tx) => core.usage.limits(tx, right.consumerTenantId));
    const change = { name: 'other', amount: null, burstUnits: null, hard: null, alertPercents: null };
    const first = (tx: Tx) => setRole(tx, () => tx.$executeRaw`update usage_limit set amount = 9 where id = ${limit?.id}::uuid`);
    const second = () => core.usage.updateLimit(right.consumerTenantId, limit?.id ?? '', change);
    expect(await race(core.db, first, second)).toMatchObject({ ...DONE, result: { value: { name: 'other', amount: 9n } } });
  });

  it("two who take a tenant's last place for a limit", async () => {
    const right = await core.consumer({});
    const insert = (tx: Tx, count: number) => tx.$executeRaw`
      insert into usage_limit (id, tenant_id, name, subject, subject_id, measure, "window", amount, hard, alert_percents)
      select gen_random_uuid(), ${right.consumerTenantId}::uuid, gen_random_uuid()::text, 'TENANT', ${right.consumerTenantId}::uuid, 'UNITS', 'DAY', 1, true, '{}'
        from generate_series(1, ${count}::int)`;
    await asAdmin(core.db, (tx) => insert(tx, 99));
    const first = (tx: Tx) =>
      setRole(tx, async () => {
        await tx.$executeRaw`select pg_advisory_xact_lock(hashtext('mercato.limits'), hashtext(${right.consumerTenantId}))`;
        await insert(tx, 1);
      });
    const result = { status: 'rejected', reason: { code: 'CONFLICT' } };
    expect(await race(core.db, first, () => capped(right, 1n))).toMatchObject({ waited: true, result });
  });
});

describe.skipIf(!onPostgres)('nobody waits for', () => {
  it('leases that another sweeps', async () => {
    const right = await core.consumer({});
    await asSystem(core.db, (tx) => leaseOf(tx, right, 5n));
    await core.setClock(AFTER_THE_LEASES);
    const second = () => asSystem(core.db, sweepLeases);
    expect(await race(core.db, sweepLeases, second)).toMatchObject({ waited: false, result: { value: [] } });
    expect((await booksOf(core.db, right)).leased).toBe(0n);
  });

  it('answers that another deletes', async () => {
    const { id } = await core.tenant();
    const insert = () =>
      asAdmin(
        core.db,
        (tx) => tx.$executeRaw`
      insert into replay (record_id, tenant_id, answer, expires_at) values (gen_random_uuid(), ${id}::uuid, 'x', mercato_now())`,
      );
    await insert();
    const first = (tx: Tx) => tx.$executeRaw`select from replay where tenant_id = ${id}::uuid for update`;
    expect(await race(core.db, first, () => one.replays.expire())).toMatchObject({ waited: false, result: { status: 'fulfilled' } });
  });
});

/** The admin's rights inside a transaction of the system role. */
async function setRole<T>(tx: Tx, fn: () => Promise<T>): Promise<T> {
  await tx.$executeRaw`select set_config('role', 'none', true)`;
  return fn();
}

async function taken(tx: Tx, right: Right, units: bigint): Promise<string[]> {
  const limits: LockedLimit[] = await lockLimits(tx, right);
  await takeFromLimits(tx, limits, { units, nanos: 0n, slots: 0n });
  return limits.map(({ counterId }) => counterId);
}
