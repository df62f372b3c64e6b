import DataLoader from 'dataloader';
import type { Tx } from '../base/database.ts';

/** Reads many rows at once, by their keys; what it does not find is missing from the map. */
export type BatchRead<V> = (tx: Tx, keys: readonly string[]) => Promise<ReadonlyMap<string, V>>;

/**
 * Collects the single reads of one request into batches, one per function: `loaders.load(tenantsByIds, id)`. The function is the identity, so
 * it must be a module's own, never a new closure. In a query each row is read once; in a mutation again after each write.
 */
export type Loaders = { load<V>(batch: BatchRead<V>, key: string): Promise<V | null> };

/** `read` as the request's own; `cache` false: rows may change between reads. */
export function createLoaders(read: <T>(fn: (tx: Tx) => Promise<T>) => Promise<T>, cache: boolean): Loaders {
  const loaders = new Map<unknown, unknown>();
  function loaderOf<V>(batch: BatchRead<V>): DataLoader<string, V | null> {
    const known = loaders.get(batch);
    if (known) return known as DataLoader<string, V | null>;
    const loader = new DataLoader<string, V | null>(
      async (keys) => {
        const rows = await read((tx) => batch(tx, keys));
        return keys.map((key) => rows.get(key) ?? null);
      },
      { cache },
    );
    loaders.set(batch, loader);
    return loader;
  }
  return { load: (batch, key) => loaderOf(batch).load(key) };
}
