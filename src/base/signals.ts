import type { Database, Tx } from './database.ts';

/** Hears in any server process that something changed, and not how: whoever hears it reads the database. */
export type Signals = {
  /**
   * `listener` is called after each signal, and once whenever signals may have been missed. It must not throw. Returns the end of it, which
   * may be called twice.
   */
  subscribe(topic: string, subject: string, listener: () => void): () => void;
  /**
   * Yields once at the start, when it listens already, then after signals, and after `everyMs` without one; those that come while the consumer is busy are
   * one. Ends when `signal` is aborted: a consumer that leaves while it waits must abort.
   */
  changes(topic: string, subject: string, signal: AbortSignal, everyMs?: number): AsyncGenerator<void, void, void>;
};

const CHANNEL = 'mercato_signal';

/**
 * Inside the writer's transaction; heard at its commit, not at all where it is undone. Never in settlement: NOTIFY makes commits wait for one another.
 * `topic` names what changed and has no space, `subject` which one; together at most 7,000 bytes.
 */
export async function publish(tx: Tx, topic: string, subject: string): Promise<void> {
  await tx.$executeRaw`select pg_notify(${CHANNEL}, ${keyOf(topic, subject)})`;
}

/** Listens until the database is disposed. */
export async function openSignals(db: Pick<Database, 'listen'>): Promise<Signals> {
  const listeners = new Map<string, Set<() => void>>();
  await db.listen(
    CHANNEL,
    (payload) => call(listeners.get(payload) ?? []),
    () => call([...listeners.values()].flatMap((some) => [...some])),
  );

  function subscribe(topic: string, subject: string, listener: () => void): () => void {
    const key = keyOf(topic, subject);
    const some = listeners.get(key) ?? new Set();
    const own = () => listener(); // the same listener may come twice
    listeners.set(key, some.add(own));
    return () => {
      some.delete(own);
      if (some.size === 0 && listeners.get(key) === some) listeners.delete(key);
    };
  }

  return {
    subscribe,
    changes: (topic, subject, signal, everyMs) => changes((listener) => subscribe(topic, subject, listener), signal, everyMs),
  };
}

async function* changes(
  listen: (listener: () => void) => () => void,
  signal: AbortSignal,
  everyMs: number | undefined,
): AsyncGenerator<void, void, void> {
  let changed = true;
  let wake = () => {};
  const onAbort = () => wake();
  const onChange = () => {
    changed = true;
    wake();
  };
  const end = listen(onChange);
  const timer = everyMs === undefined ? undefined : setInterval(onChange, everyMs);
  signal.addEventListener('abort', onAbort);
  try {
    while (!signal.aborted) {
      if (changed) {
        changed = false;
        yield;
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    clearInterval(timer);
    end();
  }
}

const keyOf = (topic: string, subject: string) => `${topic} ${subject}`;

function call(some: Iterable<() => void>): void {
  for (const listener of [...some]) listener();
}
