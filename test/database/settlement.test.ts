import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { asSystem, asTenant, sqlState } from '../../src/base/database.ts';
import { globalId, newId } from '../../src/base/ids.ts';
import { priceOf } from '../../src/billing/billing.ts';
import type { Admission } from '../../src/prediction/leases.ts';
import { type Answer, replayOf } from '../../src/prediction/replays.ts';
import type { Finished, Settled } from '../../src/prediction/settlement.ts';
import { createSettlementStore } from '../../src/prediction/settlement-store.ts';
import { asAdmin } from '../support/admin.ts';
import { booksOf, broken, type Core, codeOf, finished, openCore, type Process, type Right } from '../support/core.ts';

const NOON = '2026-11-15T12:00:00Z';
const AFTER_THE_LEASES = '2026-11-15T12:00:03Z';
const A_DAY_LATER = '2026-11-16T12:00:01Z';

let core: Core;
let one: Process;
let two: Process;
beforeAll(async () => {
  core = await openCore(NOON);
  [one, two] = [await core.process(), await core.process()];
});
afterAll(async () => {
  expect(await broken(core.db)).toEqual([]);
  await core[Symbol.asyncDispose]();
});

const admit = async (process: Process, right: Right, units: number): Promise<Admission> => process.leases.admit(right, units, 60_000);
const digest = (text: string) => createHash('sha256').update(text).digest();

async function keyed(
  process: Process,
  right: Right,
  key: string,
  bytes = 8,
): Promise<NonNullable<Finished['keyed']> & { recordId: string }> {
  const recordId = newId();
  const data = new Uint8Array(bytes).fill(7);
  const outputs: Answer['outputs'] = [{ name: 'y', datatype: 'UINT8', shape: [bytes], data }];
  const timing = { queueMs: 1, computeMs: 2, batchRows: 3, device: 'cpu' };
  const place = await process.replays.prepare({ id: recordId, modelVersionId: right.modelVersionId, outputs, timing });
  return { tenantId: right.consumerTenantId, key, digest: digest(key), ...place, recordId };
}

/** One call under an idempotency key, through a process. */
async function keyedCall(process: Process, right: Right, key: string, bytes?: number): Promise<Settled> {
  const admission = await admit(process, right, 1);
  const { recordId, ...use } = await keyed(process, right, key, bytes);
  return process.settlement.settle(finished(right, admission, { id: recordId, keyed: use }));
}

async function apiKey(tenantId: string): Promise<string> {
  const id = newId();
  const data = { id, tenantId, name: 'key', hash: digest(id), prefix: 'mk_test', scopes: ['model:predict'] };
  await asAdmin(core.db, (tx) => tx.apiKey.create({ data }));
  return id;
}

/** Admits, and lets the lease be swept as if the process had hung. */
async function admitAndSweep(right: Right, units: number): Promise<Admission> {
  const admission = await admit(one, right, units);
  await core.setClock(AFTER_THE_LEASES);
  await two.leases.maintain();
  await core.setClock(NOON);
  expect((await booksOf(core.db, right)).leased).toBe(0n);
  return admission;
}

