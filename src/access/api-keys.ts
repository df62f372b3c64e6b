import { asTenant, type Database, type Tx } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import { onceFor } from '../base/idempotency.ts';
import { type Connection, connection, newId, type PageRequest } from '../base/ids.ts';
import { LIMITS } from '../base/limits.ts';
import { Prisma } from '../generated/prisma/client.ts';
import { checkLabel } from '../tenancy/tenancy.ts';
import type { Invalidations } from './invalidation.ts';
import { hashSecret, makeKey, shownPrefix } from './key-format.ts';
import { isScope, type Principal, SCOPES, type Scope } from './principal.ts';

/** A key as its tenant sees it, without its secret. `lastUsedAt` is right to about five seconds; null: never used. */
export type ApiKeyView = {
  id: string;
  name: string;
  prefix: string;
  scopes: string[];
  expiresAt: Date | null;
  revokedAt: Date | null;
  lastUsedAt: Date | null;
  createdAt: Date;
};
export type NewApiKey = { name: string; scopes: readonly string[]; expiresAt: Date | null };

const COLUMNS = Prisma.sql`k.id, k.name, k.prefix, k.scopes, k.expires_at as "expiresAt", k.revoked_at as "revokedAt",
  k.created_at as "createdAt", (select u.last_used_at from api_key_use u where u.api_key_id = k.id) as "lastUsedAt"`;

export function createApiKeys(db: Database, invalidations: Invalidations) {
  return {
    async createApiKey(principal: Principal, input: NewApiKey): Promise<{ apiKey: ApiKeyView; secret: string }> {
      const key = checked(principal, input);
      const apiKey = await asTenant(db, principal.tenantId, async (tx) => {
        await checkRoom(tx, principal.tenantId, key.expiresAt);
        return insertKey(tx, principal, newId(), key);
      });
      return { apiKey, secret: key.secret };
    },

    async createApiKeyOnce(
      principal: Principal,
      input: NewApiKey,
      idempotencyKey: string,
    ): Promise<{ apiKey: ApiKeyView; secret: string | null }> {
      const { tenantId } = principal;
      const key = checked(principal, input);
      const { name, scopes, expiresAt, secret } = key;
      return asTenant(db, tenantId, async (tx) => {
        const keyed = { tenantId, mutation: 'CREATE_API_KEY', key: idempotencyKey, input: { name, scopes: scopes.toSorted(), expiresAt } };
        const { id, replayed } = await onceFor(tx, keyed, async (id) => {
          await checkRoom(tx, tenantId, expiresAt);
          await insertKey(tx, principal, id, key);
        });
        const apiKey = await findMadeBy(tx, principal, id);
        if (apiKey === null) {
          throw new MercatoError('IDEMPOTENCY_CONFLICT', 'The idempotency key was used by another member.', {
            field: 'idempotencyKey',
            expected: 'a new key',
          });
        }
        return { apiKey, secret: replayed ? null : secret };
      });
    },

    async revokeApiKey({ tenantId }: Principal, id: string): Promise<ApiKeyView> {
      const { apiKey, seq } = await asTenant(db, tenantId, async (tx) => {
        const [apiKey] = await tx.$queryRaw<ApiKeyView[]>`
          update api_key k set revoked_at = coalesce(k.revoked_at, mercato_now())
          where k.id = ${id}::uuid and k.tenant_id = ${tenantId}::uuid
          returning ${COLUMNS}`;
        if (!apiKey) throw new MercatoError('NOT_FOUND');
        return { apiKey, seq: await invalidations.publish(tx, 'api_key', [id]) };
      });
      await invalidations.confirmed(seq);
      return apiKey;
    },

    async apiKeys(tx: Tx, { tenantId }: Principal, page: PageRequest): Promise<Connection<ApiKeyView>> {
      const rows = await tx.$queryRaw<ApiKeyView[]>`
        select ${COLUMNS} from api_key k
        where k.tenant_id = ${tenantId}::uuid and (${page.afterId}::uuid is null or k.id < ${page.afterId}::uuid)
        order by k.id desc
        limit ${page.first + 1}`;
      return connection(rows, page);
    },

    apiKey: (tx: Tx, { tenantId }: Principal, id: string): Promise<ApiKeyView | null> => findOwn(tx, tenantId, id),
  };
}

