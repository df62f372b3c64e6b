import { afterAll, beforeAll, expect, test } from 'vitest';
import { asSystem } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { createLeaseStore } from '../../src/prediction/lease-store.ts';
import { booksOf, broken, type Core, openCore } from '../support/core.ts';

let core: Core;
beforeAll(async () => {
  core = await openCore();
});
afterAll(async () => {
  expect(await broken(core.db)).toEqual([]);
  await core[Symbol.asyncDispose]();
});

test('a return that is made again, because its answer was lost, takes nothing of what is in flight', async () => {
  const right = await core.consumer({ unitPriceNanos: 2n, quotaUnits: 20n }, 1_000n);
  const store = createLeaseStore({ db: core.db, billing: core.billing, processId: newId() });
  const leaseId = newId();
  expect(await store.grant(leaseId, right, { need: 10, want: 10, requests: 1 })).toMatchObject({ units: 10 });
  const part = { leaseId, number: 7n, units: 4n, slots: 0n };
  await store.putBack([part], false);
  await store.putBack([part, { ...part, number: 8n, units: 1n }], false);
  expect(await booksOf(core.db, right)).toMatchObject({ leased: 5n, held: 10n });
  await store.putBack([{ leaseId, number: 9n, units: null, slots: null }], false);
  expect(await booksOf(core.db, right)).toMatchObject({ leased: 0n, held: 0n });
  expect(await asSystem(core.db, (tx) => tx.lease.findUniqueOrThrow({ where: { id: leaseId } }))).toMatchObject({
    units: 0n,
    returns: [7n, 8n, 9n],
  });
});
