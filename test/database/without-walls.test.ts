import { createHash, generateKeyPairSync } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApiKeys } from '../../src/access/api-keys.ts';
import type { Invalidations } from '../../src/access/invalidation.ts';
import { loadJwtKeys } from '../../src/access/jwt-keys.ts';
import { makeKey } from '../../src/access/key-format.ts';
import { createKeyMemory } from '../../src/access/key-memory.ts';
import { type Principal, SCOPES } from '../../src/access/principal.ts';
import { createSessions } from '../../src/access/sessions.ts';
import { asTenant, type Database } from '../../src/base/database.ts';
import { onceFor } from '../../src/base/idempotency.ts';
import { newId } from '../../src/base/ids.ts';
import { LIMITS } from '../../src/base/limits.ts';
import type { PlanTerms } from '../../src/catalog/catalog.ts';
import { createEntitlements } from '../../src/catalog/entitlements.ts';
import { findSubscription, ownSubscriptions, subscribe } from '../../src/catalog/subscriptions.ts';
import { createUsage, limitedCallers, quotasOf } from '../../src/usage/usage.ts';
import { asAdmin } from '../support/admin.ts';
import { type Core, codeOf, finished, log, openCore, type Right } from '../support/core.ts';

let core: Core;
/** Whose transactions row-level security does not stop: what is left is what the code asks for. */
let open: Database;
let right: Right;
let foreign: Right;
beforeAll(async () => {
  core = await openCore();
  open = {
    ...core.db,
    listen: core.db.listen,
    tenantClient: { $transaction: (fn: Parameters<typeof asAdmin>[1]) => asAdmin(core.db, fn) } as unknown as Database['tenantClient'],
    [Symbol.asyncDispose]: async () => {},
  };
  [right, foreign] = [await core.consumer({}), await core.consumer({})];
});
afterAll(() => core[Symbol.asyncDispose]());

const silent = {
  publish: async () => 0n,
  confirmed: async () => {},
  caughtUp: async () => {},
  on: () => {},
  isFresh: () => true,
  refresh: async () => {},
};
const invalidations: Invalidations = silent;
const principal = (tenantId: string): Principal => ({
  ...{ tenantId, userId: newId(), apiKeyId: null, memberId: null, role: 'OWNER', isOperator: false },
  ...{ scopes: new Set(SCOPES), sessionId: newId() },
});
const NOVEMBER = { from: new Date('2026-11-01T00:00:00Z'), to: new Date('2026-12-01T00:00:00Z') };
const PAGE = { first: 100, afterId: null };
const plain = { name: 'cap', subject: 'TENANT', subjectId: null, measure: 'UNITS', window: 'DAY', burstUnits: null, hard: true } as const;

async function keyOf(tenantId: string, more: { revokedAt?: Date; expiresAt?: Date } = {}): Promise<{ id: string; secret: string }> {
  const [id, secret] = [newId(), makeKey()];
  const hash = createHash('sha256').update(secret).digest();
  await asAdmin(core.db, (tx) => tx.apiKey.create({ data: { id, tenantId, name: 'k', hash, prefix: 'mk_', scopes: [], ...more } }));
  return { id, secret };
}

