import { randomBytes } from 'node:crypto';
import { asSystem, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { checkIdempotencyKey, isKnown, onceFor } from '../base/idempotency.ts';
import { newId } from '../base/ids.ts';
import { membership, type Role, type Tenant } from '../tenancy/tenancy.ts';
import { hashSecret } from './key-format.ts';
import type { Principal } from './principal.ts';
import type { Seat, Tokens } from './tokens.ts';

export type SessionTokens = { accessToken: string; accessTokenExpiresAt: Date; refreshToken: string; refreshTokenExpiresAt: Date };

/** What makes tokens may have an idempotency key: in a retry with it they are null. */
export type Sessions = {
  /** Starts a session: the family of its refresh tokens. System role. */
  start(tx: Tx, seat: Omit<Seat, 'sessionId'>): Promise<SessionTokens>;
  /** The same, once for a key. */
  startOnce(tx: Tx, seat: Omit<Seat, 'sessionId'>, idempotencyKey: string): Promise<SessionTokens | null>;
  refresh(refreshToken: string, idempotencyKey: string | null): Promise<SessionTokens | null>;
  signOut(refreshToken: string): Promise<void>;
  switchTenant(
    principal: Principal,
    tenantId: string,
    idempotencyKey: string | null,
  ): Promise<{ tenant: Tenant; tokens: SessionTokens | null }>;
};

/** A session ends this long after its sign-in, however often it was refreshed. */
const LIFETIME_DAYS = 30;
type Keyed = { userId: string; mutation: string; key: string | null; input: unknown };
const REFRESH_TOKEN = /^mr_[A-Za-z0-9_-]{43}$/;

/** Sign-ins with rotating refresh tokens: 256 random bits, kept as SHA-256. */
export function createSessions(db: Database, tokens: Tokens): Sessions {
  async function issue(tx: Tx, seat: Seat, refreshTokenExpiresAt: Date): Promise<SessionTokens> {
    const refreshToken = `mr_${randomBytes(32).toString('base64url')}`;
    await tx.refreshToken.create({ data: { hash: hashSecret(refreshToken), sessionId: seat.sessionId } });
    return { ...tokens.sign(seat), refreshToken, refreshTokenExpiresAt };
  }

  async function start(tx: Tx, who: Omit<Seat, 'sessionId'>): Promise<SessionTokens> {
    const seat = { ...who, sessionId: newId() };
    return issue(tx, seat, await insertSession(tx, seat));
  }

  /** Tokens, once for the user's key; null in a retry. */
  async function once(tx: Tx, keyed: Keyed, make: () => Promise<SessionTokens>): Promise<SessionTokens | null> {
    const { userId, mutation, key, input } = keyed;
    if (key === null) return make();
    let made: SessionTokens | null = null;
    await onceFor(tx, { tenantId: userId, mutation, key, input }, async () => {
      made = await make();
    });
    return made;
  }

  return {
    start,
    startOnce: (tx, who, key) => once(tx, { userId: who.userId, mutation: 'SIGN_IN', key, input: who.tenantId }, () => start(tx, who)),

    async refresh(refreshToken, key) {
      if (!REFRESH_TOKEN.test(refreshToken)) throw new MercatoError('UNAUTHENTICATED');
      if (key !== null) checkIdempotencyKey(key);
      const hash = hashSecret(refreshToken);
      // A refusal is returned and thrown only after the commit: ending the session of a stolen token must last.
      const answer = await asSystem(db, async (tx) => {
        if (!(await useToken(tx, hash))) return (await isRetry(tx, hash, key)) ? { tokens: null } : endSession(tx, hash);
        const seat = await liveSeat(tx, hash);
        return seat && { tokens: await once(tx, refreshed(seat.userId, hash, key), () => issue(tx, seat, seat.expiresAt)) };
      });
      if (answer === null) throw new MercatoError('UNAUTHENTICATED');
      return answer.tokens;
    },

    async signOut(refreshToken) {
      if (REFRESH_TOKEN.test(refreshToken)) await asSystem(db, (tx) => endSession(tx, hashSecret(refreshToken)));
    },

    async switchTenant({ userId, sessionId, isOperator }, tenantId, key) {
      if (userId === null || sessionId === undefined) throw new MercatoError('FORBIDDEN', 'Only a signed-in user can switch tenants.');
      return asSystem(db, async (tx) => {
        const expiresAt = await lockSession(tx, sessionId, userId);
        if (expiresAt === null) throw new MercatoError('UNAUTHENTICATED');
        const target = await membership(tx, userId, tenantId);
        if (!target) throw new MercatoError('NOT_FOUND');
        const seat = { userId, isOperator, tenantId, role: target.role, sessionId };
        const keyed = { userId, mutation: 'SWITCH_TENANT', key, input: [sessionId, tenantId] };
        const tokens = await once(tx, keyed, async () => {
          await tx.session.update({ where: { id: sessionId }, data: { tenantId } });
          return issue(tx, seat, expiresAt);
        });
        return { tenant: target.tenant, tokens };
      });
    },
  };
}

async function insertSession(tx: Tx, { sessionId, userId, tenantId }: Seat): Promise<Date> {
  const [session] = await tx.$queryRaw<{ expiresAt: Date }[]>`
    insert into session (id, user_id, tenant_id, expires_at)
    values (${sessionId}::uuid, ${userId}::uuid, ${tenantId}::uuid, mercato_now() + make_interval(days => ${LIFETIME_DAYS}::int))
    returning expires_at as "expiresAt"`;
  if (!session) throw new Error('no session was inserted');
  return session.expiresAt;
}

/** True for the one caller that uses the token first. */
async function useToken(tx: Tx, hash: Uint8Array): Promise<boolean> {
  return (await tx.$executeRaw`update refresh_token set used_at = mercato_now() where hash = ${hash}::bytea and used_at is null`) === 1;
}

const refreshed = (userId: string, hash: Uint8Array, key: string | null): Keyed => ({
  ...{ userId, mutation: 'REFRESH_SESSION', key, input: Buffer.from(hash).toString('hex') },
});

/** Whether the last token of a live session that was used was used under the same key. Once its successor was used too, somebody has both: that is no retry. */
async function isRetry(tx: Tx, hash: Uint8Array, key: string | null): Promise<boolean> {
  if (key === null) return false;
  const [session] = await tx.$queryRaw<{ userId: string }[]>`
    select s.user_id as "userId" from session s join refresh_token t on t.session_id = s.id
    where t.hash = ${hash}::bytea and s.expires_at > mercato_now() and s.revoked_at is null
      and not exists (select from refresh_token n where n.session_id = s.id and n.used_at > t.used_at)`;
  if (!session) return false;
  const { userId, mutation, input } = refreshed(session.userId, hash, key);
  return isKnown(tx, { tenantId: userId, mutation, key, input });
}

/** Ends the session that a token belongs to; nothing where there is none. */
async function endSession(tx: Tx, hash: Uint8Array): Promise<null> {
  await tx.$executeRaw`
    update session set revoked_at = coalesce(revoked_at, mercato_now())
    where id = (select session_id from refresh_token where hash = ${hash}::bytea)`;
  return null;
}

/** Whom a token's session speaks for now; null: it ended, or the user left the tenant. */
async function liveSeat(tx: Tx, hash: Uint8Array): Promise<(Seat & { expiresAt: Date }) | null> {
  const [seat] = await tx.$queryRaw<
    { userId: string; isOperator: boolean; tenantId: string; role: Role; sessionId: string; expiresAt: Date }[]
  >`
    select s.user_id as "userId", u.is_operator as "isOperator", s.tenant_id as "tenantId", m.role::text as role, s.id as "sessionId",
      s.expires_at as "expiresAt"
    from refresh_token t
    join session s on s.id = t.session_id and s.revoked_at is null and s.expires_at > mercato_now()
    join app_user u on u.id = s.user_id
    join member m on m.user_id = s.user_id and m.tenant_id = s.tenant_id
    where t.hash = ${hash}::bytea
    for share of s`;
  return seat ?? null;
}

/** When a live session of the user ends; null: it ended. */
async function lockSession(tx: Tx, sessionId: string, userId: string): Promise<Date | null> {
  const [session] = await tx.$queryRaw<{ expiresAt: Date }[]>`
    select expires_at as "expiresAt" from session
    where id = ${sessionId}::uuid and user_id = ${userId}::uuid and revoked_at is null and expires_at > mercato_now()
    for update`;
  return session?.expiresAt ?? null;
}
