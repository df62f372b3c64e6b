import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { asTenant } from '../../src/base/database.ts';
import { type Entitlement, strikeReports, suspensionsByVersion } from '../../src/catalog/catalog.ts';
import { ModelKilled } from '../../src/inference/inference.ts';
import { identityModel } from '../inference/tiny-models.ts';
import { asAdmin } from '../support/admin.ts';
import { type CatalogRig, openCatalog } from '../support/catalog.ts';

let rig: CatalogRig;
beforeAll(async () => {
  rig = await openCatalog();
}, 60_000);
afterAll(() => rig[Symbol.asyncDispose]());

const killed = (runner: string = randomUUID()) => new ModelKilled('CRASH', runner, 'The model crashed on this input.');
const suspended = (words: string) => expect.objectContaining({ code: 'MODEL_SUSPENDED', message: expect.stringContaining(words) });

/** A model on offer, and what `count` of its consumers, and its publisher, call it by. */
async function offer(count: number) {
  const publisher = await rig.tenant();
  const model = await rig.publish(publisher.id, { plans: [{ name: 'free', unitPriceNanos: '0' }], bytes: identityModel('FP32', ['N', 3]) });
  const consumers = await Promise.all(Array.from({ length: count }, () => rig.tenant()));
  for (const { id } of consumers) await rig.catalog.subscribe(id, model.plans[0]?.id ?? '');
  const of = (tenantId: string): Promise<Entitlement> => Promise.resolve(rig.catalog.entitlement({ tenantId }, model.handle));
  const pass = async (tenantId: string) => rig.catalog.suspensions.pass(await of(tenantId));
  const strike = async (tenantId: string, times: number, runner?: string) => {
    for (let i = 0; i < times; i++) await rig.catalog.suspensions.strike(await of(tenantId), killed(runner));
    await rig.access.invalidations.caughtUp();
  };
  const seenBy = (tenantId: string) =>
    asTenant(rig.db, tenantId, async (tx) => (await suspensionsByVersion(tx, [model.version?.id ?? ''])).get(model.version?.id ?? ''));
  /** What a tenant is told of the version's strikes. */
  const report = (tenantId: string) =>
    asTenant(rig.db, tenantId, async (tx) => (await strikeReports(tx, [model.version?.id ?? ''])).get(model.version?.id ?? ''));
  /** As if so many seconds had passed. */
  const wait = async (seconds: number) => {
    await asAdmin(rig.db, async (tx) => {
      await tx.$executeRaw`update suspension set since = since - make_interval(secs => ${seconds}::float8), until = until - make_interval(secs => ${seconds}::float8)
        where version_id = ${model.version?.id}::uuid and ended_at is null`;
      await rig.access.invalidations.publish(tx, 'listing', [model.listingId]);
    });
    await rig.access.invalidations.caughtUp();
  };
  const leftS = async (tenantId: string) => {
    const open = await seenBy(tenantId);
    return open === undefined ? 0 : Math.round((open.until.getTime() - Date.now()) / 1000);
  };
  return { publisher: publisher.id, consumers: consumers.map(({ id }) => id), pass, strike, seenBy, report, wait, leftS };
}

test('three strikes of one consumer suspend the version for that consumer alone', async () => {
  const { publisher, consumers, pass, strike, seenBy } = await offer(2);
  const [one = '', other = ''] = consumers;
  await strike(one, 2);
  expect(await pass(one)).toBeNull();
  await strike(one, 1);
  await expect(pass(one)).rejects.toEqual(suspended('for your tenant'));
  await expect(pass(one)).rejects.toMatchObject({ data: { retryAfterMs: expect.any(Number) } });
  expect(await pass(other)).toBeNull();
  expect(await pass(publisher)).toBeNull();
  expect(await seenBy(one)).toMatchObject({ consumerTenantId: one, reason: expect.stringContaining('crashed 3 times') });
  for (const tenant of [other, publisher]) expect(await seenBy(tenant)).toBeUndefined();
});

test('calls that shared one run that crashed are one strike', async () => {
  const { consumers, pass, strike } = await offer(1);
  await strike(consumers[0] ?? '', 5, randomUUID());
  expect(await pass(consumers[0] ?? '')).toBeNull();
});

test('however often one consumer strikes, nobody else is suspended; a second consumer makes it everybody', async () => {
  const { publisher, consumers, pass, strike, seenBy } = await offer(3);
  const [one = '', two = '', three = ''] = consumers;
  await strike(one, 9);
  expect(await pass(two)).toBeNull();
  await strike(two, 3);
  for (const tenant of [two, three, publisher]) await expect(pass(tenant)).rejects.toEqual(suspended('for everybody'));
  expect(await seenBy(publisher)).toMatchObject({ consumerTenantId: null, reason: expect.stringContaining('called by 2 tenants') });
});

test("a publisher's own strikes suspend its version for everybody", async () => {
  const { publisher, consumers, pass, strike } = await offer(1);
  await strike(publisher, 3);
  for (const tenant of [publisher, consumers[0] ?? '']) await expect(pass(tenant)).rejects.toEqual(suspended('for everybody'));
});