test('a group bills exactly its valid calls, whatever is wrong with the others', async () => {
  const good = await core.consumer({ unitPriceNanos: 10n }, 1_000n);
  const full = await core.consumer({ unitPriceNanos: 10n, quotaUnits: 5n }, 1_000n);
  const roomy = await core.consumer({ unitPriceNanos: 10n, quotaUnits: 5n }, 1_000n);
  const poor = await core.consumer({ unitPriceNanos: 10n }, 50n);
  const doomed = await core.consumer({ unitPriceNanos: 10n }, 1_000n);

  const swept = { full: await admitAndSweep(full, 5), roomy: await admitAndSweep(roomy, 5), poor: await admitAndSweep(poor, 5) };
  await two.settlement.settle(finished(full, await admit(two, full, 1)));
  await two.settlement.settle(finished(poor, await admit(two, poor, 1)));
  await keyedCall(two, good, 'before');
  const revoked = await apiKey(doomed.consumerTenantId);
  await asAdmin(core.db, (tx) => tx.apiKey.update({ where: { id: revoked }, data: { revokedAt: new Date(0) } }));
  const valid = await apiKey(good.consumerTenantId);

  const lost = await keyed(one, good, 'before');
  const refusedKey = await keyed(one, doomed, 'refused');
  const group = [
    finished(good, await admit(one, good, 3), { apiKeyId: valid }),
    finished(doomed, await admit(one, doomed, 1), { apiKeyId: revoked, keyed: refusedKey, id: refusedKey.recordId }),
    finished(good, await admit(one, good, 1), { keyed: lost, id: lost.recordId }),
    finished(full, swept.full),
    finished(roomy, swept.roomy),
    finished(poor, swept.poor),
    finished(good, await admit(one, good, 2)),
  ];
  const settled = await Promise.allSettled(group.map((item) => one.settlement.settle(item)));
  const shown = settled.map((outcome) =>
    outcome.status === 'rejected' ? outcome.reason.code : outcome.value.stored === null ? outcome.value.amountNanos : 'stored',
  );
  expect(shown).toEqual([30n, 'UNAUTHENTICATED', 'stored', 'OVERLOADED', 50n, 'OVERLOADED', 20n]);

  const used = await Promise.all([good, full, roomy, poor, doomed].map((right) => booksOf(core.db, right).then((books) => books.used)));
  expect(used).toEqual([6n, 1n, 5n, 1n, 0n]);
  expect(await one.replays.lookUp(doomed.consumerTenantId, 'refused')).toBeNull();
  expect(await broken(core.db)).toEqual([]);
});

test('one call that is refused among 64 leaves the others in groups: half, half of the rest, and so on', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n }, 1_000n);
  const full = await core.consumer({ quotaUnits: 4n });
  const swept = await admitAndSweep(full, 3);
  await two.settlement.settle(finished(full, await admit(two, full, 2)));
  const calls = await Promise.all(Array.from({ length: 63 }, async () => finished(right, await admit(one, right, 1))));
  calls.splice(40, 0, finished(full, swept));
  const codes = await Promise.all(calls.map((item) => codeOf(() => one.settlement.settle(item))));
  expect(codes.flatMap((code, i) => (code === 'OK' ? [] : [i, code]))).toEqual([40, 'OVERLOADED']);
  const { consumerTenantId } = right;
  const commits = await asAdmin(
    core.db,
    (tx) =>
      tx.$queryRaw<{ records: bigint }[]>`
      select count(*) records from usage_record where consumer_tenant_id = ${consumerTenantId}::uuid group by xmin order by 1 desc`,
  );
  expect(commits.map(({ records }) => records)).toEqual([32n, 16n, 8n, 4n, 2n, 1n]);
});

test('a swept lease that left no room in the quota undoes its group by a rule of its own, before a CHECK does', async () => {
  const full = await core.consumer({ unitPriceNanos: 10n, quotaUnits: 5n }, 1_000n);
  const swept = await admitAndSweep(full, 5);
  await two.settlement.settle(finished(full, await admit(two, full, 1)));
  const store = createSettlementStore({ db: core.db, replays: one.replays, billing: core.billing, replayHours: 24 });
  const state = await store.settle([finished(full, swept)]).then(() => 'settled', sqlState);
  swept.giveBack();
  expect(state).toBe('MC001');
});

