import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asSystem, asTenant } from '../../src/base/database.ts';
import { globalId, newId } from '../../src/base/ids.ts';
import { type Rate, returnRequests, type TakenRequests, takeRequests, type UsageGroup } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { broken, type Core, CURRENCY, finished, openCore, type Process, type Right } from '../support/core.ts';

let core: Core;
let server: Process;
beforeAll(async () => {
  core = await openCore();
  server = await core.process();
});
afterAll(async () => {
  // The clock of the last test may stand past a lease's expiry: one sweep is what an invariant grants.
  await server.leases.maintain();
  expect(await broken(core.db)).toEqual([]);
  await core[Symbol.asyncDispose]();
});

describe('usage', () => {
  const DAYS = { from: new Date('2026-11-10T00:00:00Z'), to: new Date('2026-11-20T00:00:00Z') };

  async function callAt(right: Right, instant: string, units: number, apiKeyId: string | null = null): Promise<void> {
    await core.setClock(instant);
    const admission = await server.leases.admit(right, units, 1_000);
    await server.settlement.settle(finished(right, admission, { apiKeyId }));
  }

  const report = (tenantId: string, groupBy: UsageGroup, more: { from?: Date; to?: Date } = {}) =>
    asTenant(core.db, tenantId, (tx) => core.usage.report(tx, { tenantId, ...DAYS, ...more, groupBy }));
  const shown = async (tenantId: string, groupBy: UsageGroup, more: { from?: Date; to?: Date } = {}) =>
    (await report(tenantId, groupBy, more)).rows.map(({ key, predictions, units, amount }) => [key, predictions, units, amount.nanos]);

  it('sums by day, model and key, and the total is the sum of each', async () => {
    const right = await core.consumer({ unitPriceNanos: 10n }, 10_000n);
    const { offer, terms } = await core.offer({ unitPriceNanos: 1n });
    const second = await core.subscribe(right.consumerTenantId, offer, terms);
    const key = newId();
    const data = { id: key, tenantId: right.consumerTenantId, name: 'key', hash: Buffer.alloc(32, 1), prefix: 'mk_x', scopes: [] };
    await asAdmin(core.db, (tx) => tx.apiKey.create({ data }));
    await callAt(right, '2026-11-15T23:59:59.999Z', 1, key);
    await callAt(right, '2026-11-16T00:00:00Z', 2, key);
    await callAt(second, '2026-11-16T12:00:00Z', 4);

    const tenantId = right.consumerTenantId;
    expect(await shown(tenantId, 'DAY')).toEqual([
      ['2026-11-15', 1n, 1n, 10n],
      ['2026-11-16', 2n, 6n, 24n],
    ]);
    expect(Object.fromEntries((await shown(tenantId, 'MODEL')).map(([name, ...sums]) => [name, sums]))).toEqual({
      [right.handle]: [2n, 3n, 30n],
      [second.handle]: [1n, 4n, 4n],
    });
    expect(Object.fromEntries((await shown(tenantId, 'API_KEY')).map(([name, ...sums]) => [name, sums]))).toEqual({
      [globalId('ApiKey', key)]: [2n, 3n, 30n],
      user: [1n, 4n, 4n],
    });
    for (const groupBy of ['DAY', 'MODEL', 'API_KEY'] as const) {
      const { total } = await report(tenantId, groupBy);
      expect([total.predictions, total.units, total.amount]).toEqual([3n, 7n, { nanos: 34n, currency: CURRENCY }]);
    }
  });

  it('exports every record once, in order, however many have the same instant', async () => {
    const right = await core.consumer({});
    const settled: string[] = [];
    for (const [instant, calls] of [
      ['2026-11-15T12:00:00.001Z', 1_200],
      ['2026-11-15T12:00:00.002Z', 700],
      ['2026-11-15T12:00:00.003Z', 300],
      ['2026-11-15T12:00:00.004Z', 1],
    ] as const) {
      await core.setClock(instant);
      const calling = Array.from({ length: calls }, async () => finished(right, await server.leases.admit(right, 1, 5_000)));
      const done = await Promise.all(calling);
      await Promise.all(done.map((call) => server.settlement.settle(call)));
      settled.push(...done.map(({ metered }) => globalId('Prediction', metered.id)).sort());
    }
    const query = { from: '2026-11-15T12:00:00.001Z', to: '2026-11-15T12:00:00.004Z' };
    let text = '';
    for await (const part of core.usage.exportRecords(right.consumerTenantId, query, async () => {}).lines) text += part;
    const rows = text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { id: string; createdAt: string });
    expect(rows.map(({ createdAt }) => createdAt)).toEqual(rows.map(({ createdAt }) => createdAt).sort());
    expect(rows.map(({ id }) => id).sort()).toEqual(settled.slice(0, 2_200).sort());
  });

  it('counts the whole hours that it touches, and no other', async () => {
    const right = await core.consumer({});
    await callAt(right, '2026-11-15T12:00:00Z', 1);
    const [at, after] = [new Date('2026-11-15T12:00:00Z'), new Date('2026-11-15T13:00:00Z')];
    const inside = { from: new Date('2026-11-15T12:59:59.999Z'), to: after };
    expect(await shown(right.consumerTenantId, 'DAY', inside)).toHaveLength(1);
    expect(await shown(right.consumerTenantId, 'DAY', { from: at, to: after })).toHaveLength(1);
    expect(await shown(right.consumerTenantId, 'DAY', { to: at })).toEqual([]);
    expect(await shown(right.consumerTenantId, 'DAY', { from: after })).toEqual([]);
  });

  it('finds what was settled just after the month that it counts to', async () => {
    const right = await core.consumer({});
    await core.setClock('2026-11-30T23:59:59Z');
    const admission = await server.leases.admit(right, 3, 1_000);
    await core.setClock('2026-12-01T00:00:01Z');
    await server.settlement.settle(finished(right, admission));
    const december = { from: new Date('2026-12-01T00:00:00Z'), to: new Date('2026-12-02T00:00:00Z') };
    expect(await shown(right.consumerTenantId, 'DAY', december)).toEqual([['2026-12-01', 1n, 3n, 0n]]);
  });

  it("shows nobody another's calls, the publisher of the model included", async () => {
    const right = await core.consumer({});
    await callAt(right, '2026-11-15T12:00:00Z', 1);
    for (const tenantId of [right.publisherTenantId, (await core.tenant()).id]) expect(await shown(tenantId, 'MODEL')).toEqual([]);
  });

  it('refuses a range that is empty, turned around or longer than a year', async () => {
    const { id } = await core.tenant();
    const refused = { code: 'BAD_USER_INPUT', data: { field: 'to' } };
    await expect(report(id, 'DAY', { to: DAYS.from })).rejects.toMatchObject(refused);
    await expect(report(id, 'DAY', { from: DAYS.to, to: DAYS.from })).rejects.toMatchObject(refused);
    await expect(report(id, 'DAY', { from: new Date('2025-01-01T00:00:00Z'), to: new Date('2026-01-03T00:00:00Z') })).rejects.toMatchObject(
      refused,
    );
  });
});

