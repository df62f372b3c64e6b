import type { Dice } from '../fuzz/random.ts';
import { Client, inParallel } from '../support/client.ts';
import { useUp } from './caps.ts';
import { Journal } from './journal.ts';
import { attempt, falseRefusals, resolveAll } from './load.ts';
import { monthClosed, monthEnd } from './months.ts';
import { each, type Fault, type Round, underLoad } from './round.ts';
import type { Stage } from './stage.ts';

const DUPLICATED_CALLS = 200;
const SENT_MAX = 20;

/** Faults of callers and of time: hanging up, sending twice, using up a quota, turning months. */
export const CALL_FAULTS: readonly Fault[] = [
  {
    name: 'clients hang up',
    processes: [1, 4],
    runs: 1,
    fullRuns: 100,
    perRound: 10,
    round: underLoad(
      each(async ({ callers, journal, note }) => {
        await callers.more(300);
        const found = journal.entries.filter(({ foundStored }) => foundStored).length;
        note(`${found} retries found what was billed`);
        return found > 0 ? [] : ['no retry found what was billed'];
      }),
      0.3,
    ),
  },
  { name: 'duplicates', processes: [1, 4], runs: 1, fullRuns: 5_000, perRound: 50, round: duplicates },
  { name: 'quota, and random kills', processes: [4, '2×2', 1], runs: 1, fullRuns: 1_000, perRound: 1, round: quota },
  { name: 'month end', processes: [1, 4], runs: 1, fullRuns: 12, perRound: 1, round: monthEnd },
  { name: 'month closed by many at once', processes: [1, 4], runs: 1, fullRuns: 24, perRound: 1, round: monthClosed },
];

/** Each run sends 200 calls, each 1 to 20 times at once. */
async function duplicates(stage: Stage, runs: number, dice: Dice): Promise<Round> {
  const payer = await stage.payer('metered');
  const { url } = stage;
  const journal = new Journal(`twin-${dice.below(2 ** 31)}`);
  const sent = Array.from({ length: runs * DUPLICATED_CALLS }, () => journal.issue()).flatMap((entry) =>
    Array.from({ length: 1 + dice.below(SENT_MAX) }, () => entry),
  );
  using client = new Client(url, 64);
  await inParallel(sent.length, 64, async (i) => {
    const entry = sent[i];
    if (entry) await attempt(client, payer.secret, entry, journal);
  });
  const open = await resolveAll({ url, secret: payer.secret, journal, dice });
  return { payer, journal, wrong: [...open, ...falseRefusals(journal)], notes: [] };
}

async function quota(stage: Stage, _runs: number, dice: Dice): Promise<Round> {
  const payer = await stage.payer('capped');
  const { quotaUnits } = stage.ground;
  const demands = [{ secret: payer.secret, calls: quotaUnits * 1.5, capped: true }];
  return { payer, ...(await useUp(stage, dice, { capacity: quotaUnits, demands })), notes: [] };
}
