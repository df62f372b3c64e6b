import type { Tx } from '../base/database.ts';
import type { StrikeKind } from '../generated/prisma/client.ts';

/** One run that ended its runner; `own`: by a call of the publisher itself. */
type StrikeView = { at: Date; kind: StrikeKind; own: boolean };
/** A consumer for which alone a version is suspended; which one is not told. */
type ConsumerSuspensionView = { since: Date; until: Date; reason: string };
/** What a publisher learns of its version: of strikes the newest 100, of suspensions the 100 longest; `consumers` and `suspendedConsumers` count whose. */
type StrikeReport = {
  latest: StrikeView[];
  consumers: number;
  suspensions: ConsumerSuspensionView[];
  suspendedConsumers: number;
};

type Of = { versionId: string; consumers: number };

/** Of versions of the reader: nothing is told of others'. For a loader. */
export async function strikeReports(tx: Tx, versionIds: readonly string[]): Promise<Map<string, StrikeReport>> {
  const strikes = await tx.$queryRaw<(StrikeView & Of)[]>`
    select version_id "versionId", at, kind, own, consumers from mercato_strikes(${versionIds}::uuid[])`;
  const suspensions = await tx.$queryRaw<(ConsumerSuspensionView & Of)[]>`
    select version_id "versionId", since, until, reason, consumers from mercato_consumer_suspensions(${versionIds}::uuid[])`;
  return new Map(versionIds.map((id) => [id, reportOf(ofVersion(strikes, id), ofVersion(suspensions, id))]));
}

function reportOf(latest: (StrikeView & Of)[], suspensions: (ConsumerSuspensionView & Of)[]): StrikeReport {
  return { latest, consumers: latest[0]?.consumers ?? 0, suspensions, suspendedConsumers: suspensions[0]?.consumers ?? 0 };
}

function ofVersion<T extends Of>(rows: readonly T[], id: string): T[] {
  return rows.filter(({ versionId }) => versionId === id);
}
