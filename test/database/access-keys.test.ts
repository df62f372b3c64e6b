import { PrismaPg } from '@prisma/adapter-pg';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Access, Principal, Scope } from '../../src/access/access.ts';
import { makeKey } from '../../src/access/key-format.ts';
import { LOOKUPS_WAITING_MAX } from '../../src/access/key-memory.ts';
import { createKeyUses } from '../../src/access/key-uses.ts';
import { isAwaited, lastInvalidation } from '../../src/access/process-rows.ts';
import { asSystem, asTenant } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { LIMITS } from '../../src/base/limits.ts';
import { createLog } from '../../src/base/log.ts';
import { PrismaClient } from '../../src/generated/prisma/client.ts';
import { codeOf } from '../support/core.ts';
import { bearer, beat, openServers, pending, signUp } from './access-setup.ts';

let servers: Awaited<ReturnType<typeof openServers>>;
let access: Access;
let owner: Principal;
beforeAll(async () => {
  servers = await openServers();
  access = await servers.openAccess({ heartbeat: 'manual' });
});
beforeEach(async () => {
  await beat(access);
  owner = (await signUp(access)).principal;
});
afterAll(() => servers[Symbol.asyncDispose]());

const refused = { code: 'UNAUTHENTICATED' };
const predictKey = (expiresAt: Date | null = null) => access.createApiKey(owner, { name: 'a key', scopes: ['model:predict'], expiresAt });
const call = async (secret: string, by: Access = access) => by.authenticate({ apiKey: secret });
const expire = (id: string) =>
  asSystem(servers.db, (tx) => tx.$executeRaw`update api_key set expires_at = mercato_now() where id = ${id}::uuid`);

it('half of the connections look keys up and so many wait, the others are refused, and more come once those are through', async () => {
  const made = await predictKey();
  const most = Math.max(1, Math.floor(servers.db.connections / 2)) + LOOKUPS_WAITING_MAX;
  const codes = await Promise.all(Array.from({ length: most + 1 }, () => codeOf(() => call(makeKey()))));
  expect(codes.toSorted()).toEqual(['OVERLOADED', ...Array.from({ length: most }, () => 'UNAUTHENTICATED')]);
  expect((await call(made.secret))?.apiKeyId).toBe(made.apiKey.id);
});

describe('createApiKey', () => {
  it('a key is shown once, is kept as a hash, and authenticates with its scopes in both headers', async () => {
    const { apiKey, secret } = await predictKey();
    expect(apiKey).toMatchObject({
      name: 'a key',
      prefix: secret.slice(0, 11),
      scopes: ['model:predict'],
      revokedAt: null,
      lastUsedAt: null,
    });
    const row = await asSystem(servers.db, (tx) => tx.apiKey.findUniqueOrThrow({ where: { id: apiKey.id } }));
    expect(JSON.stringify({ ...row, hash: Buffer.from(row.hash).toString() })).not.toContain(secret.slice(11));
    const principal = {
      tenantId: owner.tenantId,
      userId: null,
      apiKeyId: apiKey.id,
      memberId: owner.userId,
      role: null,
      isOperator: false,
      scopes: new Set(['model:predict']),
    };
    expect(await call(secret)).toEqual(principal);
    expect(await bearer(access, secret)).toEqual(principal);
  });

  it('a caller grants only scopes that it has', async () => {
    const narrow = { ...owner, scopes: new Set<Scope>(['key:write', 'model:predict']) };
    const create = (scopes: string[]) => access.createApiKey(narrow, { name: 'k', scopes, expiresAt: null });
    await expect(create(['billing:read'])).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(create(['root'])).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field: 'scopes' } });
    await expect(create([])).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field: 'scopes' } });
    expect((await create(['model:predict', 'model:predict'])).apiKey.scopes).toEqual(['model:predict']);
  });

  it('an expiry in the past and an empty name are refused', async () => {
    await expect(predictKey(new Date(0))).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field: 'expiresAt' } });
    const nameless = access.createApiKey(owner, { name: ' ', scopes: ['model:predict'], expiresAt: null });
    await expect(nameless).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field: 'name' } });
  });

  it('the last place is given once, and a revoked key leaves its place', async () => {
    await asSystem(
      servers.db,
      (tx) => tx.$executeRaw`
      insert into api_key (id, tenant_id, name, hash, prefix, scopes)
      select gen_random_uuid(), ${owner.tenantId}::uuid, 'k', sha256(convert_to(${owner.tenantId} || i, 'UTF8')), 'mk_', array[]::text[]
      from generate_series(2, ${LIMITS.apiKeysPerTenant}::int) i`,
    );
    const both = await Promise.allSettled([predictKey(), predictKey()]);
    const [made, ...more] = both.filter((result) => result.status === 'fulfilled');
    expect(more).toEqual([]);
    expect(both.find((result) => result.status === 'rejected')?.reason).toMatchObject({ code: 'CONFLICT' });
    await access.revokeApiKey(owner, made?.value.apiKey.id ?? '');
    await predictKey();
  });
});

