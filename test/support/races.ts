import { asSystem, type Database, type Tx } from '../../src/base/database.ts';
import { asAdmin } from './admin.ts';

export const onPostgres = process.env.MERCATO_TEST_DATABASE_URL !== undefined;

/**
 * Begins `second` when `first` is done and not yet committed, and commits once `second` waits for a lock or has ended. What became of
 * `second`, whether it had to wait, and what `meanwhile` found as long as it did. A function that `first` answers runs before its commit. Embedded, one transaction runs at a time: Postgres only.
 */
export async function race<T>(
  db: Database,
  first: (tx: Tx) => Promise<unknown>,
  second: () => Promise<T>,
  meanwhile: () => Promise<unknown> = async () => undefined,
): Promise<{ waited: boolean; found: unknown; result: PromiseSettledResult<T> }> {
  const written = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  const holder = asSystem(db, async (tx) => {
    const last = await first(tx);
    written.resolve();
    await released.promise;
    if (typeof last === 'function') await last();
  });
  await Promise.race([written.promise, holder]);
  let ended = false;
  const outcome = Promise.allSettled([second()]).finally(() => {
    ended = true;
  });
  const waited = await waitsForLock(db, () => ended);
  const found = waited ? await meanwhile() : undefined;
  released.resolve();
  await holder;
  const [result] = await outcome;
  return { waited, found, result };
}

/** True as soon as somebody waits for a lock in this database; false where `ended` comes first. */
async function waitsForLock(db: Database, ended: () => boolean): Promise<boolean> {
  for (;;) {
    const [row] = await asAdmin(
      db,
      (tx) => tx.$queryRaw<{ found: boolean }[]>`
        select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock') found`,
    );
    if (row?.found) return true;
    if (ended()) return false;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Whether rows that another transaction selects are locked by someone. */
export async function isLocked(db: Database, select: string): Promise<boolean> {
  try {
    await asAdmin(db, (tx) => tx.$executeRawUnsafe(`${select} for update nowait`));
    return false;
  } catch (error) {
    if (String(error).includes('could not obtain lock')) return true;
    throw error;
  }
}

/** From here on a plan without an order of its own reads tables as they lie. */
export function asTheyLie(tx: Tx): Promise<unknown> {
  return tx.$queryRaw`select set_config(name, 'off', true) from unnest(array['enable_indexscan', 'enable_bitmapscan', 'enable_mergejoin']) name`;
}

/** Those of the rows, as `table where column` and the column's values, that nobody has locked. */
export function unlocked(db: Database, rows: string, keys: readonly string[]): Promise<unknown[]> {
  return asAdmin(db, (tx) => tx.$queryRawUnsafe<unknown[]>(`select 1 from ${rows} = any ($1::uuid[]) for update skip locked`, keys));
}
