import { generateKeyPairSync } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import jwt from 'jsonwebtoken';
import { expect, it } from 'vitest';
import { type JwtKeys, loadJwtKeys } from '../../src/access/jwt-keys.ts';
import { createTokens, type Seat } from '../../src/access/tokens.ts';
import { newId } from '../../src/base/ids.ts';

const seat: Seat = { userId: newId(), isOperator: false, tenantId: newId(), role: 'DEVELOPER', sessionId: newId() };
const refused = expect.objectContaining({ code: 'UNAUTHENTICATED' });
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';

async function makeKeys(): Promise<JwtKeys> {
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-keys-'));
  try {
    return await loadJwtKeys(null, dataDir);
  } finally {
    await rm(dataDir, { recursive: true });
  }
}

const keys = await makeKeys();
let nowMs = 1_800_000_000_000;
const clock = { wallMs: () => nowMs, monotonicMs: () => nowMs };
const tokens = createTokens(keys, clock);

/** A token that is right but for what the test changes; a claim of undefined is left out. */
function forge(claims: object, options: jwt.SignOptions = {}, key: jwt.Secret = keys.privateKey): string {
  const nowS = Math.floor(nowMs / 1000);
  const all = { sub: seat.userId, tid: seat.tenantId, role: seat.role, op: false, sid: seat.sessionId, iss: 'mercato', aud: 'mercato' };
  const payload = JSON.stringify({ ...all, iat: nowS, exp: nowS + 60, ...claims });
  return jwt.sign(JSON.parse(payload), key, { algorithm: 'ES256', keyid: keys.kid, ...options });
}

function withHeader(token: string, header: object): string {
  return [Buffer.from(JSON.stringify(header)).toString('base64url'), ...token.split('.').slice(1)].join('.');
}

it('a signed token gives back whom it speaks for, with the scopes of the role', () => {
  const principal = tokens.verify(tokens.sign(seat).accessToken);
  expect(principal).toMatchObject({ userId: seat.userId, tenantId: seat.tenantId, role: 'DEVELOPER', isOperator: false, apiKeyId: null });
  expect(principal.scopes.has('model:predict')).toBe(true);
  expect(principal.scopes.has('billing:read')).toBe(false);
  expect(tokens.verify(forge({}))).toMatchObject({ userId: seat.userId });
});

it('a token ends after 15 minutes, also one that was verified before', () => {
  const { accessToken, accessTokenExpiresAt } = tokens.sign(seat);
  expect(accessTokenExpiresAt.getTime() - nowMs).toBe(900_000);
  tokens.verify(accessToken);
  nowMs += 899_000;
  tokens.verify(accessToken);
  nowMs += 1_000;
  expect(() => tokens.verify(accessToken)).toThrow(refused);
  expect(() => createTokens(keys, clock).verify(accessToken)).toThrow(refused);
});

it.each([
  ['another issuer', { iss: 'other' }],
  ['another audience', { aud: 'other' }],
  ['no expiry', { exp: undefined }],
  ['a subject that is no id', { sub: 'root' }],
  ['no tenant', { tid: undefined }],
  ['no session', { sid: undefined }],
  ['an unknown role', { role: 'ROOT' }],
  ['an operator flag that is no flag', { op: 'yes' }],
])('a token with %s is refused', (_, claims) => {
  expect(() => tokens.verify(forge(claims))).toThrow(refused);
});

it('alg none is refused', () => {
  const [, payload] = tokens.sign(seat).accessToken.split('.');
  const header = Buffer.from(JSON.stringify({ alg: 'none', typ: 'JWT', kid: keys.kid })).toString('base64url');
  expect(() => tokens.verify(`${header}.${payload}.`)).toThrow(refused);
  expect(() => tokens.verify(withHeader(tokens.sign(seat).accessToken, { alg: 'none', typ: 'JWT', kid: keys.kid }))).toThrow(refused);
});

it('a token signed with the public key as an HMAC secret is refused', () => {
  const pem = keys.publicKeys.get(keys.kid)?.export({ format: 'pem', type: 'spki' }) ?? '';
  const token = jwt.sign({ sub: seat.userId }, 'x'.repeat(64) + pem.toString(), { algorithm: 'HS512', keyid: keys.kid });
  expect(() => tokens.verify(token)).toThrow(refused);
  expect(() => tokens.verify(jwt.sign({ sub: seat.userId }, pem.toString(), { algorithm: 'HS256', keyid: keys.kid }))).toThrow(refused);
});

it('another key, under a foreign kid or under ours, is refused', () => {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  expect(() => tokens.verify(forge({}, { keyid: 'foreign' }, privateKey))).toThrow(refused);
  expect(() => tokens.verify(forge({}, {}, privateKey))).toThrow(refused);
  expect(() => tokens.verify(forge({}, { keyid: 'foreign' }))).toThrow(refused);
});

it('a header that asks for more than alg, typ and kid is refused, though its signature is right', () => {
  expect(() => tokens.verify(forge({}, { header: { alg: 'ES256', typ: 'JWT', kid: keys.kid, jku: 'https://evil.example' } }))).toThrow(
    refused,
  );
  expect(() => tokens.verify(forge({}, { header: { alg: 'ES256', typ: 'at+jwt', kid: keys.kid } }))).toThrow(refused);
});

it('other texts of a right signature are refused: trailing bits, padding, the other alphabet, blanks', () => {
  const { accessToken } = tokens.sign(seat);
  const last = ALPHABET.indexOf(accessToken.slice(-1));
  const trailingBits = accessToken.slice(0, -1) + ALPHABET[last + 1];
  // The guard is ours: jsonwebtoken alone takes this text for the same signature.
  const key = keys.publicKeys.get(keys.kid) ?? '';
  expect(jwt.verify(trailingBits, key, { algorithms: ['ES256'], clockTimestamp: nowMs / 1000 })).toMatchObject({ sub: seat.userId });
  const variants = [trailingBits, `${accessToken}==`, `${accessToken} `, `${accessToken}.`, ` ${accessToken}`, `${accessToken}\n`];
  for (const variant of variants) expect(() => tokens.verify(variant)).toThrow(refused);
  const other = accessToken.replaceAll('-', '+').replaceAll('_', '/');
  if (other !== accessToken) expect(() => tokens.verify(other)).toThrow(refused);
});

it('what is no token, or too long for one, is refused', () => {
  for (const text of ['', '.', '..', 'a.b.c']) expect(() => tokens.verify(text)).toThrow(refused);
  expect(() => tokens.verify(forge({ more: 'x'.repeat(4000) }))).toThrow(refused);
});