describe('a call that has run and finds what its lease held with others is told', () => {
  /** What a call of `units`, whose lease is swept while others call for `taken` units, is told when it is to be settled. */
  async function toldAfterSweep(right: Right, units: number, taken: number): Promise<unknown> {
    const swept = await admitAndSweep(right, units);
    await two.settlement.settle(finished(right, await admit(two, right, taken)));
    return one.settlement.settle(finished(right, swept)).catch((error: unknown) => error);
  }
  const cap = { subject: 'TENANT', subjectId: null, burstUnits: null, hard: true, alertPercents: null } as const;
  const units = { ...cap, measure: 'UNITS' } as const;

  test('of its quota: whose, how much is left, and until when', async () => {
    const right = await core.consumer({ quotaUnits: 5n });
    expect(await toldAfterSweep(right, 5, 2)).toMatchObject({
      code: 'OVERLOADED',
      message: expect.stringMatching(/not billed\..* needs 5 units; .* 5 units of this month .* at most 3 are left/),
      data: {
        ...{ limitName: 'plan', subject: 'SUBSCRIPTION', subjectId: globalId('Subscription', right.subscriptionId ?? '') },
        ...{ limit: '5', used: '2', given: '5 units', expected: 'at most 3', resetsAt: '2026-12-01T00:00:00.000Z', retryAfterMs: 1_000 },
      },
    });
  });

  test('of a limit of units: which, whose, how much, until when, and who can raise it', async () => {
    const right = await core.consumer({});
    const subscription = { subject: 'SUBSCRIPTION', subjectId: right.subscriptionId } as const;
    await core.usage.createLimit(right.consumerTenantId, { ...units, name: 'roomy', window: 'MONTH', amount: 9n });
    await core.usage.createLimit(right.consumerTenantId, { ...units, ...subscription, name: 'day', window: 'DAY', amount: 5n });
    expect(await toldAfterSweep(right, 4, 2)).toMatchObject({
      code: 'OVERLOADED',
      message: expect.stringMatching(
        /not billed\. The limit "day" of the subscription is 5 units per day; .* 2 are used .*updateUsageLimit/,
      ),
      data: {
        ...{ limitName: 'day', subject: 'SUBSCRIPTION', subjectId: globalId('Subscription', right.subscriptionId ?? ''), limit: '5' },
        ...{ used: '2', given: '4 units', expected: 'at most 3 now', resetsAt: '2026-11-16T00:00:00.000Z', retryAfterMs: 1_000 },
      },
    });
  });

  test('of a limit of a minute: that it ends soon', async () => {
    const right = await core.consumer({});
    await core.usage.createLimit(right.consumerTenantId, { ...units, name: 'minute', window: 'MINUTE', amount: 5n });
    expect(await toldAfterSweep(right, 4, 2)).toMatchObject({ code: 'OVERLOADED', data: { limitName: 'minute', retryAfterMs: 60_000 } });
  });

  const spend = { ...cap, name: 'spend', measure: 'SPEND', window: 'DAY', amount: 15n } as const;

  test('of a limit of spend: what it pays for besides the free units that are left', async () => {
    const right = await core.consumer({ unitPriceNanos: 10n, freeUnits: 6n }, 1_000n);
    await core.usage.createLimit(right.consumerTenantId, spend);
    expect(await toldAfterSweep(right, 6, 4)).toMatchObject({
      code: 'OVERLOADED',
      data: { limitName: 'spend', used: '0', given: '6 units', expected: 'at most 3 a call', retryAfterMs: 1_000 },
    });
  });

  test('of a limit of spend: of free units that others lease, that they may come back', async () => {
    const right = await core.consumer({ unitPriceNanos: 10n, freeUnits: 6n }, 1_000n);
    await core.usage.createLimit(right.consumerTenantId, spend);
    const swept = await admitAndSweep(right, 5);
    await two.settlement.settle(finished(right, await admit(two, right, 3)));
    const held = await admit(two, right, 2);
    await expect(one.settlement.settle(finished(right, swept))).rejects.toMatchObject({
      data: { given: '5 units', expected: 'at most 4 a call' },
    });
    held.giveBack();
    expect(await codeOf(() => admit(one, right, 4))).toBe('OK');
  });

  test('of its wallet: what the call costs, and what is there', async () => {
    const right = await core.consumer({ unitPriceNanos: 10n }, 50n);
    expect(await toldAfterSweep(right, 4, 2)).toMatchObject({
      code: 'OVERLOADED',
      data: {
        ...{ subject: 'TENANT', subjectId: globalId('Tenant', right.consumerTenantId) },
        ...{ neededNanos: '40', availableNanos: '10', currency: 'EUR', retryAfterMs: 1_000 },
      },
    });
  });

  test('to try again, where there is room by then', async () => {
    const right = await core.consumer({ quotaUnits: 5n });
    const swept = await admitAndSweep(right, 5);
    const store = createSettlementStore({ db: core.db, replays: one.replays, billing: core.billing, replayHours: 24 });
    expect(await store.shortOf(finished(right, swept), new Error())).toBeNull();
    swept.giveBack();
  });

  test('by one look for all calls alike; to try again, where others look at the books already', async () => {
    const right = await core.consumer({ quotaUnits: 9n });
    const swept = [await admit(one, right, 3), await admit(one, right, 2), await admit(one, right, 4)];
    await core.setClock(AFTER_THE_LEASES);
    await two.leases.maintain();
    await core.setClock(NOON);
    await two.settlement.settle(finished(right, await admit(two, right, 8)));
    const store = createSettlementStore({ db: core.db, replays: one.replays, billing: core.billing, replayHours: 24 });
    const look = (admission: Admission) => store.shortOf(finished(right, admission), new Error());
    const shorts = await Promise.all([...swept, ...swept].map(look));
    expect(shorts.map((short) => short?.short ?? null)).toEqual(['QUOTA', 'QUOTA', null, 'QUOTA', 'QUOTA', null]);
    expect(await Promise.all(swept.slice(2).map(look))).toMatchObject([{ short: 'QUOTA' }]);
    for (const admission of swept) admission.giveBack();
  });
});

