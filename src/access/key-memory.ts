import type { Clock } from '../base/clock.ts';
import { asSystem, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { Turns } from '../base/turns.ts';
import type { Invalidations } from './invalidation.ts';
import { hashSecret, isWellFormedKey } from './key-format.ts';
import { LruMap } from './lru.ts';
import { isScope, type Principal } from './principal.ts';

type KeyPrincipal = Principal & { apiKeyId: string };
type Options = { db: Database; log: Log; clock: Clock; invalidations: Invalidations; noteUse(apiKeyId: string): void };
type Hold = { count: number; whenReleased: (() => void)[] };
type KeyRow = { id: string; tenantId: string; createdByUserId: string | null; scopes: string[]; remainingMs: number | null };

const REMEMBERED = 10_000;
/** Whoever makes up keys takes no more than half of the connections, which settlements and heartbeats need too; beyond these that wait, keys are refused. */
export const LOOKUPS_WAITING_MAX = 1_000;
/** Longer than any call lives (a deadline is a minute at most), so that none that began before the revocation is taken for valid. */
const REVOKED_KEPT_MS = 600_000;

/**
 * API keys that were seen before, by their text. A look-up of the whole key tells nothing by its time: 216 random bits cannot be approached
 * step by step through a map that compares seeded hashes first. An unknown key is not remembered, so guessing fills no memory.
 */
export function createKeyMemory({ db, log, clock, invalidations, noteUse }: Options) {
  const entries = new LruMap<{ principal: KeyPrincipal; deadlineMs: number }>(REMEMBERED);
  const lookups = new Map<string, Promise<Principal>>();
  const half = Math.max(1, Math.floor(db.connections / 2));
  const turns = new Turns({ all: half, each: half });
  const revoked = new Map<string, number>();
  const holds = new Map<string, Hold>();

  invalidations.on('api_key', (id) => {
    const nowMs = clock.monotonicMs();
    for (const [old, sinceMs] of revoked) if (nowMs - sinceMs > REVOKED_KEPT_MS) revoked.delete(old);
    revoked.set(id, nowMs);
    entries.deleteWhere(({ principal }) => principal.apiKeyId === id);
    const hold = holds.get(id);
    return hold && new Promise<void>((resolve) => hold.whenReleased.push(resolve));
  });

  function authenticate(secret: string): Principal | Promise<Principal> {
    if (!invalidations.isFresh()) return lookUp(secret);
    const entry = entries.get(secret);
    if (!entry || clock.monotonicMs() >= entry.deadlineMs) return shareLookUp(secret);
    noteUse(entry.principal.apiKeyId);
    return entry.principal;
  }

  /** Joins a look-up under way. Only while fresh: a key revoked since that look-up began is then known to be, and `lookUp` refuses it. */
  function shareLookUp(secret: string): Promise<Principal> {
    const running = lookups.get(secret);
    if (running) return running;
    const lookup = lookUp(secret).finally(() => lookups.delete(secret));
    lookups.set(secret, lookup);
    return lookup;
  }

  async function lookUp(secret: string): Promise<Principal> {
    if (!isWellFormedKey(secret)) throw new MercatoError('UNAUTHENTICATED');
    if (turns.waiting >= LOOKUPS_WAITING_MAX) throw new MercatoError('OVERLOADED', undefined, { retryAfterMs: 1_000 });
    const startMs = clock.monotonicMs();
    const row = await turns
      .run('', () => asSystem(db, (tx) => findKey(tx, hashSecret(secret))))
      .catch((error: unknown) => {
        log.warn({ err: error }, 'an API key could not be looked up');
        throw new MercatoError('OVERLOADED', undefined, { retryAfterMs: 1_000 }, { cause: error });
      });
    if (!row || revoked.has(row.id)) throw new MercatoError('UNAUTHENTICATED');
    const principal = principalOf(row);
    entries.set(secret, { principal, deadlineMs: row.remainingMs === null ? Number.POSITIVE_INFINITY : startMs + row.remainingMs });
    noteUse(row.id);
    return principal;
  }

  function holdAnswer({ apiKeyId: id }: Principal): () => void {
    if (id === null) return () => undefined;
    if (revoked.has(id)) throw new MercatoError('UNAUTHENTICATED', 'The API key is revoked.');
    const hold = holds.get(id) ?? { count: 0, whenReleased: [] };
    holds.set(id, hold);
    hold.count++;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      if (--hold.count > 0) return;
      holds.delete(id);
      for (const released of hold.whenReleased) released();
    };
  }

  return { authenticate, holdAnswer };
}

async function findKey(tx: Tx, hash: Uint8Array): Promise<KeyRow | null> {
  const [row] = await tx.$queryRaw<KeyRow[]>`
    select id, tenant_id as "tenantId", created_by_user_id as "createdByUserId", scopes,
      (extract(epoch from expires_at - mercato_now()) * 1000)::float8 as "remainingMs"
    from api_key
    where hash = ${hash}::bytea and revoked_at is null and (expires_at is null or expires_at > mercato_now())`;
  return row ?? null;
}

function principalOf({ id, tenantId, createdByUserId, scopes }: KeyRow): KeyPrincipal {
  return {
    tenantId,
    userId: null,
    apiKeyId: id,
    memberId: createdByUserId,
    role: null,
    isOperator: false,
    scopes: new Set(scopes.filter(isScope)),
  };
}
