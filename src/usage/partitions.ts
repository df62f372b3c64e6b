import { asSystem, type Database } from '../base/database.ts';

/** Makes the partitions of this month's and the next month's usage records, where they are missing. Called at start and once an hour. */
export async function ensurePartitions(db: Database): Promise<void> {
  await asSystem(db, (tx) => tx.$executeRaw`select mercato_ensure_partitions(1)`);
}
