import { once } from 'node:events';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Database } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { LIMITS } from '../../src/base/limits.ts';
import { ExportPlaces } from '../../src/usage/export.ts';
import { createUsage } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { type Core, openCore } from '../support/core.ts';

let core: Core;
/** Row-level security does not stop it. */
let open: Database;
const [own, other] = [newId(), newId()];
const FROM = '2026-11-15T09:00:00Z';
const AT = '2026-11-15T10:00:00Z';
const NEXT = '2026-11-15T11:00:00Z';
beforeAll(async () => {
  core = await openCore();
  const tenantClient = { $transaction: (fn: Parameters<typeof asAdmin>[1]) => asAdmin(core.db, fn) } as unknown as Database['tenantClient'];
  open = { ...core.db, tenantClient, listen: core.db.listen, [Symbol.asyncDispose]: async () => {} };
  await asAdmin(core.db, async (tx) => {
    for (const [tenantId, count, at] of [
      [own, 2_500, AT],
      [own, 3, NEXT],
      [other, 200, FROM],
      [other, 7, AT],
    ] as const) {
      await tx.$executeRaw`
        insert into usage_record (period, id, consumer_tenant_id, publisher_tenant_id, listing_id, model_id, model_version_id, units, rows, runs,
          compute_micros, bytes_in, bytes_out, amount_nanos, currency, created_at)
        select '2026-11', gen_random_uuid(), ${tenantId}::uuid, ${other}::uuid, ${other}::uuid, ${other}::uuid, ${other}::uuid, 1, 1, 1, 1, 1, 1, 0, 'EUR',
               ${at}::timestamptz from generate_series(1, ${count}::int)`;
    }
  });
});
afterAll(() => core[Symbol.asyncDispose]());

async function ids(to: string, look: () => Promise<unknown> = async () => {}): Promise<string[]> {
  const usage = createUsage({ db: open, announcer: { publish: async () => 0n, confirmed: async () => {} }, currency: 'EUR' });
  const found: string[] = [];
  for await (const part of usage.exportRecords(own, { from: FROM, to }, look).lines) {
    for (const line of part.trimEnd().split('\n')) found.push((JSON.parse(line) as { id: string }).id);
    if (found.length > 5_000) break;
  }
  return found;
}

it("has each of the tenant's records once, page by page, up to its end", async () => {
  const before = await ids(NEXT);
  expect([before.length, new Set(before).size]).toEqual([2_500, 2_500]);
  expect(await ids('2026-11-15T12:00:00Z')).toHaveLength(2_503);
});

it('ends where its reader may have no more', async () => {
  let pages = 0;
  const look = async () => {
    if (pages++ === 1) throw new Error('revoked');
  };
  await expect(ids(NEXT, look)).rejects.toThrow('revoked');
  expect(pages).toBe(2);
});

it('checks its span', () => {
  const usage = createUsage({ db: open, announcer: { publish: async () => 0n, confirmed: async () => {} }, currency: 'EUR' });
  expect(() => usage.exportRecords(own, { from: NEXT, to: AT }, async () => {})).toThrow(
    expect.objectContaining({ code: 'BAD_USER_INPUT' }),
  );
});

it.each([
  ['of a tenant', LIMITS.exportsPerTenant, () => own],
  ['of all', LIMITS.exports, newId],
])('has so many places in a process, %s', (_, limit, tenantOf) => {
  const places = new ExportPlaces();
  const [leave] = Array.from({ length: limit }, () => places.take(tenantOf()));
  const full = expect.objectContaining({ code: 'OVERLOADED', data: { limit: String(limit), retryAfterMs: expect.any(Number) } });
  expect(() => places.take(tenantOf())).toThrow(full);
  leave?.();
  places.take(tenantOf());
  expect(() => places.take(tenantOf())).toThrow(full);
});

it('has its place until it was read to its end', async () => {
  const usage = createUsage({ db: open, announcer: { publish: async () => 0n, confirmed: async () => {} }, currency: 'EUR' });
  for (let read = 0; read <= LIMITS.exportsPerTenant; read++) {
    const { lines } = usage.exportRecords(own, { from: AT, to: NEXT }, async () => {});
    await once(lines.resume(), 'close');
  }
});
