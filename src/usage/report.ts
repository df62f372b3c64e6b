import type { Tx } from '../base/database.ts';
import { badInput } from '../base/errors.ts';
import { globalId } from '../base/ids.ts';
import type { Money } from '../base/money.ts';

export type UsageGroup = 'DAY' | 'MODEL' | 'API_KEY';
export type UsageRow = { key: string; predictions: bigint; units: bigint; computeMicros: bigint; amount: Money };
export type UsageReport = { rows: UsageRow[]; total: UsageRow };
export type UsageQuery = { tenantId: string; from: Date; to: Date; groupBy: UsageGroup };

const DAY_MS = 86_400_000;
const DAYS_MAX = 366;

type Sums = { key: string | null; predictions: bigint; units: bigint; computeMicros: bigint; amountNanos: string };

/** Sums a consumer's records of [from, to). Checks the order of the two, then their distance. */
export async function usageReport(tx: Tx, currency: string, query: UsageQuery): Promise<UsageReport> {
  const { from, to, tenantId } = query;
  if (from >= to) throw badInput('to', 'to must be after from.', { given: to.toISOString(), expected: `after ${from.toISOString()}` });
  if (to.getTime() - from.getTime() > DAYS_MAX * DAY_MS) {
    throw badInput('to', `from and to may be at most ${DAYS_MAX} days apart.`, { expected: `at most ${DAYS_MAX} days` });
  }
  const rows = await tx.$queryRaw<Sums[]>`
    select case ${query.groupBy} when 'DAY' then to_char(r.created_at at time zone 'UTC', 'YYYY-MM-DD')
                                 when 'MODEL' then coalesce(l.handle, r.listing_id::text)
                                 else coalesce(r.api_key_id::text, 'user') end "key",
           count(*) predictions, sum(r.units)::bigint units, sum(r.compute_micros)::bigint "computeMicros",
           sum(r.amount_nanos)::text "amountNanos"
      from usage_record r
      left join listing l on l.id = r.listing_id
     where r.consumer_tenant_id = ${tenantId}::uuid and r.created_at >= ${from} and r.created_at < ${to}
       and r.period between mercato_period(${from}::timestamptz - interval '1 day') and mercato_period(${to}::timestamptz)
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
  return { rows: shown, total };
}
