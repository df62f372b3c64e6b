import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import type { Journal } from './journal.ts';

/** What the database's books and the driver's disagree about; all zero where they agree. */
export type Differences = {
  /** Answered or sent until answered, and not billed as its caller was told. */
  lost: number;
  /** Records beyond one per key, and calls with two answers. */
  doubled: number;
  /** Leases with units, limits with something leased, and wallets with holds, that stay when no call is left. */
  stuck: number;
  /** |charges − calls × price|. */
  nanosOff: bigint;
};

/** A lease lives two seconds and is swept twice a second. */
const SETTLED_MS_MAX = 15_000;

/** Counts again what a tenant was billed, straight from the tables, beside the journal of all its calls of one round. */
export async function recount(url: string, tenantId: string, unitPriceNanos: bigint, journal: Journal): Promise<Differences> {
  const db = new pg.Client({ connectionString: url });
  await db.connect();
  try {
    const stuck = await leftOvers(db);
    const { rows } = await db.query<{ key: string; recordId: string; amount: string | null }>(
      `select i.key, i.record_id "recordId", r.amount_nanos::text amount
         from idempotency_key i left join usage_record r on r.id = i.record_id and r.period = i.period where i.tenant_id = $1`,
      [tenantId],
    );
    const billed = new Map(rows.map((row) => [row.key, row]));
    const { entries } = journal;
    const lost = entries.filter(({ key, answer }) => {
      if (answer === null) return false;
      const record = billed.get(key);
      return record?.recordId !== answer.id || record.amount === null || BigInt(record.amount) !== answer.amountNanos;
    });
    const [sums] = (
      await db.query<{ records: string; charged: string }>(
        `select (select count(*) from usage_record where consumer_tenant_id = $1)::text records,
                (select coalesce(sum(amount_nanos), 0) from transfer where kind = 'CHARGE' and consumer_tenant_id = $1)::text charged`,
        [tenantId],
      )
    ).rows;
    const answered = entries.filter(({ answer }) => answer !== null).length;
    const due = unitPriceNanos * BigInt(answered);
    const charged = BigInt(sums?.charged ?? 0);
    return {
      lost: lost.length,
      doubled: Math.max(0, Number(sums?.records ?? 0) - answered) + entries.filter(({ differs }) => differs).length,
      stuck,
      nanosOff: charged > due ? charged - due : due - charged,
    };
  } finally {
    await db.end();
  }
}

/** Leases and holds that do not end by themselves. */
async function leftOvers(db: pg.Client): Promise<number> {
  const giveUpMs = performance.now() + SETTLED_MS_MAX;
  for (;;) {
    const [row] = (
      await db.query<{ left: string }>(
        `select ((select count(*) from lease where units > 0 or expires_at < mercato_now() - interval '5 seconds')
               + (select count(*) from limit_counter where leased <> 0)
               + (select count(*) from account where held_nanos <> 0))::text "left"`,
      )
    ).rows;
    const left = Number(row?.left ?? 0);
    if (left === 0 || performance.now() > giveUpMs) return left;
    await sleep(100);
  }
}
