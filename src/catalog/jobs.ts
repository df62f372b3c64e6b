import type { Tx } from '../base/database.ts';

export type CheckVersion = { tenantId: string; versionId: string };

/** The background work that the catalogue needs done: at least once, by any server process. */
export type Jobs = {
  /**
   * Adds a job to a transaction of the system role. A version that got one in the last minutes gets no second: the sweep may ask again and again.
   */
  enqueue(tx: Tx, queue: 'check-version', data: CheckVersion): Promise<void>;
  /** Looks for work now, in this process. */
  wake(queue: 'check-version'): void;
  /** Does the queue's jobs in this process from now on; a handler that throws is tried again, a few times. */
  work(queue: 'check-version', handler: (data: CheckVersion) => Promise<void>): Promise<void>;
};
