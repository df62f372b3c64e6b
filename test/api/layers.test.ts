import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Principal } from '../../src/access/access.ts';
import { asTenant, type Tx } from '../../src/base/database.ts';
import { versionsByModel } from '../../src/catalog/catalog.ts';
import { tenantById, userById } from '../../src/tenancy/tenancy.ts';
import { asAdmin, undone } from '../support/admin.ts';
import { type Foreign, foreignOf, type Ids } from './sweep-ids.ts';
import { openWorld, type World } from './sweep-world.ts';

let world: World;
let foreign: Foreign;
beforeAll(async () => {
  world = await openWorld();
  foreign = await foreignOf(world);
});
afterAll(() => world[Symbol.asyncDispose]());

const PAGE = { first: 100, afterId: null };

/** What a read of the tenant `caller` finds of the given ids: rows, of any shape. */
type Read = (tx: Tx, caller: Principal, ids: Ids) => Promise<unknown[]>;

const each = async (ids: string[], find: (id: string) => Promise<unknown>) => {
  const found: unknown[] = [];
  for (const id of ids) found.push(await find(id));
  return found.filter((row) => row !== null);
};

/** Every read of the contexts' doors that takes the caller's transaction and the caller. */
const READS: Record<string, Read> = {
  'access.apiKeys': async (tx, caller) => (await world.app.services.access.apiKeys(tx, caller, PAGE)).nodes,
  'access.apiKey': (tx, caller, { ApiKey }) => each(ApiKey, (id) => world.app.services.access.apiKey(tx, caller, id)),
  'catalog.model': (tx, { tenantId }, { handle }) => each(handle, (name) => world.app.services.catalog.model(tx, tenantId, name)),
  'catalog.ownModels': async (tx, { tenantId }) => (await world.app.services.catalog.ownModels(tx, tenantId, PAGE)).nodes,
  'catalog.subscriptions': async (tx, { tenantId }) => (await world.app.services.catalog.subscriptions(tx, tenantId, PAGE)).nodes,
  'catalog.findModel': (tx, { tenantId }, { Model }) => each(Model, (id) => world.app.services.catalog.findModel(tx, tenantId, id)),
  'catalog.findModelVersion': (tx, { tenantId }, ids) =>
    each(ids.ModelVersion, (id) => world.app.services.catalog.findModelVersion(tx, tenantId, id)),
  'catalog.findPlan': (tx, { tenantId }, { Plan }) => each(Plan, (id) => world.app.services.catalog.findPlan(tx, tenantId, id)),
  'catalog.findSubscription': (tx, { tenantId }, ids) =>
    each(ids.Subscription, (id) => world.app.services.catalog.findSubscription(tx, tenantId, id)),
  'catalog.findUpload': (tx, { tenantId }, { Upload }) => each(Upload, (id) => world.app.services.catalog.findUpload(tx, tenantId, id)),
  'billing.findTransfer': (tx, { tenantId }, { Transfer }) =>
    each(Transfer, (id) => world.app.services.billing.findTransfer(tx, tenantId, id)),
  'billing.transfers': (tx, { tenantId }) => world.app.services.billing.transfers(tx, tenantId, PAGE),
  'usage.report': async (tx, { tenantId }) => {
    const day = (offset: number) => new Date(Date.now() + offset * 86_400_000);
    return (await world.app.services.usage.report(tx, { tenantId, from: day(-2), to: day(2), groupBy: 'API_KEY' })).rows;
  },
  'billing.wallet': async (tx, { tenantId }) => {
    const { balance } = await world.app.services.billing.wallet(tx, tenantId);
    return balance.nanos === 0n ? [] : [balance];
  },
};

/** Reads to which the transaction alone says who asks. */
const WALL_ONLY: Record<string, Read> = {
  tenantById: (tx, _, { Tenant }) => each(Tenant, (id) => tenantById(tx, id)),
  userById: (tx, _, { User }) => each(User, (id) => userById(tx, id)),
  versionsByModel: async (tx, _, { Model }) => [...(await versionsByModel(tx, Model)).values()],
};

/** Row-level security stops no superuser: the reader's own check is all that is left. */
function withoutWalls<T>(tenantId: string, fn: (tx: Tx) => Promise<T>): Promise<T> {
  return asAdmin(world.db, async (tx) => {
    await tx.$executeRaw`select set_config('mercato.tenant_id', ${tenantId}, true)`;
    return fn(tx);
  });
}

const owners = () => [world.hidden.principal, world.shop.principal];

describe('row-level security alone', () => {
  it.each(Object.keys({ ...READS, ...WALL_ONLY }))(
    "shows nothing of another tenant to %s, though it asks in that tenant's name",
    async (name) => {
      const read = { ...READS, ...WALL_ONLY }[name] as Read;
      for (const tenantId of [world.stranger.principal.tenantId, world.operator.principal.tenantId, null]) {
        for (const owner of owners()) {
          const found = await asTenant(world.db, tenantId, (tx) => read(tx, owner, foreign.there));
          expect(hidden(found)).toEqual([]);
        }
      }
    },
  );
});

it('a wall that lets a tenant through is seen', async () => {
  const found = await undone(world.db, async (tx) => {
    await tx.$executeRaw`alter policy own on upload using (true)`;
    await tx.$executeRaw`select set_config('role', 'mercato_tenant', true)`;
    await tx.$executeRaw`select set_config('mercato.tenant_id', ${world.stranger.principal.tenantId}, true)`;
    return READS['catalog.findUpload']?.(tx, world.hidden.principal, foreign.there) ?? [];
  });
  expect(hidden(found)).not.toEqual([]);
});

describe("the application's check alone", () => {
  it.each(Object.keys(READS))('shows nothing of another tenant to %s, though no wall stands', async (name) => {
    const read = READS[name] as Read;
    for (const { principal } of [world.stranger, world.operator]) {
      const found = await withoutWalls(principal.tenantId, (tx) => read(tx, principal, foreign.there));
      expect(hidden(found)).toEqual([]);
    }
  });
});

it("a cursor of another tenant's transfer is one of none, though no wall stands", async () => {
  const { billing } = world.app.services;
  const { tenantId } = world.hidden.principal;
  const others = await asTenant(world.db, world.stranger.principal.tenantId, (tx) =>
    billing.transfers(tx, world.stranger.principal.tenantId, PAGE),
  );
  expect(others).not.toEqual([]);
  for (const { id } of others) {
    expect(await withoutWalls(tenantId, (tx) => billing.transfers(tx, tenantId, { first: 100, afterId: id }))).toEqual([]);
  }
});

describe('both layers together', () => {
  it.each(Object.keys({ ...READS, ...WALL_ONLY }))('show %s of the tenant itself', async (name) => {
    const read = { ...READS, ...WALL_ONLY }[name] as Read;
    const found = await Promise.all(owners().map((owner) => asTenant(world.db, owner.tenantId, (tx) => read(tx, owner, foreign.there))));
    expect(hidden(found.flat())).not.toEqual([]);
  });
});

/** Those of the rows that show what only their owner may see. */
function hidden(rows: unknown[]): string[] {
  const texts = rows.map((row) => JSON.stringify(row, (_, value) => (typeof value === 'bigint' ? String(value) : value)));
  return texts.filter((text) => foreign.needles.some((needle) => text.includes(needle)));
}
