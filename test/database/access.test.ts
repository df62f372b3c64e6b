import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Access } from '../../src/access/access.ts';
import { loadJwtKeys } from '../../src/access/jwt-keys.ts';
import { asSystem, asTenant } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { bearer, openServers, PASSWORD, signUp } from './access-setup.ts';

let servers: Awaited<ReturnType<typeof openServers>>;
let access: Access;
beforeAll(async () => {
  servers = await openServers();
  access = await servers.openAccess();
});
afterAll(() => servers[Symbol.asyncDispose]());

const refused = { code: 'UNAUTHENTICATED' };
function there<T>(tokens: T | null): T {
  if (tokens === null) throw new Error('no tokens');
  return tokens;
}

describe('accounts', () => {
  it('signUp makes a user, a tenant and its OWNER, signed in', async () => {
    const { user, tenant, tokens, principal } = await signUp(access);
    expect(user).toEqual({ id: user.id, email: user.email, isOperator: false, createdAt: expect.any(Date) });
    expect(principal).toMatchObject({ tenantId: tenant.id, userId: user.id, apiKeyId: null, role: 'OWNER', isOperator: false });
    expect(tokens.refreshTokenExpiresAt.getTime()).toBeGreaterThan(tokens.accessTokenExpiresAt.getTime());
  });

  it('no password and no token is at rest in clear', async () => {
    const { user, tokens } = await signUp(access);
    const rows = await asSystem(servers.db, async (tx) => [
      await tx.user.findUnique({ where: { id: user.id } }),
      await tx.refreshToken.findMany(),
    ]);
    expect(rows[0]).toMatchObject({ passwordHash: expect.stringMatching(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$/) });
    expect(JSON.stringify(rows)).not.toContain(tokens.refreshToken.slice(3));
  });

  it('a taken e-mail or tenant name is a conflict that names the field, and nothing of the sign-up stays', async () => {
    const { user, tenant } = await signUp(access);
    const again = { email: user.email.toUpperCase(), password: PASSWORD, tenantName: 'fresh-name' };
    await expect(access.signUp(again)).rejects.toMatchObject({ code: 'CONFLICT', data: { field: 'email' } });
    const other = { email: 'other@example.com', password: PASSWORD, tenantName: tenant.name };
    await expect(access.signUp(other)).rejects.toMatchObject({ code: 'CONFLICT', data: { field: 'tenantName' } });
    await expect(access.signUp({ ...other, tenantName: 'fresh-name' })).resolves.toMatchObject({ user: { email: 'other@example.com' } });
  });

  it('signUpOnce makes one user for any number of sign-ups with one idempotency key, and tokens once', async () => {
    const input = { email: 'once@example.com', password: PASSWORD, tenantName: 'once' };
    const made = await Promise.all(Array.from({ length: 4 }, () => access.signUpOnce(input, 'retried')));
    expect(new Set(made.map(({ user, tenant }) => `${user.id} ${tenant.id}`)).size).toBe(1);
    expect(made.filter(({ tokens }) => tokens !== null)).toHaveLength(1);
    await expect(access.signUpOnce({ ...input, tenantName: 'twice' }, 'retried')).rejects.toMatchObject({ code: 'IDEMPOTENCY_CONFLICT' });
    const taken = { code: 'CONFLICT', data: { field: 'email' } };
    await expect(access.signUpOnce(input, 'another')).rejects.toMatchObject(taken);
    await expect(access.signUpOnce({ ...input, password: `${PASSWORD}!` }, 'retried')).rejects.toMatchObject(taken);
    await expect(access.signUpOnce({ ...input, email: 'not-once@example.com', tenantName: 'fresh-one' }, '')).rejects.toMatchObject({
      code: 'BAD_USER_INPUT',
      data: { field: 'idempotencyKey' },
    });
    await expect(access.signUp({ ...input, email: 'not-once@example.com', tenantName: 'fresh-one' })).resolves.toBeDefined();
    await expect(access.signUpOnce({ ...input, email: 'not-once@example.com' }, 'retried')).rejects.toMatchObject(taken);
  });

  it.each([
    ['email', { email: 'nobody', password: PASSWORD, tenantName: 'fine' }],
    ['email', { email: 'a\u0000b@example.com', password: PASSWORD, tenantName: 'fine' }],
    ['password', { email: 'a@example.com', password: 'ninechars', tenantName: 'fine' }],
    ['password', { email: 'a@example.com', password: 'x'.repeat(201), tenantName: 'fine' }],
    ['tenantName', { email: 'a@example.com', password: PASSWORD, tenantName: 'Not-Fine' }],
    ['tenantName', { email: 'a@example.com', password: PASSWORD, tenantName: 'a--b' }],
  ])('a wrong %s is refused by its name, without the password', async (field, input) => {
    const error = await access.signUp(input).catch((e: unknown) => e);
    expect(error).toMatchObject({ code: 'BAD_USER_INPUT', data: { field } });
    expect(JSON.stringify(error)).not.toContain(input.password);
  });

  it('an unknown e-mail, a wrong password and a foreign tenant are refused alike', async () => {
    const { user, tenant } = await signUp(access);
    const other = await signUp(access);
    const attempts = [
      { email: 'unknown@example.com', password: PASSWORD, tenantName: null },
      { email: 'no e-mail', password: PASSWORD, tenantName: null },
      { email: user.email, password: `${PASSWORD}!`, tenantName: null },
      { email: user.email, password: '', tenantName: null },
      { email: user.email, password: PASSWORD, tenantName: other.tenant.name },
    ];
    const errors = await Promise.all(attempts.map((attempt) => access.signIn(attempt).catch((e: unknown) => e)));
    for (const error of errors) expect(error).toMatchObject({ ...refused, message: 'The e-mail or the password is wrong.', data: {} });
    const signedIn = await access.signIn({ email: ` ${user.email.toUpperCase()}`, password: PASSWORD, tenantName: tenant.name });
    expect(signedIn).toMatchObject({ user: { id: user.id }, tenant: { id: tenant.id } });
  });

  it('a user makes further tenants, signs in to any of them, and first to the one joined first', async () => {
    const { user, tenant, principal } = await signUp(access);
    const second = await access.createTenant(principal, { name: `${tenant.name}-b`, displayName: null });
    const { memberships } = access.viewer;
    expect((await memberships(principal)).map(({ tenant: { id }, role }) => [id, role])).toEqual([
      [tenant.id, 'OWNER'],
      [second.id, 'OWNER'],
    ]);
    expect(second.displayName).toBe(`${tenant.name}-b`);
    const signIn = (tenantName: string | null) => access.signIn({ email: user.email, password: PASSWORD, tenantName });
    expect((await signIn(null)).tenant.id).toBe(tenant.id);
    expect((await signIn(second.name)).tenant.id).toBe(second.id);
    const again = access.createTenant(principal, { name: second.name, displayName: null });
    await expect(again).rejects.toMatchObject({ code: 'CONFLICT', data: { field: 'name' } });
  });

  it('a user does not become the operator, and an API key makes no tenant', async () => {
    const { user, principal } = await signUp(access);
    const operator = access.createOperator({ email: user.email, password: PASSWORD, tenantName: 'usurper' });
    await expect(operator).rejects.toMatchObject({ code: 'CONFLICT', data: { field: 'email' } });
    const made = access.createTenant({ ...principal, userId: null }, { name: 'made-by-key', displayName: null });
    await expect(made).rejects.toMatchObject({ code: 'FORBIDDEN' });
  });

  it('the operator is made once and may do what operators may', async () => {
    const input = { email: 'operator@example.com', password: PASSWORD, tenantName: 'operator' };
    const first = await access.createOperator(input);
    const second = await access.createOperator({ ...input, password: 'another password' });
    expect([first.created, second.created, second.user.id]).toEqual([true, false, first.user.id]);
    const { tokens } = await access.signIn({ email: input.email, password: PASSWORD, tenantName: null });
    expect((await bearer(access, tokens.accessToken)).isOperator).toBe(true);
  });
});

