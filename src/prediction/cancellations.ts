import { asSystem, type Database } from '../base/database.ts';

/** Keyed calls that can be told to stop, by whichever server process has them. */
export type Cancellations = {
  /** A signal that aborts with the caller's or when the key is cancelled; `over` must be called when the call is. */
  watch(tenantId: string, key: string, signal: AbortSignal): { signal: AbortSignal; over(): void };
  /** Stops the calls with this key here and tells the other processes. True: there was one here. */
  cancel(tenantId: string, key: string): Promise<boolean>;
};

const CHANNEL = 'mercato_cancel';

export async function openCancellations(db: Database): Promise<Cancellations> {
  const watched = new Map<string, Set<AbortController>>();

  function stop(name: string): boolean {
    const calls = watched.get(name) ?? new Set();
    for (const call of calls) call.abort();
    return calls.size > 0;
  }

  await db.listen(CHANNEL, stop);
  return {
    watch(tenantId, key, signal) {
      const name = nameOf(tenantId, key);
      const calls = watched.get(name) ?? new Set();
      const call = new AbortController();
      watched.set(name, calls.add(call));
      return {
        signal: AbortSignal.any([signal, call.signal]),
        over() {
          calls.delete(call);
          if (calls.size === 0 && watched.get(name) === calls) watched.delete(name);
        },
      };
    },
    async cancel(tenantId, key) {
      const name = nameOf(tenantId, key);
      const here = stop(name);
      await asSystem(db, (tx) => tx.$executeRaw`select pg_notify(${CHANNEL}, ${name})`);
      return here;
    },
  };
}

const nameOf = (tenantId: string, key: string) => `${tenantId}:${key}`;
