import { setTimeout as sleep } from 'node:timers/promises';
import type { Dice } from '../fuzz/random.ts';
import { Client } from '../support/client.ts';
import { ask, setClock } from './clock.ts';
import { CALLS_AROUND, type Round, type Running, underLoad } from './round.ts';
import type { Stage } from './stage.ts';

/** Far enough that a start and the first calls fall into the old month. */
const BEFORE_START_S = 120;
const BEFORE_END_S = 1;

/** Starts the server before a month's end by the database's clock, and lets the month turn while calls run: both months are billed. */
export function monthEnd(stage: Stage, runs: number, dice: Dice): Promise<Round> {
  return overTheEnd(stage, runs, dice, async ({ callers }, old) => {
    while ((await periodOf(stage)) === old) await callers.more(1);
    return [];
  });
}

/**
 * As `monthEnd`, while many callers at once ask for the old month to be closed, from before its end until it is, and a server process is killed with
 * calls of it in flight: it is closed once, and no call is refused for good.
 */
export function monthClosed(stage: Stage, runs: number, dice: Dice): Promise<Round> {
  return overTheEnd(stage, runs, dice, async ({ callers, note }, old) => {
    const token = await stage.operator();
    const closing = Promise.all(Array.from({ length: CLOSERS }, () => untilClosed(stage, token, old)));
    while ((await periodOf(stage)) === old) await callers.more(1);
    stage.kill(dice.pick(stage.servers()));
    await stage.recovered();
    const told = (await closing).flat();
    const closed = told.filter((outcome) => outcome === 'closed').length;
    const rows = await ask(stage, 'select from closed_period where period = $1', [old]);
    note(`the month was closed after ${told.filter((outcome) => outcome === 'PERIOD_IN_USE').length} refusals for calls in flight`);
    return [
      ...(closed > 1 ? [`the month was closed ${closed} times`] : []),
      ...(rows.length === 1 ? [] : [`the month is closed in ${rows.length} rows`]),
      ...told.filter((outcome) => !EXPECTED.has(outcome)).map((outcome) => `the closing of the month was answered with ${outcome}`),
    ];
  });
}

const CLOSERS = 8;
const CLOSE_MS_MAX = 60_000;
const CLOSE = 'mutation ($period: String!) { closePeriod(input: { period: $period }) { period { closedAt } } }';
const EXPECTED = new Set(['closed', 'ALREADY_CLOSED', 'PERIOD_NOT_OVER', 'PERIOD_IN_USE', 'OVERLOADED', 'no answer']);

/** What each attempt came to, the last of them `closed` or ALREADY_CLOSED. */
async function untilClosed(stage: Stage, token: string, period: string): Promise<string[]> {
  using client = new Client(stage.url, 1);
  const told: string[] = [];
  for (const giveUpMs = performance.now() + CLOSE_MS_MAX; performance.now() < giveUpMs; ) {
    const answer = await client.send(CLOSE, { period }, token).catch(() => null);
    const refusal = answer?.errors?.[0]?.extensions;
    const outcome = answer === null ? 'no answer' : refusal ? String(refusal.rule ?? refusal.code) : 'closed';
    told.push(outcome);
    if (outcome === 'closed' || outcome === 'ALREADY_CLOSED') return told;
    await sleep(20);
  }
  return [...told, 'never'];
}

/** Under load from before a month's end until after it, with `turning` at the end. */
async function overTheEnd(
  stage: Stage,
  runs: number,
  dice: Dice,
  turning: (running: Running, old: string) => Promise<string[]>,
): Promise<Round> {
  await stage.end('SIGTERM');
  await setMonthEnd(stage, BEFORE_START_S);
  await stage.start();
  const round = await underLoad(async (running) => {
    await running.callers.more(CALLS_AROUND);
    const old = await periodOf(stage);
    await setMonthEnd(stage, BEFORE_END_S);
    const wrong = await turning(running, old);
    await running.callers.more(CALLS_AROUND);
    return wrong;
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

async function periodOf(stage: Stage): Promise<string> {
  const [row] = await ask<{ period: string }>(stage, 'select mercato_period(mercato_now()) period');
  if (!row) throw new Error('a period without a row');
  return row.period;
}
