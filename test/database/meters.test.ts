import { afterAll, beforeAll, expect, it } from 'vitest';
import { asSystem } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import type { PlanTerms } from '../../src/catalog/catalog.ts';
import { lockCounter } from '../../src/usage/counters.ts';
import { grantLease, returnUnits } from '../../src/usage/leases.ts';
import { returnRequests, takeRequests } from '../../src/usage/rates.ts';
import { booksOf, type Core, openCore, type Right } from '../support/core.ts';

const RATE = { requestsPerMinute: 60, burst: 10 };

let core: Core;
/** A consumer of a listing, another of the same, and the first one's right to another listing. */
let rights: readonly [Right, Right, Right];
beforeAll(async () => {
  core = await openCore();
  const first = await core.consumer({});
  const second = await core.subscribe((await core.tenant()).id, first, first.terms as PlanTerms);
  const { offer, terms } = await core.offer({});
  rights = [first, second, await core.subscribe(first.consumerTenantId, offer, terms)];
});
afterAll(() => core[Symbol.asyncDispose]());

/** In an order in which each has the others' rows before and behind its own. */
async function each(work: (right: Right, number: number) => Promise<unknown>): Promise<void> {
  for (const i of [0, 1, 2, 1, 0]) await work(rights[i] as Right, i + 1);
}

it('units of a consumer and a listing are leased and come back to their own counter', async () => {
  const leased = async () => Promise.all(rights.map(async (right) => (await booksOf(core.db, right)).leased));
  const leases: { leaseId: string; units: bigint }[] = [];
  await each((right, number) => {
    const lease = { leaseId: newId(), units: BigInt(number) };
    leases.push(lease);
    const rest = { processId: newId(), planVersionId: null, quotaUnits: null, slots: 0n, nanos: 0n, counterIds: [] };
    return asSystem(core.db, async (tx) => grantLease(tx, await lockCounter(tx, right), { ...lease, ...rest }));
  });
  expect(await leased()).toEqual([2n, 4n, 3n]);
  const [lease] = leases;
  if (lease) await asSystem(core.db, (tx) => returnUnits(tx, [{ ...lease, number: 1n, slots: null }]));
  expect(await leased()).toEqual([1n, 4n, 3n]);
});

it('a counter that is locked is of the month', async () => {
  const [right] = rights;
  const period = () => asSystem(core.db, async (tx) => (await lockCounter(tx, right)).period);
  expect(await period()).toBe('2026-11');
  await core.setClock('2026-12-01T00:00:00Z');
  expect(await period()).toBe('2026-12');
  await core.setClock('2026-11-15T12:00:00Z');
  expect(await period()).toBe('2026-11');
});

it('requests of a consumer and a listing are taken of and come back to their own rate', async () => {
  const left: number[] = [];
  await each((right, number) => asSystem(core.db, async (tx) => void left.push((await takeRequests(tx, right, RATE, number)).left)));
  expect(left).toEqual([10, 10, 10, 8, 9]);
  const [first] = rights;
  await asSystem(core.db, (tx) => returnRequests(tx, first, RATE, [{ requests: 1, granted: 1, takenAt: 0 }]));
  left.length = 0;
  await each((right) => asSystem(core.db, async (tx) => void left.push((await takeRequests(tx, right, RATE, 0)).left)));
  expect(left.slice(0, 3)).toEqual([9, 6, 7]);
});