test('after its time one call at a time is let through, and its answer ends the suspension', async () => {
  const { publisher, consumers, pass, strike, wait } = await offer(1);
  const one = consumers[0] ?? '';
  await strike(publisher, 3);
  await wait(61);
  const probe = await pass(one);
  expect(probe).not.toBeNull();
  await expect(pass(publisher)).rejects.toMatchObject({ code: 'MODEL_SUSPENDED', data: { retryAfterMs: 1_000 } });
  await probe?.untold();
  const again = await pass(publisher);
  await again?.answered();
  await rig.access.invalidations.caughtUp();
  for (const tenant of [publisher, one]) expect(await pass(tenant)).toBeNull();
});

/** A version that two of four consumers have had suspended for everybody, after its time. */
async function suspendedByTwo() {
  const offered = await offer(4);
  const [one = '', two = '', three = '', four = ''] = offered.consumers;
  await offered.strike(one, 3);
  await offered.strike(two, 3);
  await offered.wait(61);
  return { ...offered, one, two, three, four };
}

test('who had a version suspended for everybody does not keep it so: its failed probe lengthens its own suspension alone', async () => {
  const { publisher, one, two, three, four, pass, strike, leftS } = await suspendedByTwo();
  expect(await pass(one)).not.toBeNull();
  const honest = await pass(three);
  await expect(pass(four)).rejects.toEqual(suspended('for everybody'));
  await strike(one, 1);
  expect(Math.abs((await leftS(one)) - 120)).toBeLessThan(10);
  expect(await leftS(three)).toBeLessThan(0);
  await honest?.answered();
  await rig.access.invalidations.caughtUp();
  for (const tenant of [publisher, three, four]) expect(await pass(tenant)).toBeNull();
  await expect(pass(one)).rejects.toEqual(suspended('for your tenant'));
  expect(await pass(two)).not.toBeNull();
});

test('a consumer that had no part in it lengthens the suspension for everybody once, and then its own', async () => {
  const { three, four, pass, strike, wait, leftS } = await suspendedByTwo();
  expect(await pass(three)).not.toBeNull();
  await strike(three, 1);
  expect(Math.abs((await leftS(four)) - 120)).toBeLessThan(10);
  await wait(121);
  expect(await pass(three)).not.toBeNull();
  await strike(three, 1);
  expect(await leftS(four)).toBeLessThan(0);
  expect(await pass(four)).not.toBeNull();
  await expect(pass(three)).rejects.toEqual(suspended('for everybody'));
  expect(Math.abs((await leftS(three)) - 60)).toBeLessThan(10);
});

test('where all who call it have struck, whoever has shown that it works for itself may show it for everybody', async () => {
  const { publisher, one, two, pass } = await suspendedByTwo();
  await (await pass(one))?.answered();
  await rig.access.invalidations.caughtUp();
  const probe = await pass(one);
  await expect(pass(publisher)).rejects.toMatchObject({ code: 'MODEL_SUSPENDED', data: { retryAfterMs: 1_000 } });
  await probe?.answered();
  await rig.access.invalidations.caughtUp();
  for (const tenant of [publisher, one]) expect(await pass(tenant)).toBeNull();
  expect(await pass(two)).not.toBeNull();
});

test('strikes that a version was suspended for do not suspend it again', async () => {
  const { publisher, one, two, three, pass, strike } = await suspendedByTwo();
  await (await pass(publisher))?.answered();
  await rig.access.invalidations.caughtUp();
  await (await pass(one))?.answered();
  await strike(two, 1);
  await strike(one, 2);
  for (const tenant of [one, three, publisher]) expect(await pass(tenant)).toBeNull();
  await strike(one, 1);
  await expect(pass(one)).rejects.toEqual(suspended('for your tenant'));
  await strike(two, 2);
  for (const tenant of [three, publisher]) await expect(pass(tenant)).rejects.toEqual(suspended('for everybody'));
});

test('a probe that fails doubles the time, up to an hour', async () => {
  const { publisher, pass, strike, wait, leftS } = await offer(0);
  await strike(publisher, 3);
  let seconds = 60;
  for (const next of [120, 240, 480, 960, 1_920, 3_600, 3_600]) {
    await wait(seconds + 1);
    expect(await pass(publisher)).not.toBeNull();
    await strike(publisher, 1);
    expect(Math.abs((await leftS(publisher)) - next)).toBeLessThan(10);
    seconds = next;
  }
});

test('a publisher learns of strikes, and for how many consumers alone its version is suspended, but not who they are', async () => {
  const { publisher, consumers, strike, report, wait, pass } = await offer(3);
  const [one = '', two = '', three = ''] = consumers;
  expect(await report(publisher)).toEqual({ latest: [], consumers: 0, suspensions: [], suspendedConsumers: 0 });
  await strike(one, 3);
  await strike(two, 1);
  await strike(publisher, 1);
  const told = await report(publisher);
  expect(told).toMatchObject({ consumers: 2, suspendedConsumers: 1 });
  expect(told?.latest.map(({ kind, own }) => [kind, own])).toEqual([['CRASH', true], ...new Array(4).fill(['CRASH', false])]);
  expect(told?.suspensions).toEqual([
    expect.objectContaining({ reason: expect.stringContaining('crashed 3 times, called by one tenant') }),
  ]);
  for (const id of consumers) expect(JSON.stringify(told)).not.toContain(id);
  for (const other of [one, three]) expect(await report(other)).toMatchObject({ latest: [], consumers: 0, suspensions: [] });

  await wait(61);
  await (await pass(one))?.answered();
  expect(await report(publisher)).toMatchObject({ consumers: 2, suspensions: [], suspendedConsumers: 0 });
});