describe('authenticate', () => {
  it('nothing brought is nobody, and a key that was never given out is refused', async () => {
    expect(await access.authenticate({})).toBeNull();
    const { secret } = await predictKey();
    await expect(call(`${secret.slice(0, -1)}~`)).rejects.toMatchObject(refused);
    await expect(call(makeKey())).rejects.toMatchObject(refused);
  });

  it('a key seen before comes from memory, and not once the process stopped hearing from the database', async () => {
    const { secret } = await predictKey();
    const principal = await call(secret);
    expect(access.authenticate({ apiKey: secret })).toBe(principal);
    servers.clock.pass(LIMITS.leaseMs);
    expect(access.authenticate({ apiKey: secret })).toBeInstanceOf(Promise);
    expect(await call(secret)).toEqual(principal);
  });

  it('a remembered key ends with its expiry', async () => {
    const { apiKey, secret } = await predictKey(new Date(Date.now() + 3_600_000));
    await call(secret);
    await expire(apiKey.id);
    expect(await call(secret)).not.toBeNull();
    servers.clock.pass(3_600_000);
    await beat(access);
    await expect(call(secret)).rejects.toMatchObject(refused);
  });

  it('a key that takes the place of another is valid beside it, until that is revoked or ends', async () => {
    const [ending, revoked] = [await predictKey(new Date(Date.now() + 3_600_000)), await predictKey()];
    const next = await predictKey();
    for (const { secret } of [ending, revoked, next]) expect(await call(secret)).toMatchObject({ tenantId: owner.tenantId });
    await expire(ending.apiKey.id);
    servers.clock.pass(3_600_000);
    await beat(access);
    await access.revokeApiKey(owner, revoked.apiKey.id);
    for (const { secret } of [ending, revoked]) await expect(call(secret)).rejects.toMatchObject(refused);
    expect(await call(next.secret)).toMatchObject({ tenantId: owner.tenantId, apiKeyId: next.apiKey.id });
  });

  it('a cut-off process says OVERLOADED, and what it remembers it does not trust', async () => {
    const db = { ...servers.db };
    await using cut = await servers.openAccess({ db, heartbeat: 'manual' });
    const { secret } = await predictKey();
    const remembered = await call(secret, cut);
    await using nowhere = unreachable();
    db.systemClient = nowhere.client;
    expect(cut.authenticate({ apiKey: secret })).toBe(remembered);
    servers.clock.pass(LIMITS.leaseMs);
    await expect(call(secret, cut)).rejects.toMatchObject({ code: 'OVERLOADED', data: { retryAfterMs: expect.any(Number) } });
  });
});