describe('sessions', () => {
  it('a refresh token works once, and its successor in the same tenant', async () => {
    const { tokens, principal } = await signUp(access);
    const second = there(await access.refreshSession(tokens.refreshToken));
    expect(await bearer(access, second.accessToken)).toMatchObject({ tenantId: principal.tenantId, sessionId: principal.sessionId });
    expect(second.refreshTokenExpiresAt).toEqual(tokens.refreshTokenExpiresAt);
    await access.refreshSession(second.refreshToken);
  });

  it('a used refresh token ends its whole session, for good', async () => {
    const { tokens } = await signUp(access);
    const second = there(await access.refreshSession(tokens.refreshToken));
    await expect(access.refreshSession(tokens.refreshToken)).rejects.toMatchObject(refused);
    await expect(access.refreshSession(second.refreshToken)).rejects.toMatchObject(refused);
  });

  it('of two refreshes at once with one token exactly one wins, and the other ends the session', async () => {
    const { tokens } = await signUp(access);
    const both = await Promise.allSettled([access.refreshSession(tokens.refreshToken), access.refreshSession(tokens.refreshToken)]);
    const [won, ...more] = both.filter((result) => result.status === 'fulfilled');
    expect(more).toEqual([]);
    await expect(access.refreshSession(won?.value?.refreshToken ?? '')).rejects.toMatchObject(refused);
  });

  it('a retry with the key of the first exchange answers no tokens and ends nothing; another key is a second use', async () => {
    const { tokens } = await signUp(access);
    const second = there(await access.refreshSession(tokens.refreshToken, 'first'));
    expect(await access.refreshSession(tokens.refreshToken, 'first')).toBeNull();
    const third = there(await access.refreshSession(second.refreshToken, 'second'));
    await expect(access.refreshSession(tokens.refreshToken, 'second')).rejects.toMatchObject(refused);
    await expect(access.refreshSession(third.refreshToken)).rejects.toMatchObject(refused);
    await expect(access.refreshSession(tokens.refreshToken, 'first')).rejects.toMatchObject(refused);
  });

  it('a token that is used again under its key, after its successor was, ends the session; and a key has a form', async () => {
    const { tokens } = await signUp(access);
    const second = there(await access.refreshSession(tokens.refreshToken, 'known'));
    await expect(access.refreshSession(tokens.refreshToken, 'a\0b')).rejects.toMatchObject({ code: 'BAD_USER_INPUT' });
    const third = there(await access.refreshSession(second.refreshToken));
    await expect(access.refreshSession(tokens.refreshToken, 'known')).rejects.toMatchObject(refused);
    await expect(access.refreshSession(third.refreshToken)).rejects.toMatchObject(refused);
  });

  it('a retry with its key does not revive a session that was ended', async () => {
    const { tokens } = await signUp(access);
    const second = there(await access.refreshSession(tokens.refreshToken, 'once'));
    await access.signOut(second.refreshToken);
    await expect(access.refreshSession(tokens.refreshToken, 'once')).rejects.toMatchObject(refused);
  });

  it('a retry of a sign-in with its key starts no other session', async () => {
    const { user, tenant, principal } = await signUp(access);
    const signIn = (key: string, tenantName: string | null = null) =>
      access.signInOnce({ email: user.email, password: PASSWORD, tenantName }, key);
    const sessions = () => asSystem(servers.db, (tx) => tx.session.count({ where: { userId: user.id } }));
    const before = await sessions();
    const answers = await Promise.all(Array.from({ length: 4 }, () => signIn('signed in')));
    expect(answers.filter(({ tokens }) => tokens !== null)).toHaveLength(1);
    expect(new Set(answers.map((answer) => answer.tenant.id))).toEqual(new Set([tenant.id]));
    expect(await sessions()).toBe(before + 1);
    const other = await signUp(access);
    const own = await access.signInOnce({ email: other.user.email, password: PASSWORD, tenantName: null }, 'signed in');
    expect((await bearer(access, there(own.tokens).accessToken)).userId).toBe(other.user.id);
    await access.createTenant(principal, { name: `${tenant.name}-other`, displayName: null });
    await expect(signIn('signed in', `${tenant.name}-other`)).rejects.toMatchObject({ code: 'IDEMPOTENCY_CONFLICT' });
    await expect(signIn('')).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field: 'idempotencyKey' } });
  });

  it('a retry of a switch with its key makes no other tokens, and moves nothing back', async () => {
    const { tenant, principal } = await signUp(access);
    const second = await access.createTenant(principal, { name: `${tenant.name}-b`, displayName: 'Second' });
    const moved = await access.switchTenant(principal, second.id, 'there');
    await access.switchTenant(principal, tenant.id, 'back');
    expect(await access.switchTenant(principal, second.id, 'there')).toMatchObject({ tenant: { id: second.id }, tokens: null });
    const refreshed = there(await access.refreshSession(there(moved.tokens).refreshToken));
    expect((await bearer(access, refreshed.accessToken)).tenantId).toBe(tenant.id);
    await expect(access.switchTenant(principal, tenant.id, 'there')).rejects.toMatchObject({ code: 'IDEMPOTENCY_CONFLICT' });
  });

  it('signing out ends the session, and is the same twice and for an unknown token', async () => {
    const { tokens } = await signUp(access);
    const second = there(await access.refreshSession(tokens.refreshToken));
    for (const token of [second.refreshToken, second.refreshToken, `mr_${'x'.repeat(43)}`, 'nonsense']) await access.signOut(token);
    await expect(access.refreshSession(second.refreshToken)).rejects.toMatchObject(refused);
  });

  it('an expired session is not refreshed', async () => {
    const { tokens, principal } = await signUp(access);
    await asSystem(
      servers.db,
      (tx) => tx.$executeRaw`update session set expires_at = mercato_now() where id = ${principal.sessionId}::uuid`,
    );
    await expect(access.refreshSession(tokens.refreshToken)).rejects.toMatchObject(refused);
  });

  it('switchTenant keeps the session and moves it, only to a tenant of the user', async () => {
    const { tenant, principal } = await signUp(access);
    const stranger = await signUp(access);
    const second = await access.createTenant(principal, { name: `${tenant.name}-b`, displayName: 'Second' });
    const moved = await access.switchTenant(principal, second.id);
    expect(await bearer(access, there(moved.tokens).accessToken)).toMatchObject({ tenantId: second.id, sessionId: principal.sessionId });
    const refreshed = there(await access.refreshSession(there(moved.tokens).refreshToken));
    expect((await bearer(access, refreshed.accessToken)).tenantId).toBe(second.id);
    const switching = [stranger.tenant.id, newId()].map((id) => access.switchTenant(principal, id).catch((e: unknown) => e));
    const [foreign, absent] = await Promise.all(switching);
    expect(foreign).toMatchObject({ code: 'NOT_FOUND' });
    expect(foreign).toEqual(absent);
    await access.signOut(refreshed.refreshToken);
    await expect(access.switchTenant(principal, tenant.id)).rejects.toMatchObject(refused);
  });

  it('a member who left the tenant is not refreshed', async () => {
    const { tokens, user, tenant, principal } = await signUp(access);
    await access.createTenant(principal, { name: `${tenant.name}-kept`, displayName: null });
    const other = await signUp(access);
    await asSystem(
      servers.db,
      (tx) => tx.$executeRaw`
      update member set user_id = ${other.user.id}::uuid where user_id = ${user.id}::uuid and tenant_id = ${tenant.id}::uuid`,
    );
    await expect(access.refreshSession(tokens.refreshToken)).rejects.toMatchObject(refused);
  });

  it('the tenant role reads no session and no password, and writes no membership', async () => {
    const { tenant } = await signUp(access);
    const as = (fn: Parameters<typeof asTenant<unknown>>[2]) => asTenant(servers.db, tenant.id, fn);
    await expect(as((tx) => tx.session.findMany())).rejects.toThrow();
    await expect(as((tx) => tx.refreshToken.findMany())).rejects.toThrow();
    await expect(as((tx) => tx.member.create({ data: { tenantId: tenant.id, userId: newId(), role: 'OWNER' } }))).rejects.toThrow();
  });
});

describe('the keys of access tokens', () => {
  it('two starts at once agree on one key file, which only its owner reads', async () => {
    const dataDir = join(servers.dataDir, 'new');
    const loaded = await Promise.all([1, 2, 3].map(() => loadJwtKeys(null, dataDir)));
    expect(new Set(loaded.map(({ kid }) => kid)).size).toBe(1);
    expect((await stat(join(dataDir, 'jwt-keys.json'))).mode & 0o777).toBe(0o600);
    const configured = await loadJwtKeys(await readFile(join(dataDir, 'jwt-keys.json'), 'utf8'), '/nowhere');
    expect(configured.kid).toBe(loaded[0]?.kid);
  });

  it.each(['', '{}', '{"keys":[]}', '{"keys":[{"kty":"RSA"}]}', '{"keys":[{"kty":"EC","crv":"P-256","d":"AA","x":"AA","y":"AA"}]}'])(
    'a configuration that is no set of private ES256 keys is refused: %s',
    async (text) => {
      await expect(loadJwtKeys(text, '/nowhere')).rejects.toThrow('MERCATO_JWT_KEYS');
    },
  );
});