describe('takeRequests', () => {
  const later = (ms: number) => new Date(Date.parse('2026-11-15T12:00:00Z') + ms).toISOString();

  async function bucket(rate: Rate) {
    const [consumer, listing] = [await core.tenant(), newId()];
    const key = { consumerTenantId: consumer.id, listingId: listing };
    await core.setClock(later(0));
    return {
      take: (wanted: number, by = rate) => asSystem(core.db, (tx) => takeRequests(tx, key, by, wanted)),
      giveBack: (taken: TakenRequests, requests: number, by = rate) =>
        asSystem(core.db, (tx) => returnRequests(tx, key, by, [{ ...taken, requests, admitted: true }])),
    };
  }

  it.each([
    [60, 10],
    [7, 3],
    [6_000, 1],
    [1, 1],
    [100_000, 5_000],
  ])('gives at %i per minute a burst of %i at once, and the next at the very millisecond that it promises', async (perMinute, burst) => {
    const { take } = await bucket({ requestsPerMinute: perMinute, burst });
    expect(await take(burst + 5)).toMatchObject({ granted: burst, retryAfterMs: 0 });
    const { granted, retryAfterMs } = await take(1);
    expect(granted).toBe(0);
    expect(retryAfterMs).toBe(Math.ceil(60_000 / perMinute));
    if (retryAfterMs > 1) {
      await core.setClock(later(retryAfterMs - 1));
      expect(await take(1)).toMatchObject({ granted: 0, retryAfterMs: 1 });
    }
    await core.setClock(later(retryAfterMs));
    expect((await take(1)).granted).toBe(1);
  });

  it('fills up while nobody calls, and to the burst only', async () => {
    const { take } = await bucket({ requestsPerMinute: 60, burst: 10 });
    await take(10);
    await core.setClock(later(3_000));
    expect((await take(10)).granted).toBe(3);
    await core.setClock(later(3_600_000));
    expect((await take(100)).granted).toBe(10);
    expect((await take(1)).granted).toBe(0);
  });

  it('is of one consumer, whose neighbours go on', async () => {
    const [one, two] = [await core.tenant(), await core.tenant()];
    const rate = { requestsPerMinute: 60, burst: 10 };
    const listingId = newId();
    for (const { id } of [one, two]) {
      const taken = await asSystem(core.db, (tx) => takeRequests(tx, { consumerTenantId: id, listingId }, rate, 10));
      expect(taken.granted).toBe(10);
    }
  });

  it('takes back requests that were not made', async () => {
    const { take, giveBack } = await bucket({ requestsPerMinute: 60, burst: 10 });
    await giveBack(await take(10), 4);
    expect((await take(10)).granted).toBe(4);
  });

  it('takes back of those only what time has not given back already', async () => {
    const { take, giveBack } = await bucket({ requestsPerMinute: 60, burst: 10 });
    const taken = await take(10);
    await core.setClock(later(7_500));
    expect((await take(10)).granted).toBe(7);
    await giveBack(taken, 10);
    await core.setClock(later(8_000));
    expect((await take(10)).granted).toBe(3);
    await giveBack({ ...taken, granted: 0 }, 10);
    expect((await take(10)).granted).toBe(0);
  });

  describe('of a plan after another', () => {
    const [slow, fast] = [
      { requestsPerMinute: 60, burst: 10 },
      { requestsPerMinute: 6_000, burst: 100 },
    ];

    async function plans() {
      const { take, giveBack } = await bucket(slow);
      return {
        giveBack: (taken: TakenRequests, requests: number) => giveBack(taken, requests, fast),
        slow: (wanted: number) => take(wanted, slow),
        fast: (wanted: number, burst = fast.burst) => take(wanted, { ...fast, burst }),
        rare: (wanted: number) => take(wanted, { requestsPerMinute: 1, burst: 60 }),
      };
    }

    it('lifts at once what a slower one refuses, less the requests that were made', async () => {
      const { rare, fast } = await plans();
      await rare(60);
      expect(await rare(1)).toMatchObject({ granted: 0, retryAfterMs: 60_000, resetMs: 3_600_000 });
      expect(await fast(50)).toMatchObject({ left: 40, used: 60, granted: 40, resetMs: 1_000 });
      expect(await fast(1)).toMatchObject({ granted: 0, retryAfterMs: 10 });
    });

    it('lets them run off in its own time, where they are more than its burst', async () => {
      const { rare, fast } = await plans();
      await rare(60);
      expect(await fast(1, 30)).toMatchObject({ granted: 0, used: 60, retryAfterMs: 310, resetMs: 600 });
      await core.setClock(later(310));
      expect(await fast(2, 30)).toMatchObject({ granted: 1 });
    });

    it('waits, where it is slower, for what was taken to run off as fast as it would have, and counts in its own time from then on', async () => {
      const { slow, fast } = await plans();
      await fast(100);
      expect(await slow(1)).toMatchObject({ granted: 0, used: 100, retryAfterMs: 910, resetMs: 1_000 });
      await core.setClock(later(909));
      expect(await slow(1)).toMatchObject({ granted: 0, retryAfterMs: 1 });
      await core.setClock(later(910));
      expect(await slow(5)).toMatchObject({ granted: 1, resetMs: 10_000 });
      expect(await slow(1)).toMatchObject({ granted: 0, retryAfterMs: 1_000 });
    });

    it('gives nothing to who goes to another and back', async () => {
      const { slow, fast } = await plans();
      await fast(96);
      expect(await slow(1)).toMatchObject({ granted: 0 });
      expect(await fast(10)).toMatchObject({ granted: 4 });
      await core.setClock(later(950));
      expect(await slow(2)).toMatchObject({ left: 5, granted: 2 });
      expect(await fast(0)).toMatchObject({ left: 93 });
    });

    it('takes back as many requests as were not made under the former', async () => {
      const { slow, fast, giveBack } = await plans();
      const taken = await fast(8);
      await core.setClock(later(50));
      expect(await slow(2)).toMatchObject({ left: 7, granted: 2 });
      await giveBack(taken, 8);
      expect(await slow(0)).toMatchObject({ left: 8 });
    });
  });

  it('keeps a refused caller no longer away for having asked', async () => {
    const { take } = await bucket({ requestsPerMinute: 60, burst: 1 });
    await take(1);
    for (let i = 0; i < 5; i++) expect((await take(1)).retryAfterMs).toBe(1_000);
  });
});

describe('partitions', () => {
  it.each([-1, 25])('are made of the next two years at most, not of %i months', async (months) => {
    const make = asSystem(core.db, (tx) => tx.$executeRaw`select mercato_ensure_partitions(${months}::int)`);
    await expect(make).rejects.toThrow('months_ahead');
  });

  it("exist for this month and the next before anybody needs them, also over the year's end", async () => {
    await core.setClock('2027-12-31T23:59:59Z');
    const names = await asAdmin(core.db, (tx) => tx.$queryRaw<{ name: string }[]>`select inhrelid::regclass::text "name" from pg_inherits`);
    expect(names.map(({ name }) => name)).toEqual(expect.arrayContaining(['usage_record_2027_12', 'usage_record_2028_01']));
    await core.setClock('2026-11-15T12:00:00Z');
  });
});