describe('revokeApiKey', () => {
  it('when it returns, no process accepts the key, and twice is the same', async () => {
    await using other = await servers.openAccess();
    const { apiKey, secret } = await predictKey();
    const before = await Promise.all([call(secret), call(secret, other)]);
    expect(before[0]).toEqual(before[1]);
    const revoked = await access.revokeApiKey(owner, apiKey.id);
    expect(revoked.revokedAt).toBeInstanceOf(Date);
    await expect(call(secret)).rejects.toMatchObject(refused);
    await expect(call(secret, other)).rejects.toMatchObject(refused);
    expect(await access.revokeApiKey(owner, apiKey.id)).toEqual(revoked);
  });

  it('it waits for answers that are on their way out in another process, and lets no new one begin', async () => {
    await using other = await servers.openAccess();
    const { apiKey, secret } = await predictKey();
    const principal = await bearer(other, secret);
    const releases = [other.holdAnswer(principal), other.holdAnswer(principal)];
    const returned = access.revokeApiKey(owner, apiKey.id);
    await expect.poll(() => catchCode(() => other.holdAnswer(principal))).toBe('UNAUTHENTICATED');
    releases[0]?.();
    releases[0]?.();
    for (let beats = 0; beats < 3; beats++) for (const one of [access, other]) await beat(one);
    const confirmed = await asSystem(servers.db, async (tx) => !(await isAwaited(tx, await lastInvalidation(tx))));
    expect(confirmed).toBe(false);
    expect(await pending(returned)).toBe(true);
    releases[1]?.();
    await returned;
  });

  it('a look-up that began before the revocation leaves nothing in memory', async () => {
    for (let i = 0; i < 5; i++) {
      const { apiKey, secret } = await predictKey();
      const [early] = await Promise.allSettled([call(secret), access.revokeApiKey(owner, apiKey.id)]);
      await expect(call(secret)).rejects.toMatchObject(refused);
      expect(early.status === 'fulfilled' || early.reason.code === 'UNAUTHENTICATED').toBe(true);
    }
  });

  it('a key can revoke itself', async () => {
    const { apiKey, secret } = await access.createApiKey(owner, { name: 'k', scopes: ['key:write'], expiresAt: null });
    await access.revokeApiKey(await bearer(access, secret), apiKey.id);
    await expect(call(secret)).rejects.toMatchObject(refused);
  });

  it('a key of another tenant is not there, like one that never was', async () => {
    const { apiKey, secret } = await predictKey();
    const { principal: stranger } = await signUp(access);
    const [foreign, absent] = await Promise.all(
      [apiKey.id, newId()].map((id) => access.revokeApiKey(stranger, id).catch((e: unknown) => e)),
    );
    expect(foreign).toMatchObject({ code: 'NOT_FOUND' });
    expect(foreign).toEqual(absent);
    expect(await call(secret)).not.toBeNull();
    expect(await asTenant(servers.db, stranger.tenantId, (tx) => access.apiKey(tx, stranger, apiKey.id))).toBeNull();
    // Row-level security alone holds as well: the transaction is the stranger's, the claimed tenant the owner's.
    expect(await asTenant(servers.db, stranger.tenantId, (tx) => access.apiKey(tx, owner, apiKey.id))).toBeNull();
  });

  it('a signed-in member has no key to hold', () => {
    expect(() => access.holdAnswer(owner)()).not.toThrow();
  });
});

describe('apiKeys', () => {
  it('keys are listed newest first, page by page, revoked ones included', async () => {
    const ids = [];
    for (let i = 0; i < 3; i++) ids.unshift((await predictKey()).apiKey.id);
    await access.revokeApiKey(owner, ids[1] ?? '');
    const list = (afterId: string | null) => asTenant(servers.db, owner.tenantId, (tx) => access.apiKeys(tx, owner, { first: 2, afterId }));
    const page = await list(null);
    expect(page.nodes.map(({ id }) => id)).toEqual(ids.slice(0, 2));
    expect(page.nodes.map(({ revokedAt }) => revokedAt === null)).toEqual([true, false]);
    expect(page.pageInfo.hasNextPage).toBe(true);
    expect((await list(ids[1] ?? null)).nodes.map(({ id }) => id)).toEqual(ids.slice(2));
  });

  it('the last use is written when the process ends', async () => {
    const { apiKey, secret } = await predictKey();
    const other = await servers.openAccess();
    await call(secret, other);
    await other[Symbol.asyncDispose]();
    const found = await asTenant(servers.db, owner.tenantId, (tx) => access.apiKey(tx, owner, apiKey.id));
    expect(found?.lastUsedAt).toBeInstanceOf(Date);
  });
});

