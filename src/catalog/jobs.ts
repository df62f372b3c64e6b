import type { Tx } from '../base/database.ts';

/** `grounds`: devices and runtime on which a READY version is to answer its samples; absent: whatever there is. */
export type CheckVersion = { tenantId: string; versionId: string; grounds?: string };
export type WorkJob = { tenantId: string; id: string };

/** What a job of each queue says. The queues are made by migrations. */
export type JobData = { 'check-version': CheckVersion; profile: WorkJob; train: WorkJob; optimize: WorkJob; deploy: WorkJob };
export type Queue = keyof JobData;

/** Background work by any server process, at least once. */
export type Jobs = {
  /** Adds a job to a transaction of the system role. A key that got one in the last minutes gets no second: a sweep may ask again and again. `tries`: beyond the first; as many as the queue says. */
  enqueue<Q extends Queue>(tx: Tx, queue: Q, data: JobData[Q], key: string, tries?: number): Promise<void>;
  /** Looks for work now, in this process. */
  wake(queue: Queue): void;
  /** Does the queue's jobs in this process from now on, `concurrency` at once; a handler that throws is tried again as the queue says. */
  work<Q extends Queue>(queue: Q, handler: (data: JobData[Q]) => Promise<void>, concurrency: number): Promise<void>;
};
