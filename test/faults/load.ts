import { setTimeout as sleep } from 'node:timers/promises';
import type { Dice } from '../fuzz/random.ts';
import { Client, inParallel, predictDigit } from '../support/client.ts';
import type { Entry, Journal, Outcome } from './journal.ts';

/** Refusals that say themselves that the same call may succeed later. */
export const RETRYABLE: ReadonlySet<string> = new Set(['OVERLOADED', 'DEADLINE_EXCEEDED', 'RATE_LIMITED']);
const PAUSE_MS = 50;
/** After a fault has passed, an answer to every retry comes within this. */
const RESOLVE_MS_MAX = 60_000;
const SENT_AGAIN = 100;

/** One attempt. */
export async function attempt(client: Client, secret: string, entry: Entry, journal: Journal, signal?: AbortSignal): Promise<Outcome> {
  const outcome = await predictDigit(client, secret, { idempotencyKey: entry.key }, signal).then(
    (given): Outcome => {
      if (typeof given !== 'string') return { answered: given };
      return given === 'OUTCOME_UNKNOWN' || given === 'NO_ANSWER' ? { unknown: given } : { refused: given };
    },
    (error: unknown): Outcome => {
      if (error instanceof Error && 'code' in error && error.code === 'ECONNREFUSED') return { unsent: true };
      return { unknown: error instanceof Error ? error.message : String(error) };
    },
  );
  journal.note(entry, outcome);
  return outcome;
}

/** Codes that no fault of this kind excuses. */
export function falseRefusals(journal: Journal): string[] {
  return [...journal.refusals()].filter(([code]) => !RETRYABLE.has(code)).map(([code, count]) => `${code} ${count} times`);
}

/** Whether a call may be sent again with its key. */
export function mayRetry(outcome: Outcome): boolean {
  return 'unknown' in outcome || 'unsent' in outcome || ('refused' in outcome && RETRYABLE.has(outcome.refused));
}

export type Callers = {
  /** Resolves when so many more calls are acknowledged than now; rejects where that takes longer than a minute. */
  more(count: number): Promise<void>;
  /** Resolves when every caller has had its last answer. */
  stop(): Promise<void>;
};

/**
 * Callers that send one call after another, each with a key of its own, and send some of those that failed again at once; the others stay
 * unresolved. `hangUp`: the share of calls whose client goes away within 30 ms.
 */
export function startCallers(given: {
  url: string;
  secret: string;
  journal: Journal;
  width: number;
  dice: Dice;
  hangUp?: number;
}): Callers {
  const { url, secret, journal, width, dice, hangUp = 0 } = given;
  const client = new Client(url, width);
  let stopped = false;

  async function one(): Promise<void> {
    const entry = journal.issue();
    for (let round = 0; round < 3; round++) {
      const signal = dice.next() < hangUp ? AbortSignal.timeout(dice.below(30)) : undefined;
      const outcome = await attempt(client, secret, entry, journal, signal);
      if (stopped || !mayRetry(outcome)) return;
      if (signal === undefined) await sleep(PAUSE_MS);
      if (dice.next() < 0.5) return;
    }
  }

  const ended = Promise.all(
    Array.from({ length: width }, async () => {
      while (!stopped) await one();
    }),
  );
  return {
    async more(count) {
      const goal = journal.acknowledged + count;
      const giveUpMs = performance.now() + 60_000;
      while (journal.acknowledged < goal) {
        if (performance.now() > giveUpMs)
          throw new Error(`no service: ${goal - journal.acknowledged} answers still missing after a minute`);
        await sleep(10);
      }
    },
    async stop() {
      stopped = true;
      await ended;
      client[Symbol.dispose]();
    },
  };
}

/** Retries what is `open`, each with its key, until it is answered, and sends a hundred of the others once more. Says what stays open. */
export async function resolveAll(given: {
  url: string;
  secret: string;
  journal: Journal;
  dice: Dice;
  open?: readonly Entry[];
}): Promise<string[]> {
  const { url, secret, journal, dice, open = journal.unresolved() } = given;
  using client = new Client(url, 32);
  const again = Array.from({ length: Math.min(SENT_AGAIN, journal.acknowledged) }, () => dice.pick(journal.entries));
  const giveUpMs = performance.now() + RESOLVE_MS_MAX;
  await inParallel(open.length, 32, async (i) => {
    const entry = open[i];
    while (entry && entry.answer === null && performance.now() < giveUpMs) {
      const outcome = await attempt(client, secret, entry, journal);
      if ('answered' in outcome) return;
      if (!mayRetry(outcome)) return;
      await sleep(PAUSE_MS);
    }
  });
  await inParallel(again.length, 32, async (i) => {
    const entry = again[i];
    if (entry?.answer) await attempt(client, secret, entry, journal);
  });
  return open
    .filter(({ answer }) => answer === null)
    .map(({ key, refused }) => `${key} was never answered (${refused.at(-1) ?? 'no answer'})`);
}
