import { setTimeout as sleep } from 'node:timers/promises';
import { inParallel } from '../support/client.ts';
import { Ledger } from './ledger.ts';
import { killAt } from './moments.ts';
import { POINTS } from './proxy.ts';
import { CALLS_AROUND, type Fault, type Running, underLoad } from './round.ts';
import type { Deed } from './wire.ts';

const CHAINS_AT_ONCE = 8;
/** How often each kind of chain is done in a turn. */
const REPEATS = 2;
/** Calls answered between two faults. */
const SERVED_BETWEEN = 20;

/** So long the answers of COMMITs may be lost. */
const LOSING_MS = 200;

/**
 * Mutations of money and keys beside calls, each sent one to five times, while server processes are killed, connections to Postgres cut and answers of COMMITs lost; and
 * while the process that does them is killed at each point of its COMMIT.
 */
export const MONEY_FAULTS: readonly Fault[] = [
  { name: 'money moved, kills and cuts', processes: [1, 4], runs: 1, fullRuns: 100, perRound: 5, round: withLedger(moveAll) },
  { name: 'money moved, killed at the COMMIT', processes: [1, 4], runs: 3, fullRuns: 180, perRound: 18, round: withLedger(killAtCommits) },
];

/** Under load; in the end the ledger is compared with the database's. */
function withLedger(work: (ledger: Ledger, running: Running, runs: number) => Promise<string[]>): Fault['round'] {
  return async (stage, runs, dice) => {
    let ledger: Ledger | null = null;
    const round = await underLoad(async (running, count) => {
      using made = new Ledger(running, await stage.operator());
      ledger = made;
      return [...(await work(made, running, count)), ...made.wrong];
    })(stage, runs, dice);
    const kept = ledger as Ledger | null;
    if (kept) round.wrong.push(...(await kept.compared()));
    return round;
  };
}

/** Each run is of another point and deed, until each deed was at each point. */
async function killAtCommits(ledger: Ledger, { stage, callers }: Running, runs: number): Promise<string[]> {
  await callers.more(CALLS_AROUND);
  const wrong: string[] = [];
  for (let run = 0; run < runs; run++) {
    const [deed, begin] = COMMITTED[(run + Math.floor(run / COMMITTED.length)) % COMMITTED.length] ?? COMMITTED[0];
    const act = await begin(ledger);
    wrong.push(...(await killAt(stage, POINTS[run % POINTS.length] ?? POINTS[0], deed, act)));
    await callers.more(SERVED_BETWEEN);
  }
  return wrong;
}

/** What is done once what comes before it is. */
const COMMITTED: readonly [Beginning, ...Beginning[]] = [
  ['transfer', async (ledger) => () => ledger.credit(100n)],
  ['api_key', async (ledger) => () => ledger.apiKey()],
  [
    'transfer',
    async (ledger) => {
      const id = await ledger.adjust('OUT', 20n, true);
      return () => ledger.oneOf([ledger.post(id, 8n, -8n), ledger.cancel(id)]);
    },
  ],
  [
    'transfer',
    async (ledger) => {
      const id = await ledger.adjust('IN', 11n);
      return () => ledger.oneOf([ledger.reverse(id, -11n)]);
    },
  ],
  ['transfer', async (ledger) => () => ledger.adjust('IN', 7n, true).then((id) => ledger.oneOf([ledger.cancel(id)]))],
  ['transfer', async (ledger) => () => ledger.payOut(1n, false)],
];
type Beginning = [Deed, (ledger: Ledger) => Promise<() => Promise<unknown>>];

/** Cuts and lost answers before kills: a server process that is started while its connections are cut ends, as it should. */
async function moveAll(ledger: Ledger, { stage, dice, callers, note }: Running, runs: number): Promise<string[]> {
  const cut = async () => stage.proxy.resetAll();
  const lose = async () => {
    stage.proxy.setWeather({ loseChance: 0.3 });
    await sleep(LOSING_MS);
    stage.proxy.setWeather({});
  };
  const kill = async () => {
    stage.kill(dice.pick(stage.servers()));
    await stage.recovered();
  };
  await callers.more(CALLS_AROUND);
  const wrong: string[] = [];
  let faults = 0;
  for (let turn = 0; turn < 2 * runs; turn++) {
    const chains = Array.from({ length: REPEATS }, () => CHAINS).flat();
    let over = false;
    const faulting = (async () => {
      for (; !over; faults++) {
        await sleep(dice.below(300));
        await (turn >= runs ? kill : faults % 2 === 0 ? cut : lose)();
        await callers.more(SERVED_BETWEEN);
      }
    })();
    try {
      await inParallel(chains.length, CHAINS_AT_ONCE, async (i) => void (await chains[i]?.(ledger)));
    } finally {
      over = true;
      await faulting;
    }
    wrong.push(...stage.deaths());
    await stage.recovered();
  }
  note(`${ledger.sent} mutations, ${faults} kills and cuts`);
  return wrong;
}

/** What is done one after the other, and where two are done at once, only one of them can be. */
const CHAINS: readonly ((ledger: Ledger) => Promise<unknown>)[] = [
  (ledger) => ledger.credit(100n),
  (ledger) => ledger.apiKey(),
  async (ledger) => {
    const id = await ledger.adjust('IN', 11n);
    await ledger.oneOf([ledger.reverse(id, -11n), ledger.reverse(id, -11n)]);
  },
  (ledger) => ledger.adjust('OUT', 5n),
  async (ledger) => {
    const id = await ledger.adjust('OUT', 20n, true);
    await ledger.oneOf([ledger.post(id, 8n, -8n), ledger.cancel(id)]);
  },
  async (ledger) => {
    const id = await ledger.adjust('IN', 30n, true);
    await ledger.oneOf([ledger.post(id, null, 30n), ledger.post(id, 3n, 3n)]);
  },
  async (ledger) => {
    const id = await ledger.payOut(2n, true);
    await ledger.oneOf([ledger.cancel(id), ledger.post(id, 1n, 0n)]);
  },
  (ledger) => ledger.payOut(1n, false),
  (ledger) => ledger.reverseCharge(),
];