test('a call whose key expires before it is settled is refused unbilled', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n }, 100n);
  const key = await apiKey(right.consumerTenantId);
  await asAdmin(core.db, (tx) => tx.apiKey.update({ where: { id: key }, data: { expiresAt: new Date(NOON) } }));
  const call = finished(right, await admit(one, right, 1), { apiKeyId: key });
  expect(await codeOf(() => one.settlement.settle(call))).toBe('UNAUTHENTICATED');
  expect(await booksOf(core.db, right)).toMatchObject({ used: 0n, records: 0n, balance: 100n });
});

test('of two calls in one group the second pays for what the first left of the free units', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n, freeUnits: 3n }, 100n);
  const calls = [await admit(one, right, 2), await admit(one, right, 2)].map((admission) => finished(right, admission));
  const settled = await Promise.all(calls.map((call) => one.settlement.settle(call)));
  expect(settled).toMatchObject([{ amountNanos: 0n }, { amountNanos: 10n }]);
});

test('one key settled by two processes at once is billed once, and the other answers what was stored', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n, quotaUnits: 2n }, 20n);
  for (const key of ['a', 'b']) {
    const outcomes = await Promise.all([keyedCall(one, right, key), keyedCall(two, right, key)].map((done) => done.catch(() => null)));
    const stored = await one.replays.lookUp(right.consumerTenantId, key);
    expect(stored).toMatchObject({ units: 1, amountNanos: 10n });
    expect(outcomes.filter((outcome) => outcome?.stored === null)).toHaveLength(1);
    for (const outcome of outcomes)
      if (outcome?.stored) expect(outcome.stored).toMatchObject({ recordId: stored?.recordId, amountNanos: 10n });
    await one.leases.maintain();
    await two.leases.maintain();
  }
  expect(await booksOf(core.db, right)).toMatchObject({ used: 2n, records: 2n, balance: 0n });
});

test('a key that comes twice in one group is billed once', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n }, 100n);
  const [first, second] = await Promise.all([keyedCall(one, right, 'twice'), keyedCall(one, right, 'twice')]);
  expect([first?.stored === null, second?.stored === null].sort()).toEqual([false, true]);
  expect(await asSystem(core.db, (tx) => tx.replay.count({ where: { tenantId: right.consumerTenantId } }))).toBe(1);
  expect(await booksOf(core.db, right)).toMatchObject({ used: 1n, records: 1n, balance: 90n });
});

test('an answer beyond a megabyte lies in the store, comes back whole, and goes when it expires', async () => {
  const right = await core.consumer({});
  const bytes = 2 * 1024 * 1024;
  expect(await keyedCall(one, right, 'large', bytes)).toMatchObject({ stored: null });
  const stored = await two.replays.lookUp(right.consumerTenantId, 'large');
  const [output] = stored?.answer?.outputs ?? [];
  expect(output?.shape).toEqual([bytes]);
  expect(Buffer.compare(output?.data ?? Buffer.alloc(0), Buffer.alloc(bytes, 7))).toBe(0);
  const storeKey = `replays/${stored?.recordId}`;
  expect(await core.store.readBytes(storeKey)).not.toBeNull();
  try {
    await core.setClock(A_DAY_LATER);
    await one.replays.expire();
  } finally {
    await core.setClock(NOON);
  }
  expect(await core.store.readBytes(storeKey)).toBeNull();
});