describe('limits', () => {
  const usage = () => createUsage({ db: open, announcer: silent, currency: 'EUR' });
  const limit = (subject: 'MEMBER' | 'API_KEY' | 'SUBSCRIPTION', subjectId: string | null) => {
    const given = { ...plain, name: newId(), subject, subjectId, amount: 1n, alertPercents: null };
    return codeOf(() => usage().createLimit(right.consumerTenantId, given));
  };

  it("are of the tenant's own keys, members and subscriptions, and of those in force", async () => {
    const members = [newId(), newId()];
    await asAdmin(core.db, async (tx) => {
      for (const [i, tenantId] of [right.consumerTenantId, foreign.consumerTenantId].entries()) {
        const id = members[i] ?? '';
        await tx.user.create({ data: { id, email: `${id}@mercato.test`, passwordHash: '-' } });
        await tx.member.create({ data: { tenantId, userId: id, role: 'OWNER' } });
      }
    });
    expect(await limit('MEMBER', members[0] ?? '')).toBe('OK');
    expect(await limit('MEMBER', members[1] ?? '')).toBe('NOT_FOUND');
    expect(await limit('API_KEY', (await keyOf(right.consumerTenantId)).id)).toBe('OK');
    expect(await limit('API_KEY', (await keyOf(foreign.consumerTenantId)).id)).toBe('NOT_FOUND');
    expect(await limit('API_KEY', (await keyOf(right.consumerTenantId, { revokedAt: new Date(0) })).id)).toBe('NOT_FOUND');
    expect(await limit('SUBSCRIPTION', right.subscriptionId)).toBe('OK');
    expect(await limit('SUBSCRIPTION', foreign.subscriptionId)).toBe('NOT_FOUND');
    await asAdmin(core.db, (tx) => tx.$executeRaw`update subscription set state = 'CANCELLED' where id = ${right.subscriptionId}::uuid`);
    expect(await limit('SUBSCRIPTION', right.subscriptionId)).toBe('NOT_FOUND');
  });

  it('are counted by tenant, and only until they are removed', async () => {
    const fill = (tenantId: string, removed: boolean) =>
      asAdmin(
        core.db,
        (tx) => tx.$executeRaw`
      insert into usage_limit (id, tenant_id, name, subject, subject_id, measure, "window", amount, hard, alert_percents, removed_at)
      select gen_random_uuid(), ${tenantId}::uuid, 'l' || n, 'TENANT', ${tenantId}::uuid, 'UNITS', 'DAY', 1, true, '{}', case when ${removed} then mercato_now() end
        from generate_series(1, 100) n`,
      );
    const [{ id }, other] = [await core.tenant(), await core.tenant()];
    await fill(other.id, false);
    await fill(id, true);
    const make = (tenantId: string) => codeOf(() => usage().createLimit(tenantId, { ...plain, amount: 1n, alertPercents: null }));
    expect([await make(id), await make(other.id)]).toEqual(['OK', 'CONFLICT']);
  });

  it('and their alerts are seen, changed and removed by their tenant alone', async () => {
    const server = await core.process();
    const limited = await core.consumer({});
    const { consumerTenantId: owner } = limited;
    const { id } = await core.usage.createLimit(owner, { ...plain, amount: 1n, alertPercents: null });
    await server.settlement.settle(finished(limited, await server.leases.admit(limited, 1, 1_000)));
    const ofKey = {
      ...plain,
      name: 'key',
      subject: 'API_KEY',
      subjectId: (await keyOf(owner)).id,
      amount: 1n,
      alertPercents: null,
    } as const;
    const { id: keyLimitId } = await core.usage.createLimit(owner, ofKey);
    const own = await asTenant(open, owner, (tx) => usage().alerts(tx, owner, PAGE));
    const newest = own[0]?.id ?? '';
    expect(own).toHaveLength(2);
    const stranger = (await core.consumer({})).consumerTenantId;
    const seen = await asTenant(open, stranger, async (tx) => [
      ...(await usage().limits(tx, stranger)),
      ...(await usage().alerts(tx, stranger, PAGE)),
      await usage().findLimit(tx, stranger, id),
      await usage().findAlert(tx, stranger, newest),
      ...(await limitedCallers(tx, stranger)),
      ...(await usage().report(tx, { tenantId: stranger, ...NOVEMBER, groupBy: 'MODEL' })).rows,
    ]);
    expect(seen).toEqual([null, null]);
    const following = (afterId: string) => asTenant(open, owner, (tx) => usage().alerts(tx, owner, { ...PAGE, afterId }));
    expect(await following(newest)).toHaveLength(1);
    const hers = await core.consumer({});
    await core.setClock('2026-11-15T12:00:01Z');
    await core.usage.createLimit(hers.consumerTenantId, { ...plain, amount: 1n, alertPercents: null });
    await server.settlement.settle(finished(hers, await server.leases.admit(hers, 1, 1_000)));
    const others = await asTenant(open, hers.consumerTenantId, (tx) => usage().alerts(tx, hers.consumerTenantId, PAGE));
    await core.setClock('2026-11-15T12:00:00Z');
    for (const other of others) expect(await following(other.id)).toEqual([]);
    const change = { name: 'mine', amount: null, burstUnits: null, hard: null, alertPercents: null };
    expect(await codeOf(() => usage().updateLimit(stranger, id, change))).toBe('NOT_FOUND');
    expect(await codeOf(() => usage().deleteLimit(stranger, id))).toBe('NOT_FOUND');
    expect(await asTenant(open, owner, (tx) => usage().findLimit(tx, owner, id))).toMatchObject({ name: 'cap' });
    for (const limitId of [id, keyLimitId]) await usage().deleteLimit(owner, limitId);
    expect(await asTenant(open, owner, (tx) => usage().limits(tx, owner))).toEqual([]);
  });
});

