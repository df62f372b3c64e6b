import { crc32 } from 'node:zlib';
import { expect, it } from 'vitest';
import { readCredential } from '../../src/access/credentials.ts';
import { hashSecret, isWellFormedKey, makeKey, shownPrefix } from '../../src/access/key-format.ts';
import { LruMap } from '../../src/access/lru.ts';
import { createPasswords } from '../../src/access/passwords.ts';
import { authorize, authorizeOperator, type Principal, SCOPES, scopesOf } from '../../src/access/principal.ts';

const refused = expect.objectContaining({ code: 'UNAUTHENTICATED' });

it('keys differ, carry 160 random bits beyond what is shown, and have a checksum that fits', () => {
  const keys = Array.from({ length: 200 }, makeKey);
  expect(new Set(keys).size).toBe(200);
  for (const key of keys) {
    expect(key).toMatch(/^mk_[0-9A-Za-z]{43}$/);
    expect(isWellFormedKey(key)).toBe(true);
    expect(shownPrefix(key)).toHaveLength(11);
  }
  expect((43 - 6 - 8) * Math.log2(62)).toBeGreaterThan(160);
  expect(hashSecret(keys[0] ?? '')).toHaveLength(32);
});

it('a key with any one character changed is not well formed', () => {
  const key = makeKey();
  for (let i = 3; i < key.length; i++) {
    const changed = key.slice(0, i) + (key[i] === 'x' ? 'y' : 'x') + key.slice(i + 1);
    expect(isWellFormedKey(changed)).toBe(false);
  }
  for (const text of ['', 'mk_', key.slice(0, -1), `${key}0`, `${key}\n`]) expect(isWellFormedKey(text)).toBe(false);
});

it('a text of another form is no key, though its checksum fits', () => {
  const digits = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
  const withChecksum = (body: string) => {
    let [sum, rest] = ['', crc32(body)];
    for (; sum.length < 6; rest = Math.floor(rest / 62)) sum = digits[rest % 62] + sum;
    return body + sum;
  };
  const body = makeKey().slice(0, -6);
  expect(isWellFormedKey(withChecksum(body))).toBe(true);
  for (const other of [`xk_${body.slice(3)}`, body.slice(0, -1), `${body}0`, `${body.slice(0, -1)}-`]) {
    expect(isWellFormedKey(withChecksum(other))).toBe(false);
  }
});

it('credentials are read from both headers, and two that differ are refused', () => {
  const key = makeKey();
  expect(readCredential({})).toBeNull();
  expect(readCredential({ authorization: `Bearer ${key}` })).toEqual({ kind: 'api-key', text: key });
  expect(readCredential({ apiKey: key })).toEqual({ kind: 'api-key', text: key });
  expect(readCredential({ authorization: `bearer ${key}`, apiKey: key })).toEqual({ kind: 'api-key', text: key });
  expect(readCredential({ authorization: 'Bearer a.b.c' })).toEqual({ kind: 'access-token', text: 'a.b.c' });
  expect(() => readCredential({ authorization: `Bearer ${key}`, apiKey: makeKey() })).toThrow(refused);
  expect(() => readCredential({ authorization: 'Bearer a.b.c', apiKey: key })).toThrow(refused);
  expect(() => readCredential({ authorization: 'Basic abc' })).toThrow(refused);
  expect(() => readCredential({ authorization: '' })).toThrow(refused);
  expect(() => readCredential({ apiKey: 'a.b.c' })).toThrow(refused);
});

it('roles have their scopes', () => {
  expect([...scopesOf('OWNER')]).toEqual(SCOPES);
  expect([...scopesOf('ADMIN')]).toEqual(SCOPES);
  expect(SCOPES.filter((scope) => !scopesOf('DEVELOPER').has(scope))).toEqual(['tenant:write', 'billing:read', 'billing:write']);
  expect([...scopesOf('BILLING')]).toEqual(['usage:read', 'billing:read', 'billing:write']);
  expect([...scopesOf('VIEWER')].every((scope) => scope.endsWith(':read'))).toBe(true);
});

it('authorize says who is missing before what is missing', () => {
  const viewer: Principal = {
    tenantId: '',
    userId: '',
    apiKeyId: null,
    memberId: '',
    role: 'VIEWER',
    isOperator: false,
    scopes: scopesOf('VIEWER'),
  };
  expect(() => authorize(null, 'key:write')).toThrow(refused);
  expect(() => authorize(viewer, 'key:write')).toThrow(expect.objectContaining({ code: 'FORBIDDEN' }));
  expect(authorize(viewer, 'key:read')).toBe(viewer);
  expect(authorize(viewer, null)).toBe(viewer);
  expect(() => authorizeOperator(null)).toThrow(refused);
  expect(() => authorizeOperator(viewer)).toThrow(expect.objectContaining({ code: 'FORBIDDEN' }));
});

it('the least recently used entry is forgotten first', () => {
  const map = new LruMap<number>(2);
  map.set('a', 1);
  map.set('b', 2);
  map.get('a');
  map.set('c', 3);
  expect([map.get('a'), map.get('b'), map.get('c')]).toEqual([1, undefined, 3]);
  map.deleteWhere((value) => value === 3);
  expect(map.get('c')).toBeUndefined();
});

it('a password matches its own hash only, in any Unicode form, and nobody has none', async () => {
  const passwords = createPasswords();
  const hash = await passwords.hash('p\u00e4ssword-12');
  expect(await passwords.matches(hash, 'pa\u0308ssword-12')).toBe(true);
  expect(await passwords.matches(hash, 'passwort-12')).toBe(false);
  expect(await passwords.matches(null, 'passwort-12')).toBe(false);
});

it('a flood of sign-ins waits in a bounded queue, and the rest is told to come back', async () => {
  const passwords = createPasswords();
  const results = await Promise.allSettled(Array.from({ length: 70 }, () => passwords.matches(null, 'passwort-12')));
  const overloaded = results.filter((result) => result.status === 'rejected');
  expect(overloaded).toHaveLength(4);
  for (const { reason } of overloaded) expect(reason).toMatchObject({ code: 'OVERLOADED', data: { retryAfterMs: expect.any(Number) } });
  expect(await passwords.matches(null, 'passwort-12')).toBe(false);
});
