import type { Dice } from '../fuzz/random.ts';
import { ask, setClock } from './clock.ts';
import { CALLS_AROUND, type Round, underLoad } from './round.ts';
import type { Stage } from './stage.ts';

/** Far enough that a start and the first calls fall into the old month. */
const BEFORE_START_S = 120;
const BEFORE_END_S = 1;

/** Starts the server before a month's end by the database's clock, and lets the month turn while calls run: both months are billed. */
export async function monthEnd(stage: Stage, runs: number, dice: Dice): Promise<Round> {
  await stage.end('SIGTERM');
  await setMonthEnd(stage, BEFORE_START_S);
  await stage.start();
  const round = await underLoad(async ({ callers }) => {
    await callers.more(CALLS_AROUND);
    const old = await periodOf(stage);
    await setMonthEnd(stage, BEFORE_END_S);
    while ((await periodOf(stage)) === old) await callers.more(1);
    await callers.more(CALLS_AROUND);
    return [];
  })(stage, runs, dice);
  const [row] = await ask<{ months: string }>(
    stage,
    'select count(distinct period)::text months from usage_record where consumer_tenant_id = $1',
    [round.payer.tenantId],
  );
  if (row?.months !== '2') round.wrong.push(`the calls are billed in ${row?.months} months, not in two`);
  return round;
}

/** From now on the database's clock is as far before the end of its month. */
function setMonthEnd(stage: Stage, seconds: number): Promise<void> {
  const month = "date_trunc('month', mercato_now() at time zone 'UTC') at time zone 'UTC'";
  return setClock(stage, `(${month} + interval '1 month' - interval '${seconds} s')`);
}

async function periodOf(stage: Stage): Promise<string | undefined> {
  const [row] = await ask<{ period: string }>(stage, 'select mercato_period(mercato_now()) period');
  return row?.period;
}