it('a subscription is to what its buyer sees, and gives a right to nobody else', async () => {
  const { id: stranger } = await core.tenant();
  const { offer, terms } = await core.offer({});
  await asAdmin(core.db, async (tx) => {
    await tx.listing.update({ where: { id: offer.listingId }, data: { state: 'DRAFT' } });
    const ready = { state: 'READY', signature: {}, publishedAt: new Date() } as const;
    for (const { modelVersionId: id } of [right, offer]) await tx.modelVersion.update({ where: { id }, data: ready });
  });
  expect(await codeOf(() => subscribe(open, invalidations, stranger, terms.planVersionId))).toBe('NOT_FOUND');
  const entitlements = createEntitlements({ db: open, invalidations });
  expect(await codeOf(() => entitlements.of({ tenantId: stranger }, right.handle))).toBe('NOT_SUBSCRIBED');
  // The version of the one is not READY, and the listing of the other not published.
  for (const model of [foreign.handle, `${foreign.handle}@1`, offer.handle]) {
    expect(await codeOf(() => entitlements.of({ tenantId: stranger }, model))).toBe('NOT_FOUND');
  }
});

it('subscriptions are seen by their consumer alone', async () => {
  const seenBy = (tenantId: string) =>
    asTenant(open, tenantId, async (tx) => [
      await findSubscription(tx, tenantId, foreign.subscriptionId ?? ''),
      (await ownSubscriptions(tx, tenantId, PAGE)).nodes,
    ]);
  expect(await seenBy((await core.tenant()).id)).toEqual([null, []]);
  const own = { id: foreign.subscriptionId };
  expect(await seenBy(foreign.consumerTenantId)).toMatchObject([own, [own]]);
});

it("a quota is of the tenant's own use", async () => {
  const own = await core.consumer({});
  const other = await core.subscribe((await core.tenant()).id, own, own.terms as PlanTerms);
  const server = await core.process();
  for (const [caller, units] of [
    [other, 5],
    [own, 2],
    [other, 5],
  ] as const) {
    await server.settlement.settle(finished(caller, await server.leases.admit(caller, units, 1_000)));
  }
  for (const [tenantId, used] of [
    [own.consumerTenantId, 2n],
    [other.consumerTenantId, 10n],
  ] as const) {
    expect((await asTenant(open, tenantId, (tx) => quotasOf(tx, [own.listingId]))).get(own.listingId)?.used).toBe(used);
  }
});

it("a wallet is the tenant's own", async () => {
  for (const nanos of [5n, 7n]) {
    const { consumerTenantId } = await core.consumer({}, nanos);
    expect((await asTenant(open, consumerTenantId, (tx) => core.billing.wallet(tx, consumerTenantId))).balance.nanos).toBe(nanos);
  }
});

