import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { asSystem } from '../../src/base/database.ts';
import { runAudit } from '../../src/prediction/audit.ts';
import { keepUsage } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { alertsOf, brokenAtLast, createLimit, type GivenLimit, NOTHING } from '../support/caps.ts';
import { type Core, codeOf, finished, openCore, type Process, type Right } from '../support/core.ts';

const NOON = '2026-11-15T12:00:00Z';
let core: Core;
let one: Process;
let two: Process;
beforeAll(async () => {
  core = await openCore(NOON);
  [one, two] = [await core.process(), await core.process()];
});
beforeEach(() => core.setClock(NOON));
afterEach(async () => {
  await core.setClock('2026-12-30T23:59:00Z');
  await expect.poll(() => brokenAtLast(core, one)).toEqual([]);
});
afterAll(() => core[Symbol.asyncDispose]());

const limit = (right: Right, given: GivenLimit) => createLimit(core, right, given);
const alertsFor = (right: Right) => alertsOf(core, right);
/** Of one tenant: other tests have come to a time at which the outbox was emptied. */
const brokenOf = async ({ consumerTenantId }: Right) => (await runAudit(core.db, consumerTenantId)).filter(({ rows }) => rows.length > 0);
const toldOf = (right: Right) => asSystem(core.db, (tx) => tx.outbox.findMany({ where: { tenantId: right.consumerTenantId } }));

async function call(process: Process, right: Right, units: number): Promise<void> {
  await process.settlement.settle(finished(right, await process.leases.admit(right, units, 5_000)));
}

test('a soft limit refuses nothing, and tells once of each threshold, in the inbox and the outbox', async () => {
  const right = await core.consumer({ unitPriceNanos: 2n }, 1_000n);
  await limit(right, { measure: 'SPEND', amount: 20n, hard: false, alertPercents: [50, 100, 200] });
  await Promise.all(Array.from({ length: 30 }, (_, i) => call(i % 2 === 0 ? one : two, right, 1)));
  const alerts = await alertsFor(right);
  expect(alerts.map(({ percent }) => percent).sort((a, b) => a - b)).toEqual([50, 100, 200]);
  const told = await asSystem(core.db, (tx) => tx.outbox.findMany({ where: { tenantId: right.consumerTenantId } }));
  expect(told.map(({ payload }) => (payload as { alertId: string }).alertId).sort()).toEqual(alerts.map(({ id }) => id).sort());
});

describe('thresholds that are past already are told of at once', () => {
  test('where a limit is set, though nobody calls', async () => {
    const right = await core.consumer({});
    await call(one, right, 9);
    await limit(right, { amount: 10n });
    expect(await alertsFor(right)).toMatchObject([{ percent: 80, used: 9n, amount: 10n }]);
    expect(await brokenOf(right)).toEqual([]);
  });

  test('where it is lowered, or gets a threshold, and once for each amount', async () => {
    const right = await core.consumer({});
    const { id } = await limit(right, { amount: 100n });
    await call(one, right, 9);
    const update = (change: object) => core.usage.updateLimit(right.consumerTenantId, id, { ...NOTHING, ...change });
    await update({ amount: 10n });
    expect(await alertsFor(right)).toMatchObject([{ percent: 80, used: 9n, amount: 10n }]);
    await update({ alertPercents: [50, 80, 100] });
    await update({ hard: false });
    await call(one, right, 1);
    expect((await alertsFor(right)).map(({ percent }) => percent).sort((a, b) => a - b)).toEqual([50, 80, 100]);
    expect(await brokenOf(right)).toEqual([]);
  });

  test('but not of a limit of 0 that nobody used', async () => {
    const right = await core.consumer({});
    const { id } = await limit(right, { amount: 0n, hard: false });
    await core.usage.updateLimit(right.consumerTenantId, id, { ...NOTHING, name: 'other' });
    expect(await alertsFor(right)).toEqual([]);
    await call(one, right, 1);
    expect(await alertsFor(right)).toHaveLength(2);
  });
});

test('a threshold is told of by the call that reaches it, and by none before', async () => {
  const right = await core.consumer({});
  await limit(right, { amount: 10n, alertPercents: [50] });
  const told = () => alertsFor(right);
  await call(one, right, 4);
  expect(await told()).toEqual([]);
  await call(one, right, 1);
  expect(await told()).toMatchObject([{ percent: 50, used: 5n, amount: 10n }]);
});

test('what is to be delivered waits for 30 days in the outbox, delivered or not, and stays in the inbox', async () => {
  const right = await core.consumer({});
  await limit(right, { amount: 2n, alertPercents: [50, 100] });
  await call(one, right, 2);
  const [first] = await toldOf(right);
  await asSystem(core.db, (tx) => tx.outbox.update({ where: { id: first?.id ?? '' }, data: { deliveredAt: new Date(NOON) } }));
  await core.setClock('2026-12-15T11:59:59Z');
  await keepUsage(core.db);
  expect(await toldOf(right)).toHaveLength(2);
  await core.setClock('2026-12-15T12:00:01Z');
  await keepUsage(core.db);
  expect(await toldOf(right)).toEqual([]);
  expect(await alertsFor(right)).toHaveLength(2);
});

