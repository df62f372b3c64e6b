import type { Tx } from '../base/database.ts';

/** `grounds`: devices and runtime on which a READY version is to answer its samples; absent: whatever there is. */
export type CheckVersion = { tenantId: string; versionId: string; grounds?: string };
export type WorkJob = { tenantId: string; id: string };

/** What a job of each queue says. The queues are made by migrations. */
export type JobData = { 'check-version': CheckVersion; profile: WorkJob; train: WorkJob; optimize: WorkJob; deploy: WorkJob };
export type Queue = keyof JobData;

/**
 * `tries`: beyond the first; absent: as many as the queue says. `turn`: how many jobs of its tenant are to be done before it, 0 where that is absent; of all tenants'
 * those of a lower turn are done first, then the older.
 */
type JobOptions = { tries?: number; turn?: number };

/** Background work by any server process, at least once. */
export type Jobs = {
  /** Adds a job to a transaction of the system role. A key that got one in the last minutes gets no second: a sweep may ask again and again. */
  enqueue<Q extends Queue>(tx: Tx, queue: Q, data: JobData[Q], key: string, options?: JobOptions): Promise<void>;
  /** Looks for work now, in this process. */
  wake(queue: Queue): void;
  /**
   * Does the queue's jobs in this process from now on, `concurrency` at once, and of one tenant's `perTenant` in all processes together: those that may not be
   * done yet are passed over. A handler that throws is tried again as the queue says.
   */
  work<Q extends Queue>(queue: Q, handler: (data: JobData[Q]) => Promise<void>, concurrency: number, perTenant?: number): Promise<void>;
};
