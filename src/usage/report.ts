import type { Tx } from '../base/database.ts';
import { badInput } from '../base/errors.ts';
import { globalId } from '../base/ids.ts';
import type { Money } from '../base/money.ts';

export type UsageGroup = 'DAY' | 'MODEL' | 'API_KEY';
export type UsageRow = { key: string; predictions: bigint; units: bigint; computeMicros: bigint; amount: Money };
/** `from` and `to`: the whole hours that were counted. */
export type UsageReport = { rows: UsageRow[]; total: UsageRow; from: Date; to: Date };
export type UsageQuery = { tenantId: string; from: Date; to: Date; groupBy: UsageGroup };

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const DAYS_MAX = 366;

type Sums = { key: string | null; predictions: bigint; units: bigint; computeMicros: bigint; amountNanos: string };

/** Sums a consumer's rollups of the hours that [from, to) touches. Checks the order of the two, then their distance. */
export async function usageReport(tx: Tx, currency: string, query: UsageQuery): Promise<UsageReport> {
  const { tenantId } = query;
  checkSpan(query);
  const [from, to] = [new Date(floor(query.from, HOUR_MS)), new Date(-floor(-query.to.getTime(), HOUR_MS))];
  // Whole days from the rollups of days, the hours before and after from those of hours.
  const [firstDay, endOfDays] = [-floor(-from.getTime(), DAY_MS), Math.max(floor(to, DAY_MS), -floor(-from.getTime(), DAY_MS))];
  const days = [new Date(firstDay), new Date(endOfDays)] as const;
  const rows = await tx.$queryRaw<Sums[]>`
    select case ${query.groupBy} when 'DAY' then to_char(r.starts_at at time zone 'UTC', 'YYYY-MM-DD')
                                 when 'MODEL' then coalesce(l.handle, r.listing_id::text)
                                 else case when r.by_key then r.caller_id::text else 'user' end end "key",
           sum(r.predictions)::bigint predictions, sum(r.units)::bigint units, sum(r.compute_micros)::bigint "computeMicros",
           sum(r.amount_nanos)::text "amountNanos"
      from usage_rollup r
      left join listing l on l.id = r.listing_id
     where r.consumer_tenant_id = ${tenantId}::uuid
       and (r.grain = 'DAY' and r.starts_at >= ${days[0]} and r.starts_at < ${days[1]}
            or r.grain = 'HOUR' and r.starts_at >= ${from} and r.starts_at < ${to} and not (r.starts_at >= ${days[0]} and r.starts_at < ${days[1]}))
     group by 1 order by 1`;
  const shown = rows.map((row) => ({
    key: query.groupBy === 'API_KEY' && row.key !== null && row.key !== 'user' ? globalId('ApiKey', row.key) : (row.key ?? ''),
    predictions: row.predictions,
    units: row.units,
    computeMicros: row.computeMicros,
    amount: { nanos: BigInt(row.amountNanos), currency },
  }));
  const zero = { key: 'total', predictions: 0n, units: 0n, computeMicros: 0n, amount: { nanos: 0n, currency } };
  const total = shown.reduce<UsageRow>(
    (sum, row) => ({
      key: sum.key,
      predictions: sum.predictions + row.predictions,
      units: sum.units + row.units,
      computeMicros: sum.computeMicros + row.computeMicros,
      amount: { nanos: sum.amount.nanos + row.amount.nanos, currency },
    }),
    zero,
  );
  return { rows: shown, total, from, to };
}

/** @throws BAD_USER_INPUT */
export function checkSpan({ from, to }: { from: Date; to: Date }): void {
  if (from >= to) throw badInput('to', 'to must be after from.', { given: to.toISOString(), expected: `after ${from.toISOString()}` });
  if (to.getTime() - from.getTime() > DAYS_MAX * DAY_MS) {
    throw badInput('to', `from and to may be at most ${DAYS_MAX} days apart.`, { expected: `at most ${DAYS_MAX} days` });
  }
}

const floor = (instant: Date | number, stepMs: number) => Math.floor(Number(instant) / stepMs) * stepMs;