test.each(['MINUTE', 'HOUR'] as const)(
  'a limit of one %s tells of a threshold once a day, UTC, however many windows pass it',
  async (window) => {
    const right = await core.consumer({});
    const { id } = await limit(right, { window, amount: 2n, alertPercents: [50, 100] });
    const told = async () =>
      (await alertsFor(right)).map(
        ({ percent, amount, createdAt }) => `${percent} of ${amount} on ${createdAt.toISOString().slice(0, 10)}`,
      );
    await call(one, right, 2);
    const first = ['100 of 2 on 2026-11-15', '50 of 2 on 2026-11-15'];
    for (const instant of ['2026-11-15T13:00:00Z', '2026-11-15T23:59:59Z']) {
      await core.setClock(instant);
      await using later = await core.process(); // which measures windows by its own clock
      await call(later, right, 2);
      expect((await told()).sort()).toEqual(first);
    }
    await core.usage.updateLimit(right.consumerTenantId, id, { ...NOTHING, amount: 4n });
    expect((await told()).sort()).toEqual([...first, '50 of 4 on 2026-11-15'].sort());
    await core.setClock('2026-11-16T00:00:01Z');
    await using later = await core.process();
    await call(later, right, 3);
    expect((await told()).sort()).toEqual([...first, '50 of 4 on 2026-11-15', '50 of 4 on 2026-11-16'].sort());
    expect(await toldOf(right)).toHaveLength(4);
  },
);

test('an alert stays in the inbox for 400 days', async () => {
  const right = await core.consumer({});
  await limit(right, { amount: 2n, alertPercents: [100] });
  await call(one, right, 2);
  await core.setClock('2027-12-20T12:00:00Z');
  await keepUsage(core.db);
  expect(await alertsFor(right)).toHaveLength(1);
  await core.setClock('2027-12-20T12:00:01Z');
  await keepUsage(core.db);
  expect(await alertsFor(right)).toEqual([]);
});

test('what is undelivered is found by its age, however much was delivered', async () => {
  const plan = await asAdmin(core.db, async (tx) => {
    await tx.$executeRaw`
      insert into outbox (tenant_id, topic, payload, delivered_at)
      select gen_random_uuid(), 'usage.alert', '{}', case when i > 0 then mercato_now() end from generate_series(0, 5000) i`;
    await tx.$executeRaw`analyze outbox`;
    return tx.$queryRaw<{ 'QUERY PLAN': string }[]>`
      explain select id from outbox where delivered_at is null order by created_at, id limit 100 for update skip locked`;
  });
  expect(plan.map((line) => line['QUERY PLAN']).join('\n')).toContain('outbox_undelivered_idx');
  await asAdmin(core.db, (tx) => tx.$executeRaw`delete from outbox where payload = '{}'`);
});

describe('a limit of calls in flight', () => {
  const together = { measure: 'CONCURRENCY', window: null, amount: 2n } as const;
  const refused = async (process: Process, right: Right) =>
    expect(await codeOf(() => process.leases.admit(right, 1, 5_000))).toBe('RATE_LIMITED');

  test('tells of a call that it refuses once a day, in the inbox and the outbox, and of its places never', async () => {
    const right = await core.consumer({});
    expect((await limit(right, together)).alertPercents).toEqual([100]);
    const held = [await one.leases.admit(right, 1, 5_000), await two.leases.admit(right, 1, 5_000)];
    expect(await alertsFor(right)).toEqual([]);
    await refused(one, right);
    await expect.poll(() => alertsFor(right)).toMatchObject([{ limitName: 'cap', percent: 100, used: 2n, amount: 2n }]);
    await refused(two, right);
    await core.setClock('2026-11-16T00:00:01Z');
    await refused(two, right);
    await expect.poll(() => alertsFor(right)).toHaveLength(2);
    expect(await toldOf(right)).toHaveLength(2);
    for (const admission of held) admission.giveBack();
  });

  test('tells nobody where it is not asked to', async () => {
    const right = await core.consumer({});
    const held = await one.leases.admit(right, 1, 5_000);
    for (const quiet of [{ amount: 1n, alertPercents: [] }, { amount: 0n }, { amount: 1n, name: 'told' }]) {
      const { id } = await limit(right, { ...together, ...quiet });
      const holding = quiet.amount === 0n ? null : await one.leases.admit(right, 1, 5_000);
      expect(await codeOf(() => two.leases.admit(right, 1, 5_000))).toBe(quiet.amount === 0n ? 'QUOTA_EXCEEDED' : 'RATE_LIMITED');
      holding?.giveBack();
      if (quiet.name !== 'told') await core.usage.deleteLimit(right.consumerTenantId, id);
    }
    await expect.poll(() => alertsFor(right)).toMatchObject([{ limitName: 'told' }]);
    held.giveBack();
  });
});