describe('the last use', () => {
  it('of a key is one row, which does not go back', async () => {
    const { apiKey } = await predictKey();
    const use = async () => {
      const uses = createKeyUses(servers.db, createLog('silent'));
      uses.note(apiKey.id);
      await uses[Symbol.asyncDispose]();
    };
    const at = (instant: string) =>
      asSystem(
        servers.db,
        (tx) => tx.$executeRaw`update api_key_use set last_used_at = ${instant}::timestamptz where api_key_id = ${apiKey.id}::uuid`,
      );
    const lastUsedAt = async () => (await asTenant(servers.db, owner.tenantId, (tx) => access.apiKey(tx, owner, apiKey.id)))?.lastUsedAt;
    await use();
    await at('2000-01-01');
    await use();
    expect((await lastUsedAt())?.getUTCFullYear()).toBeGreaterThan(2000);
    await at('2100-01-01');
    await use();
    expect((await lastUsedAt())?.getUTCFullYear()).toBe(2100);
  });
});

/** A client whose server refuses connections. */
function unreachable() {
  const client = new PrismaClient({ adapter: new PrismaPg('postgres://nobody@127.0.0.1:1/nowhere') });
  return { client, [Symbol.asyncDispose]: () => client.$disconnect() };
}

function catchCode(fn: () => () => void): unknown {
  try {
    fn()();
    return null;
  } catch (error) {
    return error instanceof Error && 'code' in error ? error.code : error;
  }
}

describe('createApiKeyOnce', () => {
  const input = { name: 'once', scopes: ['model:predict', 'usage:read'], expiresAt: null };

  it('makes one key for any number of calls with one idempotency key, and shows its secret once', async () => {
    const made = await Promise.all(Array.from({ length: 8 }, () => access.createApiKeyOnce(owner, input, 'retried')));
    expect(new Set(made.map(({ apiKey }) => apiKey.id)).size).toBe(1);
    const secrets = made.flatMap(({ secret }) => (secret === null ? [] : [secret]));
    expect(secrets).toHaveLength(1);
    expect(await access.authenticate({ apiKey: secrets[0] ?? '' })).toMatchObject({ apiKeyId: made[0]?.apiKey.id });
  });

  it('refuses the key with another input, and keys of no form', async () => {
    await access.createApiKeyOnce(owner, input, 'taken');
    await expect(access.createApiKeyOnce(owner, { ...input, name: 'other' }, 'taken')).rejects.toMatchObject({
      code: 'IDEMPOTENCY_CONFLICT',
    });
    await expect(access.createApiKeyOnce(owner, { ...input, scopes: ['usage:read', 'model:predict'] }, 'taken')).resolves.toMatchObject({
      secret: null,
    });
    for (const key of ['', 'x'.repeat(256), 'a\0b']) {
      await expect(access.createApiKeyOnce(owner, input, key)).rejects.toMatchObject({
        code: 'BAD_USER_INPUT',
        data: { field: 'idempotencyKey' },
      });
    }
  });

  it('refuses the key to another member, and knows its own whoever acts for it', async () => {
    const made = await access.createApiKeyOnce(owner, input, 'shared');
    const other = { ...owner, userId: newId(), memberId: newId() };
    await expect(access.createApiKeyOnce(other, input, 'shared')).rejects.toMatchObject({ code: 'IDEMPOTENCY_CONFLICT' });
    const byKey = { ...owner, userId: null, apiKeyId: made.apiKey.id };
    expect(await access.createApiKeyOnce(byKey, input, 'shared')).toEqual({ apiKey: made.apiKey, secret: null });
  });

  it('leaves a key that was refused free for the right input', async () => {
    await expect(access.createApiKeyOnce(owner, { ...input, expiresAt: new Date(0) }, 'refused')).rejects.toMatchObject({
      code: 'BAD_USER_INPUT',
    });
    expect((await access.createApiKeyOnce(owner, input, 'refused')).secret).not.toBeNull();
  });
});
