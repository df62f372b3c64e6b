import { asSystem, type Database } from '../base/database.ts';
import { dropOldAlerts, dropOldMessages } from './alerts.ts';
import { dropEndedCounters } from './limit-counters.ts';

/** What `usage` needs every hour: room for what is to come, and rid of windows that are long over, of messages and of alerts that are old. Called at start too. */
export async function keepUsage(db: Database): Promise<void> {
  await ensurePartitions(db);
  await asSystem(db, dropEndedCounters);
  await asSystem(db, dropOldMessages);
  await asSystem(db, dropOldAlerts);
}

/** Makes the partitions of this month's and the next month's usage records, where they are missing. */
async function ensurePartitions(db: Database): Promise<void> {
  await asSystem(db, (tx) => tx.$executeRaw`select mercato_ensure_partitions(1)`);
}
