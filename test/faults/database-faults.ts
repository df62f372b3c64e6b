import { setTimeout as sleep } from 'node:timers/promises';
import type { Journal } from './journal.ts';
import type { Weather } from './proxy.ts';
import { each, type Fault, type Running, underLoad } from './round.ts';

const WINDOW_MS = 500;
const FULL = 0.95;
const BACK_MS_MAX = 20_000;
/** R2. */
const FULL_AFTER_MS_MAX = 3_000;

const weather = (name: string, what: Partial<Weather>): Fault => ({
  name,
  processes: [1, 4],
  runs: 1,
  fullRuns: 50,
  perRound: 5,
  round: underLoad(
    each(async ({ stage, callers }) => {
      stage.proxy.setWeather(what);
      await callers.more(100);
      stage.proxy.setWeather({});
      return undefined;
    }),
  ),
});

/** Faults of Postgres and of the way to it. */
export const DATABASE_FAULTS: readonly Fault[] = [
  {
    name: 'Postgres stopped at once',
    processes: [1, 4],
    runs: 1,
    fullRuns: 50,
    perRound: 5,
    notRun: ({ cluster }) => (cluster === null ? 'the Postgres is not ours' : null),
    round: underLoad(each(stopPostgres)),
  },
  weather('connections reset', { resetChance: 0.01 }),
  weather('connections delayed', { delayMsMax: 10 }),
  weather('bytes 1 to 7 at a time', { sliced: true }),
  {
    name: 'all connections cut',
    processes: [1, 4],
    runs: 3,
    fullRuns: 100,
    perRound: 20,
    round: underLoad(
      each(async ({ stage }) => {
        stage.proxy.resetAll();
        return undefined;
      }),
    ),
  },
  {
    name: 'answer of COMMIT lost',
    processes: [1, 4],
    runs: 50,
    fullRuns: 10_000,
    perRound: 500,
    round: underLoad(async ({ stage, callers }, runs) => {
      const goal = stage.proxy.lost + runs;
      await callers.more(100);
      stage.proxy.setWeather({ loseChance: 0.3 });
      while (stage.proxy.lost < goal) await callers.more(1);
      stage.proxy.setWeather({});
      await callers.more(100);
      return [];
    }),
  },
];

async function stopPostgres({ stage, journal, callers, note }: Running): Promise<string[]> {
  const { cluster } = stage.ground;
  await sleep(1_500);
  const before = rateOf(journal, performance.now() - 1_000, 1_000);
  await cluster?.stopAtOnce();
  await sleep(300);
  await cluster?.start();
  const upMs = performance.now();
  await callers.more(1);
  let backMs = Number.POSITIVE_INFINITY;
  while (backMs === Number.POSITIVE_INFINITY && performance.now() - upMs < BACK_MS_MAX) {
    await sleep(25);
    const fromMs = performance.now() - WINDOW_MS;
    if (fromMs > upMs && rateOf(journal, fromMs, WINDOW_MS) >= FULL * before) backMs = fromMs - upMs;
  }
  const told = `full service ${backMs === Number.POSITIVE_INFINITY ? `later than ${BACK_MS_MAX}` : Math.round(backMs)} ms after Postgres was back`;
  note(told);
  return backMs > FULL_AFTER_MS_MAX ? [`${told}, where ${FULL_AFTER_MS_MAX} are allowed`] : [];
}

/** Calls a second that were answered from this time on. */
function rateOf({ answeredAtMs }: Journal, fromMs: number, lengthMs: number): number {
  let count = 0;
  for (let i = answeredAtMs.length - 1; i >= 0 && (answeredAtMs[i] ?? 0) >= fromMs; i--)
    count += (answeredAtMs[i] ?? 0) < fromMs + lengthMs ? 1 : 0;
  return (count * 1000) / lengthMs;
}