describe('keys', () => {
  const keys = () => createApiKeys(open, invalidations);

  it('are seen and revoked by their tenant alone', async () => {
    const [own, other] = [await keyOf(right.consumerTenantId), await keyOf(foreign.consumerTenantId)];
    const caller = principal(right.consumerTenantId);
    expect(await codeOf(() => keys().revokeApiKey(caller, other.id))).toBe('NOT_FOUND');
    const [found, listed] = await asAdmin(core.db, async (tx) => [
      await keys().apiKey(tx, caller, other.id),
      (await keys().apiKeys(tx, caller, PAGE)).nodes,
    ]);
    expect(found).toBeNull();
    expect(listed.map(({ id }) => id)).toContain(own.id);
    expect(listed.map(({ id }) => id)).not.toContain(other.id);
  });

  it('are counted by tenant, and only while they are valid', async () => {
    const full = principal((await core.tenant()).id);
    const input = { name: 'k', scopes: ['model:predict'], expiresAt: null };
    const fill = (tenantId: string, expired: boolean) =>
      asAdmin(
        core.db,
        (tx) => tx.$executeRaw`
      insert into api_key (id, tenant_id, name, hash, prefix, scopes, expires_at)
      select gen_random_uuid(), ${tenantId}::uuid, 'k', sha256(convert_to(gen_random_uuid()::text, 'UTF8')), 'mk_', '{}',
             case when ${expired} then mercato_now() end
        from generate_series(1, ${LIMITS.apiKeysPerTenant}::int)`,
      );
    await fill(full.tenantId, true);
    expect(await codeOf(() => keys().createApiKey(full, input))).toBe('OK');
    await fill((await core.tenant()).id, false);
    expect(await codeOf(() => keys().createApiKey(full, input))).toBe('OK');
  });

  const clock = { wallMs: () => 0, monotonicMs: () => 0 };

  it.each([
    ['are valid', {}, 'OK'],
    ['have expired', { expiresAt: new Date('2026-11-15T12:00:00Z') }, 'UNAUTHENTICATED'],
    ['were revoked', { revokedAt: new Date(0) }, 'UNAUTHENTICATED'],
  ])('that %s and that no process remembers: %o', async (_, more, outcome) => {
    const memory = createKeyMemory({ db: core.db, log, clock, invalidations, noteUse: () => {} });
    const { secret } = await keyOf(right.consumerTenantId, more);
    expect(await codeOf(() => memory.authenticate(secret))).toBe(outcome);
  });

  it('that are revoked while they are looked up are refused', async () => {
    const { id, secret } = await keyOf(right.consumerTenantId);
    let forget = (_: string): unknown => undefined;
    const heard: Invalidations = {
      ...silent,
      on: (_, handler) => {
        forget = handler;
      },
    };
    const transaction = core.db.systemClient.$transaction.bind(core.db.systemClient) as (fn: unknown, options: unknown) => Promise<unknown>;
    const late = async (fn: unknown, options: unknown) => {
      const row = await transaction(fn, options);
      forget(id);
      return row;
    };
    const db = { ...open, systemClient: { $transaction: late } as unknown as Database['systemClient'], listen: core.db.listen };
    const memory = createKeyMemory({ db, log, clock, invalidations: heard, noteUse: () => {} });
    expect(await codeOf(() => memory.authenticate(secret))).toBe('UNAUTHENTICATED');
  });
});

it("a mutation's key is of its tenant and its mutation", async () => {
  const made: string[] = [];
  const make = async (id: string) => void made.push(id);
  for (const tenantId of [right.consumerTenantId, foreign.consumerTenantId]) {
    for (const mutation of ['A', 'B']) {
      for (const replayed of [false, true]) {
        const keyed = { tenantId, mutation, key: 'k', input: { tenantId, mutation } };
        expect(await asAdmin(core.db, (tx) => onceFor(tx, keyed, make))).toEqual({ id: made.at(-1), replayed });
      }
    }
  }
  expect(new Set(made).size).toBe(4);
});

describe('a session is switched', () => {
  const sign = () => ({ accessToken: 'a', accessTokenExpiresAt: new Date(0) });
  const sessions = () => createSessions(core.db, { sign, verify: () => principal('') });

  it.each([
    ['by its user', {}, 'OK'],
    ['by nobody else', { userId: newId() }, 'UNAUTHENTICATED'],
    ['not after its end', { expiresAt: '2026-11-15T12:00:00Z' }, 'UNAUTHENTICATED'],
  ])('%s', async (_, { userId, expiresAt = '2026-11-15T12:00:01Z' }: { userId?: string; expiresAt?: string }, outcome) => {
    const [own, id] = [newId(), newId()];
    await asAdmin(core.db, async (tx) => {
      for (const user of [own, userId ?? newId()]) {
        await tx.user.create({ data: { id: user, email: `${user}@mercato.test`, passwordHash: '-' } });
        await tx.member.create({ data: { tenantId: right.consumerTenantId, userId: user, role: 'OWNER' } });
      }
      await tx.session.create({ data: { id, userId: own, tenantId: right.consumerTenantId, expiresAt: new Date(expiresAt) } });
    });
    const caller = { ...principal(right.consumerTenantId), userId: userId ?? own, sessionId: id };
    expect(await codeOf(() => sessions().switchTenant(caller, right.consumerTenantId, null))).toBe(outcome);
  });
});

it.each([
  ['of another curve', '{"keys":[{"kty":"EC","crv":"P-384","d":"AA","x":"AA","y":"AA"}]}', 'must be a JWK set'],
  ['that are public', '{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}', 'must be a JWK set'],
  ['that are none', '{"keys":[]}', 'one key or more'],
  [
    'of one name',
    JSON.stringify({
      keys: [1, 2].map(() => ({ ...generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }), kid: 'k' })),
    }),
    'another kid',
  ],
])('no tokens are signed with keys %s', async (_, keys, message) => {
  await expect(loadJwtKeys(keys, '')).rejects.toThrow(message);
});
