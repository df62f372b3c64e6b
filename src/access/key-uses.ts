import { asSystem, type Database } from '../base/database.ts';
import type { Log } from '../base/log.ts';

export type KeyUses = AsyncDisposable & {
  /** Memory only. */
  note(apiKeyId: string): void;
};

const FLUSH_MS = 5_000;

/** When keys were last used, written every five seconds and at the end, for all keys at once. */
export function createKeyUses(db: Database, log: Log): KeyUses {
  let used = new Set<string>();
  let writing: Promise<void> = Promise.resolve();

  async function write(): Promise<void> {
    if (used.size === 0) return;
    const ids = [...used];
    used = new Set();
    try {
      await asSystem(
        db,
        (tx) => tx.$executeRaw`
        insert into api_key_use (api_key_id, tenant_id, last_used_at)
        select id, tenant_id, mercato_now() from api_key where id = any(${ids}::uuid[]) order by id
        on conflict (api_key_id) do update set last_used_at = greatest(api_key_use.last_used_at, excluded.last_used_at)`,
      );
    } catch (error) {
      for (const id of ids) used.add(id);
      log.warn({ err: error, keys: ids.length }, 'the last use of API keys was not written; trying again');
    }
  }

  const timer = setInterval(() => {
    writing = writing.then(write);
  }, FLUSH_MS).unref();

  return {
    note: (apiKeyId) => {
      used.add(apiKeyId);
    },
    async [Symbol.asyncDispose]() {
      clearInterval(timer);
      await writing.then(write);
    },
  };
}
