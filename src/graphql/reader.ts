import { asReader, asTenant, type Database, type Tx } from '../base/database.ts';

/** The reading side of a request. What has not begun when it is closed never does: it rejects. */
export type Reader = {
  /**
   * Reads as the caller's tenant. In a query all reads share one transaction, opened by the first and closed before the answer is sent, and see one moment; in a
   * mutation each is its own, so that none is open while the next root field writes. Calls run one after the other.
   */
  read<T>(fn: (tx: Tx) => Promise<T>): Promise<T>;
  /**
   * Runs what opens a transaction of its own, such as one of the system role, in its turn among the reads and with none of theirs open: within
   * one it would wait for ever for the embedded database's single connection.
   */
  apart<T>(fn: () => Promise<T>): Promise<T>;
  /**
   * Ends the shared transaction, after the call that has begun. Execution may end before all its resolvers have, where a field that cannot be
   * null fails: what those ask for afterwards would open a transaction that nobody ends.
   */
  close(): Promise<void>;
};

/** `shared` as for a query. */
export function createReader(db: Database, tenantId: string | null, shared: boolean): Reader {
  let tail: Promise<unknown> = Promise.resolve();
  let held: Held | null = null;
  let closed = false;

  function inTurn<T>(fn: () => Promise<T>): Promise<T> {
    const result = tail.then(() => {
      if (closed) throw new Error('the request is over');
      return fn();
    });
    tail = result.catch(() => undefined);
    return result;
  }

  async function release(): Promise<void> {
    const ending = held;
    held = null;
    ending?.release();
    await ending?.done;
  }

  return {
    read: (fn) =>
      inTurn(async () => {
        if (!shared) return asTenant(db, tenantId, fn);
        held ??= hold(db, tenantId);
        return fn(await held.tx);
      }),
    apart: (fn) =>
      inTurn(async () => {
        await release();
        return fn();
      }),
    close: async () => {
      closed = true;
      await tail;
      await release();
    },
  };
}

type Held = { tx: Promise<Tx>; release(): void; done: Promise<unknown> };

/** Opens a transaction that stays open until `release`; `done` never rejects. */
function hold(db: Database, tenantId: string | null): Held {
  const opened = Promise.withResolvers<Tx>();
  const released = Promise.withResolvers<void>();
  const done = asReader(db, tenantId, (tx) => {
    opened.resolve(tx);
    return released.promise;
  }).catch(opened.reject);
  return { tx: opened.promise, release: released.resolve, done };
}
