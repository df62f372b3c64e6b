import jwt from 'jsonwebtoken';
import type { Clock } from '../base/clock.ts';
import { MercatoError } from '../base/errors.ts';
import { isId } from '../base/ids.ts';
import type { Role } from '../tenancy/tenancy.ts';
import type { JwtKeys } from './jwt-keys.ts';
import { LruMap } from './lru.ts';
import { isRole, type Principal, scopesOf } from './principal.ts';

/** Whom an access token speaks for, and where. */
export type Seat = { userId: string; isOperator: boolean; tenantId: string; role: Role; sessionId: string };

export type Tokens = {
  sign(seat: Seat): { accessToken: string; accessTokenExpiresAt: Date };
  /** @throws UNAUTHENTICATED: the same whatever is wrong */
  verify(token: string): Principal;
};

const NAME = 'mercato';
const LIFETIME_S = 15 * 60;
const LENGTH_MAX = 4096;
const SIGNATURE_BYTES = 64;
const REMEMBERED = 10_000;

/**
 * Access tokens: JWTs signed with ES256. A verified one is remembered by its text until it expires, so that a caller is verified once and not
 * per request. Looking up a whole token in a map tells an attacker nothing by its time: it is 512 bits of signature that would have to be
 * guessed, and the map compares hashes with a random seed first.
 */
export function createTokens(keys: JwtKeys, clock: Clock): Tokens {
  const verified = new LruMap<{ principal: Principal; expiresMs: number }>(REMEMBERED);
  return {
    sign(seat) {
      const issuedS = Math.floor(clock.wallMs() / 1000);
      const claims = { sub: seat.userId, tid: seat.tenantId, role: seat.role, op: seat.isOperator, sid: seat.sessionId };
      const accessToken = jwt.sign({ ...claims, iss: NAME, aud: NAME, iat: issuedS, exp: issuedS + LIFETIME_S }, keys.privateKey, {
        algorithm: 'ES256',
        keyid: keys.kid,
      });
      return { accessToken, accessTokenExpiresAt: new Date((issuedS + LIFETIME_S) * 1000) };
    },
    verify(token) {
      const known = verified.get(token);
      if (known && clock.wallMs() < known.expiresMs) return known.principal;
      const claims = verifySignature(keys, token, clock);
      const principal = claims && principalOf(claims);
      if (!principal || claims.exp === undefined) throw new MercatoError('UNAUTHENTICATED');
      verified.set(token, { principal, expiresMs: claims.exp * 1000 });
      return principal;
    },
  };
}

function verifySignature(keys: JwtKeys, token: string, clock: Clock): jwt.JwtPayload | null {
  const kid = readKid(token);
  const key = kid === null ? undefined : keys.publicKeys.get(kid);
  if (!key) return null;
  try {
    const clockTimestamp = Math.floor(clock.wallMs() / 1000);
    const claims = jwt.verify(token, key, { algorithms: ['ES256'], issuer: NAME, audience: NAME, clockTimestamp });
    return typeof claims === 'string' ? null : claims;
  } catch {
    return null;
  }
}

/**
 * The `kid` of a token in the one form that `sign` writes; null for any other. jsonwebtoken 9.0.3 decodes base64url laxly and so accepts
 * other texts of a signature (three of Wycheproof's vectors): each part must be what its bytes encode to.
 */
function readKid(token: string): string | null {
  if (token.length > LENGTH_MAX) return null;
  const parts = token.split('.');
  const decoded = parts.map((part) => Buffer.from(part, 'base64url'));
  const [header, , signature] = decoded;
  if (!header || parts.length !== 3 || signature?.length !== SIGNATURE_BYTES) return null;
  if (decoded.some((bytes, i) => bytes.length === 0 || bytes.toString('base64url') !== parts[i])) return null;
  return kidOf(header.toString('utf8'));
}

/** Exactly `alg`, `typ` and `kid`: what else a header may ask for (`crit`, `jwk`, `jku` …) is not ours. */
function kidOf(header: string): string | null {
  try {
    const fields: unknown = JSON.parse(header);
    if (typeof fields !== 'object' || fields === null || Object.keys(fields).length !== 3) return null;
    if (!('alg' in fields && fields.alg === 'ES256' && 'typ' in fields && fields.typ === 'JWT' && 'kid' in fields)) return null;
    return typeof fields.kid === 'string' ? fields.kid : null;
  } catch {
    return null;
  }
}

function principalOf(claims: jwt.JwtPayload): Principal | null {
  const { sub, tid, role, op, sid } = claims;
  if (!isIdText(sub) || !isIdText(tid) || !isIdText(sid) || !isRole(role) || typeof op !== 'boolean') return null;
  return { tenantId: tid, userId: sub, apiKeyId: null, memberId: sub, role, isOperator: op, scopes: scopesOf(role), sessionId: sid };
}

function isIdText(claim: unknown): claim is string {
  return typeof claim === 'string' && isId(claim);
}
