import type { Clock } from '../base/clock.ts';
import type { Database, Tx } from '../base/database.ts';
import type { Connection, PageRequest } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import type { Tenant, User } from '../tenancy/tenancy.ts';
import { createAccounts, type MaybeRetried, type NewAccount, type SignedIn, type SignIn } from './accounts.ts';
import { type ApiKeyView, createApiKeys, type NewApiKey } from './api-keys.ts';
import { type CredentialHeaders, readCredential } from './credentials.ts';
import { type Invalidations, openInvalidations } from './invalidation.ts';
import { loadJwtKeys } from './jwt-keys.ts';
import { createKeyMemory } from './key-memory.ts';
import { createKeyUses } from './key-uses.ts';
import { createPasswords } from './passwords.ts';
import type { Principal } from './principal.ts';
import { createSessions, type SessionTokens } from './sessions.ts';
import { createTokens } from './tokens.ts';
import { createViewing, type Viewing } from './viewer.ts';

export type { SignedIn } from './accounts.ts';
export type { ApiKeyView, NewApiKey } from './api-keys.ts';
export type { CredentialHeaders } from './credentials.ts';
export type { Invalidations } from './invalidation.ts';
export { authorize, authorizeOperator, type Principal, type Scope } from './principal.ts';
export type { SessionTokens } from './sessions.ts';

export type AccessOptions = {
  db: Database;
  /** Where jwt-keys.json is made and kept, unless `jwtKeys` is given. */
  dataDir: string;
  /** MERCATO_JWT_KEYS: a JWK set of private ES256 keys as JSON; the first signs, all verify. Null: of `dataDir`. */
  jwtKeys: string | null;
  log: Log;
  clock: Clock;
  /** Tests only: no heartbeat by itself, so that this process stays as it is. */
  heartbeat?: 'manual';
};

/** Who is calling, and what may they do. Made once per server process. */
export type Access = AsyncDisposable & {
  /** This server process in `server_process`, a UUID. */
  readonly processId: string;
  readonly invalidations: Invalidations;
  readonly viewer: Viewing;
  /**
   * The caller of a request; null: it brought no credentials. From memory alone, and then not a promise, for an access token, and for an API
   * key seen before while this process hears from the database. @throws UNAUTHENTICATED, OVERLOADED (the database does not answer)
   */
  authenticate(headers: CredentialHeaders): Principal | null | Promise<Principal | null>;
  /**
   * From settlement's start until the answer was handed to the socket or dropped: as long, revoking the caller's key waits. Returns the end of
   * the hold, which may be called twice. Before the hand-over the holder checks `invalidations.isFresh()`: a process that is cut off is not
   * waited for. @throws UNAUTHENTICATED: the key is revoked
   */
  holdAnswer(principal: Principal): () => void;

  /** Makes a user and a tenant that it owns. @throws BAD_USER_INPUT, OVERLOADED, CONFLICT naming `email` or `tenantName` */
  signUp(input: NewAccount): Promise<SignedIn>;
  /** The same, once for a key: `tokens` null in a retry, which needs the password. @throws what `signUp` throws, BAD_USER_INPUT (the key), IDEMPOTENCY_CONFLICT */
  signUpOnce(input: NewAccount, idempotencyKey: string): Promise<MaybeRetried>;
  /** In the named tenant, or the first that the user joined. @throws OVERLOADED, UNAUTHENTICATED: the same whatever was wrong */
  signIn(input: SignIn): Promise<SignedIn>;
  /** The same, once for a key. @throws what `signIn` throws, BAD_USER_INPUT (the key), IDEMPOTENCY_CONFLICT */
  signInOnce(input: SignIn, idempotencyKey: string): Promise<MaybeRetried>;
  /** Makes the operator with a tenant of its own; one that is there already stays as it is. @throws BAD_USER_INPUT, CONFLICT */
  createOperator(input: NewAccount): Promise<{ user: User; created: boolean }>;
  /** Exchanges a refresh token once; a second use, but for a retry under its key, ends its session for good. @throws UNAUTHENTICATED, BAD_USER_INPUT (the key) */
  refreshSession(refreshToken: string, idempotencyKey?: string | null): Promise<SessionTokens | null>;
  /** Ends the session of a refresh token, if there is one. */
  signOut(refreshToken: string): Promise<void>;
  /** Makes a tenant that the signed-in user owns. @throws FORBIDDEN (an API key), BAD_USER_INPUT, CONFLICT naming `name` */
  createTenant(principal: Principal, input: { name: string; displayName: string | null }): Promise<Tenant>;
  /**
   * The same session, acting in another tenant of the user; with a key once.
   * @throws FORBIDDEN (an API key), UNAUTHENTICATED, NOT_FOUND, BAD_USER_INPUT (the key), IDEMPOTENCY_CONFLICT
   */
  switchTenant(
    principal: Principal,
    tenantId: string,
    idempotencyKey?: string | null,
  ): Promise<{ tenant: Tenant; tokens: SessionTokens | null }>;

  /** @throws BAD_USER_INPUT, FORBIDDEN (a scope that the caller lacks), CONFLICT (too many keys) */
  createApiKey(principal: Principal, input: NewApiKey): Promise<{ apiKey: ApiKeyView; secret: string }>;
  /** As `createApiKey`, once for a key: a retry by the same member answers the same object, its secret null. @throws also IDEMPOTENCY_CONFLICT */
  createApiKeyOnce(principal: Principal, input: NewApiKey, idempotencyKey: string): Promise<{ apiKey: ApiKeyView; secret: string | null }>;
  /**
   * Resolves when no live process accepts the key and no answer of a call with it can go out. One that is stopped after its last look and before the
   * system call that sends, some ten microseconds, for longer than a lease, sends when it goes on what was billed before. @throws NOT_FOUND
   */
  revokeApiKey(principal: Principal, id: string): Promise<ApiKeyView>;
  /** The tenant's keys, newest first. */
  apiKeys(tx: Tx, principal: Principal, page: PageRequest): Promise<Connection<ApiKeyView>>;
  /** One key of the tenant; null: none. */
  apiKey(tx: Tx, principal: Principal, id: string): Promise<ApiKeyView | null>;
};

/** Registers this process before anything is remembered; disposing writes the last uses and signs it off. */
export async function createAccess(options: AccessOptions): Promise<Access> {
  const { db, log, clock } = options;
  const tokens = createTokens(await loadJwtKeys(options.jwtKeys, options.dataDir), clock);
  const invalidations = await openInvalidations({ db, log, clock, manual: options.heartbeat === 'manual' });
  const uses = createKeyUses(db, log);
  const memory = createKeyMemory({ db, log, clock, invalidations, noteUse: uses.note });
  const sessions = createSessions(db, tokens);
  return {
    processId: invalidations.processId,
    invalidations,
    viewer: createViewing(db),
    authenticate(headers) {
      const credential = readCredential(headers);
      if (credential === null) return null;
      return credential.kind === 'api-key' ? memory.authenticate(credential.text) : tokens.verify(credential.text);
    },
    holdAnswer: memory.holdAnswer,
    ...createApiKeys(db, invalidations),
    ...createAccounts({ db, passwords: createPasswords(), sessions }),
    refreshSession: (refreshToken, key = null) => sessions.refresh(refreshToken, key),
    signOut: sessions.signOut,
    switchTenant: (principal, tenantId, key = null) => sessions.switchTenant(principal, tenantId, key),
    async [Symbol.asyncDispose]() {
      await uses[Symbol.asyncDispose]();
      await invalidations[Symbol.asyncDispose]();
    },
  };
}