test('after a day a retry learns what it was billed instead of its outputs, and another input still conflicts', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n }, 100n);
  await keyedCall(one, right, 'old');
  const fresh = await one.replays.lookUp(right.consumerTenantId, 'old');
  if (!fresh) throw new Error('the key was not stored');
  expect(replayOf(fresh, digest('old'), 'EUR').answer.timing.device).toBe('cpu');
  try {
    await core.setClock(A_DAY_LATER);
    const stored = await one.replays.lookUp(right.consumerTenantId, 'old');
    if (!stored) throw new Error('the key is gone');
    const data = { predictionId: fresh.recordId, units: 1, amountNanos: '10', currency: 'EUR' };
    expect(() => replayOf(stored, digest('old'), 'EUR')).toThrow(expect.objectContaining({ code: 'IDEMPOTENCY_EXPIRED', data }));
    expect(() => replayOf(stored, digest('new'), 'EUR')).toThrow(expect.objectContaining({ code: 'IDEMPOTENCY_CONFLICT' }));
    expect(await keyedCall(two, right, 'old')).toMatchObject({ stored: { recordId: fresh.recordId, answer: null } });
  } finally {
    await core.setClock(NOON);
  }
  expect(await booksOf(core.db, right)).toMatchObject({ used: 1n, balance: 90n });
});

test('expiry keeps up with any number of answers', async () => {
  const { id } = await core.tenant();
  await asSystem(
    core.db,
    (tx) => tx.$executeRaw`
      insert into replay (record_id, tenant_id, answer, expires_at)
      select gen_random_uuid(), ${id}::uuid, 'x'::bytea, mercato_now() - interval '1 second' from generate_series(1, 1200)`,
  );
  await one.replays.expire();
  const left = await asSystem(core.db, (tx) => tx.replay.count({ where: { tenantId: id } }));
  expect(left).toBe(0);
});

test('commission is rounded down once per month, not once per call', async () => {
  const right = await core.consumer({ unitPriceNanos: 3n }, 1_000n);
  for (let i = 0; i < 7; i++) await one.settlement.settle(finished(right, await admit(one, right, 1)));
  const publisher = right.publisherTenantId;
  const transfers = await asTenant(core.db, publisher, (tx) => core.billing.transfers(tx, publisher, { first: 100, afterId: null }));
  const sum = (kind: string) => transfers.reduce((total, transfer) => total + (transfer.kind === kind ? transfer.amount.nanos : 0n), 0n);
  expect([sum('CHARGE'), sum('COMMISSION')]).toEqual([21n, 3n]);
});

test('a lease of November settles in November when the month has ended, and December begins at zero with its free units', async () => {
  const right = await core.consumer({ unitPriceNanos: 10n, freeUnits: 2n, quotaUnits: 6n }, 1_000n);
  const november = await admit(one, right, 5);
  try {
    await core.setClock('2026-12-01T00:00:00.500Z');
    const december = await admit(two, right, 6);
    expect(december.period).toBe('2026-12');
    expect(await one.settlement.settle(finished(right, november))).toMatchObject({ amountNanos: 30n });
    expect(await two.settlement.settle(finished(right, december))).toMatchObject({ amountNanos: 40n });
    expect(await codeOf(() => admit(two, right, 1))).toBe('QUOTA_EXCEEDED');
    expect(await booksOf(core.db, right, '2026-11')).toMatchObject({ used: 5n, records: 1n });
    expect(await booksOf(core.db, right, '2026-12')).toMatchObject({ used: 6n, records: 1n, balance: 930n, held: 0n });
    await two.leases.maintain();
    expect(await broken(core.db)).toEqual([]);
  } finally {
    await core.setClock(NOON);
  }
});

test('the database prices as the process does', async () => {
  const terms = { unitPriceNanos: 20_000n, freeUnits: 1_000n };
  for (const units of [0n, 1n, 999n, 1_000n, 1_001n, 10n ** 12n]) {
    const [row] = await asSystem(
      core.db,
      (tx) => tx.$queryRaw<{ nanos: string; free: string }[]>`
        select mercato_price(${units}::bigint, ${terms.unitPriceNanos}::bigint, ${terms.freeUnits}::bigint)::text nanos,
               mercato_price(${units}::bigint, null, null)::text free`,
    );
    expect(row).toEqual({ nanos: priceOf(terms, units).toString(), free: priceOf(null, units).toString() });
  }
});
