import { setTimeout as sleep } from 'node:timers/promises';
import type { Dice } from '../fuzz/random.ts';
import { Client, inParallel } from '../support/client.ts';
import { type Entry, Journal } from './journal.ts';
import { attempt, falseRefusals, mayRetry, resolveAll } from './load.ts';
import { monthEnd } from './months.ts';
import { each, type Fault, type Round, underLoad } from './round.ts';
import type { Stage } from './stage.ts';

const DUPLICATED_CALLS = 200;
const SENT_MAX = 20;
const CLIENTS = 200;
/** A lease of a process that died ends after two seconds, and is swept twice a second. */
const IN_DOUBT_MS = 4_000;

/** Faults of callers and of time: hanging up, sending twice, using up a quota, turning months. */
export const CALL_FAULTS: readonly Fault[] = [
  {
    name: 'clients hang up',
    processes: [1, 4],
    runs: 1,
    fullRuns: 100,
    perRound: 10,
    round: underLoad(
      each(async ({ callers }) => {
        await callers.more(300);
        return undefined;
      }),
      0.3,
    ),
  },
  { name: 'duplicates', processes: [1, 4], runs: 1, fullRuns: 5_000, perRound: 50, round: duplicates },
  { name: 'quota, and random kills', processes: [4], runs: 2, fullRuns: 1_000, perRound: 1, round: quota },
  { name: 'month end', processes: [1, 4], runs: 1, fullRuns: 12, perRound: 1, round: monthEnd },
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

/**
 * 200 clients share a quota and send half as many calls again as it has units, while server processes are killed at random moments. Wrong is a
 * refusal for the quota while it cannot be full, and any other number of calls answered in the end than the quota has units.
 */
async function quota(stage: Stage, _runs: number, dice: Dice): Promise<Round> {
  const payer = await stage.payer('capped');
  const { url } = stage;
  const { quotaUnits } = stage.ground;
  const journal = new Journal(`capped-${dice.below(2 ** 31)}`);
  const entries = Array.from({ length: quotaUnits * 1.5 }, () => journal.issue());
  const wrong: string[] = [];
  const units = new Units();
  using client = new Client(url, CLIENTS);

  async function untilTold(entry: Entry): Promise<void> {
    for (;;) {
      const sent = units.send(entry.answer !== null);
      const outcome = await attempt(client, payer.secret, entry, journal);
      if ('refused' in outcome && outcome.refused === 'QUOTA_EXCEEDED' && units.mostAt() < quotaUnits) {
        wrong.push(`QUOTA_EXCEEDED with at most ${units.mostAt()} of ${quotaUnits} units used or in flight`);
      }
      sent('unknown' in outcome ? 'in doubt' : 'answered' in outcome ? 'used' : 'free');
      if (!mayRetry(outcome)) return;
      await sleep(20 + dice.below(80));
    }
  }

  const points = Array.from({ length: 2 + Math.floor(quotaUnits / 10_000) }, () => dice.below(quotaUnits)).sort((a, b) => a - b);
  let told = false;
  const kills = (async () => {
    for (const point of points) {
      while (!told && journal.acknowledged < point) await sleep(5);
      stage.kill(dice.pick(stage.servers()));
    }
  })();
  await inParallel(entries.length, CLIENTS, async (i) => {
    const entry = entries[i];
    if (entry) await untilTold(entry);
  });
  told = true;
  await kills;
  await stage.recovered();
  // What a killed process had in flight is free again: whoever was refused meanwhile gets it now.
  const giveUpMs = performance.now() + 20_000;
  while (journal.acknowledged < quotaUnits && performance.now() < giveUpMs) {
    const refused = journal.unresolved();
    await inParallel(refused.length, 16, async (i) => {
      const entry = refused[i];
      if (entry && journal.acknowledged < quotaUnits) await attempt(client, payer.secret, entry, journal);
    });
    await sleep(100);
  }
  const rest = journal.unresolved();
  await inParallel(rest.length, CLIENTS, async (i) => {
    const entry = rest[i];
    if (entry) await attempt(client, payer.secret, entry, journal);
  });
  if (journal.acknowledged !== quotaUnits) wrong.push(`${journal.acknowledged} calls were answered under a quota of ${quotaUnits}`);
  wrong.push(...falseRefusals(journal).filter((text) => !text.startsWith('QUOTA_EXCEEDED')));
  return { payer, journal, wrong, notes: [] };
}

/** The most units that can be used or in flight, as far as callers can know. */
class Units {
  private used = 0;
  private open = 0;
  private readonly doubtUntilMs: number[] = [];

  send(again: boolean): (became: 'used' | 'free' | 'in doubt') => void {
    this.open++;
    return (became) => {
      this.open--;
      if (became === 'used' && !again) this.used++;
      if (became === 'in doubt') this.doubtUntilMs.push(performance.now() + IN_DOUBT_MS);
    };
  }

  mostAt(): number {
    const now = performance.now();
    // The one that asks is open, and has no unit.
    return this.used + this.open - 1 + this.doubtUntilMs.filter((untilMs) => untilMs > now).length;
  }
}
