import { asSystem, type Database, sqlState, type Tx } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import { refused } from './rules.ts';

/** A month, `YYYY-MM` in UTC, whose books take no entry any more. */
export type ClosedPeriod = { period: string; closedAt: Date };

const REFUSALS: Record<string, Parameters<typeof refused>[0]> = {
  MC010: 'PERIOD_NOT_OVER',
  MC013: 'PERIOD_NOT_FOUND',
  MC012: 'ALREADY_CLOSED',
  MC011: 'PERIOD_IN_USE',
};
/** A lock that could not be had in time, and a deadlock. */
const BUSY = ['55P03', '40P01'];

/**
 * Closes the books of a month; afterwards nothing is billed or posted in it. Pending transfers stay, and are resolved in a later month.
 * @throws BAD_USER_INPUT, then by rule: PERIOD_NOT_OVER, PERIOD_NOT_FOUND, ALREADY_CLOSED, PERIOD_IN_USE (its leases must end first); OVERLOADED
 */
export async function closePeriod(db: Database, period: string): Promise<ClosedPeriod> {
  if (!/^\d{4}-(0[1-9]|1[0-2])$/.test(period)) {
    throw badInput('period', 'period must be a month.', { given: period.slice(0, 40), expected: 'YYYY-MM' });
  }
  try {
    const rows = await asSystem(
      db,
      (tx) => tx.$queryRaw<ClosedPeriod[]>`select ${period}::text period, mercato_close_period(${period}) "closedAt"`,
    );
    return rows[0] as ClosedPeriod;
  } catch (error) {
    const state = sqlState(error) ?? '';
    const rule = REFUSALS[state];
    if (rule) throw refused(rule, { field: 'period', given: period });
    if (BUSY.includes(state)) throw new MercatoError('OVERLOADED', undefined, { retryAfterMs: 2_000 });
    throw error;
  }
}

/** After its end a month stays open so long: a closing cannot be undone, and a clock that is ahead must not make it. */
const GRACE_HOURS = 24;

/**
 * Closes the months that have been over for a day by the database's clock and by `now`, and can be closed; what is still in use, or another process closes, is
 * left for the next time.
 */
export async function closeDuePeriods(db: Database, now = new Date()): Promise<void> {
  // Each month in which a server ran has a partition.
  const due = await asSystem(
    db,
    (tx) => tx.$queryRaw<{ period: string }[]>`
      select p.period from pg_inherits i join pg_class c on c.oid = i.inhrelid,
             lateral (select replace(substr(c.relname::text, length('usage_record_') + 1), '_', '-') period) p
       where i.inhparent = 'usage_record'::regclass and p.period < mercato_period(least(mercato_now(), ${now}) - make_interval(hours => ${GRACE_HOURS}::int))
         and not exists (select from closed_period d where d.period = p.period)
       order by 1`,
  );
  for (const { period } of due) {
    await closePeriod(db, period).catch((error: unknown) => {
      if (!(error instanceof MercatoError)) throw error;
    });
  }
}

/** The closed periods, newest first. */
export function closedPeriods(tx: Tx): Promise<ClosedPeriod[]> {
  return tx.$queryRaw<ClosedPeriod[]>`select period, closed_at "closedAt" from closed_period order by period desc`;
}
