/**
 * Answers by key that stay until something is forgotten; at most `max`, the least recently used go first. Loads of one key at once share one.
 * A load that something was forgotten during is not kept, nor joined by whoever comes after.
 */
export function createMemory<V extends object>(max: number) {
  const known = new Map<string, V>();
  const loading = new Map<string, Promise<V>>();
  let generation = 0;

  function get(key: string): V | undefined {
    const value = known.get(key);
    if (value !== undefined) {
      known.delete(key);
      known.set(key, value);
    }
    return value;
  }

  function keep(key: string, value: V): void {
    known.set(key, value);
    const [oldest] = known.keys();
    if (known.size > max && oldest !== undefined) known.delete(oldest);
  }

  async function fetch(key: string, load: () => Promise<V>): Promise<V> {
    const before = generation;
    const value = await load();
    if (generation === before) keep(key, value);
    return value;
  }

  /** Joins a load that runs already, where there is one. */
  function load(key: string, fn: () => Promise<V>): Promise<V> {
    const running = loading.get(key);
    if (running) return running;
    const started = fetch(key, fn).finally(() => {
      if (loading.get(key) === started) loading.delete(key);
    });
    loading.set(key, started);
    return started;
  }

  function forget(matches: (value: V) => boolean): void {
    generation++;
    loading.clear();
    for (const [key, value] of known) if (matches(value)) known.delete(key);
  }

  return { get, fetch, load, forget };
}