async function findOwn(tx: Tx, tenantId: string, id: string): Promise<ApiKeyView | null> {
  const rows = await tx.$queryRaw<ApiKeyView[]>`
    select ${COLUMNS} from api_key k where k.id = ${id}::uuid and k.tenant_id = ${tenantId}::uuid`;
  return rows[0] ?? null;
}

/** Null where another member made it: who has it is under that one's limits. */
async function findMadeBy(tx: Tx, { tenantId, memberId }: Principal, id: string): Promise<ApiKeyView | null> {
  const [apiKey] = await tx.$queryRaw<ApiKeyView[]>`
    select ${COLUMNS} from api_key k
    where k.id = ${id}::uuid and k.tenant_id = ${tenantId}::uuid and k.created_by_user_id is not distinct from ${memberId}::uuid`;
  return apiKey ?? null;
}

type CheckedKey = { name: string; scopes: Scope[]; expiresAt: Date | null; secret: string };

/** @throws BAD_USER_INPUT, FORBIDDEN */
function checked(principal: Principal, input: NewApiKey): CheckedKey {
  const name = checkLabel('name', input.name);
  return { name, scopes: grantedScopes(principal, input.scopes), expiresAt: input.expiresAt, secret: makeKey() };
}

/** Known scopes, each once. @throws BAD_USER_INPUT, FORBIDDEN: one that the caller lacks */
function grantedScopes(principal: Principal, scopes: readonly string[]): Scope[] {
  const unknown = scopes.find((scope) => !isScope(scope));
  if (unknown !== undefined || scopes.length === 0) {
    const given = unknown?.slice(0, 60) ?? 'none';
    throw badInput('scopes', 'A key needs one or more of the known scopes.', { given, expected: SCOPES.join(', ') });
  }
  const granted = [...new Set(scopes.filter(isScope))];
  const lacking = granted.find((scope) => !principal.scopes.has(scope));
  if (lacking) throw new MercatoError('FORBIDDEN', `The caller has no scope ${lacking} to grant.`);
  return granted;
}

/** Under a lock per tenant, or two calls would both take the last place. @throws BAD_USER_INPUT, CONFLICT */
async function checkRoom(tx: Tx, tenantId: string, expiresAt: Date | null): Promise<void> {
  await tx.$executeRaw`select pg_advisory_xact_lock(hashtext('mercato.api_keys'), hashtext(${tenantId}))`;
  const [found] = await tx.$queryRaw<{ expired: boolean | null; keys: bigint }[]>`
    select ${expiresAt?.toISOString() ?? null}::timestamptz <= mercato_now() as expired, count(*) as keys from api_key
    where tenant_id = ${tenantId}::uuid and revoked_at is null and (expires_at is null or expires_at > mercato_now())`;
  if (found?.expired) {
    throw badInput('expiresAt', 'expiresAt has passed.', {
      given: expiresAt?.toISOString() ?? '',
      expected: 'an instant in the future, or null',
    });
  }
  if ((found?.keys ?? 0n) >= BigInt(LIMITS.apiKeysPerTenant)) {
    throw new MercatoError('CONFLICT', 'The tenant has as many API keys as it may have.', { limit: String(LIMITS.apiKeysPerTenant) });
  }
}

async function insertKey(tx: Tx, { tenantId, memberId }: Principal, id: string, key: CheckedKey) {
  const [apiKey] = await tx.$queryRaw<ApiKeyView[]>`
    insert into api_key as k (id, tenant_id, name, hash, prefix, scopes, created_by_user_id, expires_at)
    values (${id}::uuid, ${tenantId}::uuid, ${key.name}, ${hashSecret(key.secret)}::bytea, ${shownPrefix(key.secret)},
      ${key.scopes}::text[], ${memberId}::uuid, ${key.expiresAt?.toISOString() ?? null}::timestamptz)
    returning ${COLUMNS}`;
  if (!apiKey) throw new Error('no API key was inserted');
  return apiKey;
}
