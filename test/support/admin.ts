import type { Database, Tx } from '../../src/base/database.ts';

/** One transaction of the login itself, a superuser whom no wall stops: for tests that look behind the walls, or pull one down. */
export function asAdmin<T>(db: Database, fn: (tx: Tx) => Promise<T>): Promise<T> {
  return db.systemClient.$transaction(
    async (tx) => {
      await tx.$executeRaw`select set_config('role', 'none', true)`;
      return fn(tx);
    },
    { timeout: 30_000 },
  );
}

class Undone extends Error {}

/** As `asAdmin`, and afterwards as if it had not been. */
export async function undone<T>(db: Database, fn: (tx: Tx) => Promise<T>): Promise<T> {
  let result: { value: T } | null = null;
  try {
    await asAdmin(db, async (tx) => {
      result = { value: await fn(tx) };
      throw new Undone();
    });
  } catch (error) {
    if (!(error instanceof Undone)) throw error;
  }
  if (result === null) throw new Error('the transaction had no result');
  return (result as { value: T }).value;
}
