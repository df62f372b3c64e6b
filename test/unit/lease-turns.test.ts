import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { newId } from '../../src/base/ids.ts';
import { createLog } from '../../src/base/log.ts';
import type { GrantKey } from '../../src/prediction/grants.ts';
import type { LeaseStore } from '../../src/prediction/lease-store.ts';
import { createLeases } from '../../src/prediction/leases.ts';
import type { LeaseScope } from '../../src/usage/usage.ts';

const ENTRIES = 50;
const keys = Array.from({ length: ENTRIES }, newId);

/** Leases of a store that refuses every key for want of credit, a few steps of the event loop later, with ten connections; who has none gets a lease. */
async function openShort() {
  const seen = { grants: 0, recalls: 0 };
  let heard: (scope: LeaseScope) => void = () => {};
  const short = { short: 'CREDIT', foreign: false, data: { availableNanos: '0', currency: 'EUR' }, neededNanosOf: () => 1n } as const;
  const granted = { period: '2026-11', units: 16, requests: Number.POSITIVE_INFINITY, requestsTakenAt: 0, slots: Number.POSITIVE_INFINITY };
  const store: LeaseStore = {
    async grant(leaseId, { apiKeyId }) {
      if (apiKeyId === null)
        return { ...granted, counterIds: [], left: [], accounts: null, leaseId, usableUntil: performance.now() + 60_000 };
      for (let left = 1 + (seen.grants++ % 5); left > 0; left--) await turn();
      return short;
    },
    async putBack(_, drain) {
      await turn();
      if (drain) seen.recalls++;
    },
    putBackRequests: async () => {},
    renew: async () => {},
    drop: async () => {},
    sweep: async () => {},
    tellFull: async () => {},
    limitedCallers: async () => new Set(keys),
    onRecall: async (listener) => {
      heard = listener;
    },
  };
  const invalidations = { on() {}, isFresh: () => true };
  const leases = await createLeases({ store, invalidations, log: createLog('silent'), maintainMs: null, connections: 10 });
  const tenantId = newId();
  const key: GrantKey = {
    ...{ consumerTenantId: tenantId, publisherTenantId: newId(), listingId: newId(), subscriptionId: newId(), handle: 'a/model' },
    terms: {
      ...{ planVersionId: newId(), currency: 'EUR', unitPriceNanos: 1n, freeUnits: 0n, quotaUnits: null },
      ...{ requestsPerMinute: null, burst: null, priority: 0, alias: null },
    },
    ...{ memberId: null, apiKeyId: null },
  };
  const ask = async (apiKeyId: string | null, consumerTenantId = tenantId) => {
    try {
      return await leases.admit({ ...key, apiKeyId, consumerTenantId }, 1, 10_000);
    } catch (error) {
      return (error as { code: string }).code;
    }
  };
  return { leases, seen, ask, recall: (consumerTenantId: string) => heard({ consumerTenantId, listingId: key.listingId }) };
}

test('who is short of credit asks no oftener for the others of its tenant that ask too', async () => {
  const { seen, ask } = await openShort();
  expect(await Promise.all(keys.map((key) => ask(key)))).toEqual(keys.map(() => 'INSUFFICIENT_CREDIT'));
  expect(seen.grants).toBeLessThan(2 * ENTRIES);
});

test('a recall is answered while a tenant asks again and again', async () => {
  const { seen, ask, recall } = await openShort();
  const other = newId();
  await ask(null, other);
  let over = false;
  const asking = keys.map(async (key) => {
    while (!over) await ask(key);
  });
  await expect.poll(() => seen.grants).toBeGreaterThan(ENTRIES);
  recall(other);
  await expect.poll(() => seen.recalls).toBe(1);
  over = true;
  await Promise.all(asking);
});

test('what waits for its turn when the process stops asks no more', async () => {
  const { leases, seen, ask } = await openShort();
  const asked = Promise.all(keys.map((key) => ask(key)));
  await leases[Symbol.asyncDispose]();
  expect(await asked).toContain('OVERLOADED');
  expect(seen.grants).toBeLessThan(ENTRIES);
});
