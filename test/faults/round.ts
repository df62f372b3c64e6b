import type { Dice } from '../fuzz/random.ts';
import { Journal } from './journal.ts';
import { type Callers, falseRefusals, resolveAll, startCallers } from './load.ts';
import type { Layout, Payer, Stage } from './stage.ts';

/** What a round of runs leaves behind: the journal of all calls of one payer, and what was wrong beside the books. */
export type Round = { payer: Payer; journal: Journal; wrong: string[]; notes: string[] };

/** A named fault; each of its runs does it once. */
export type Fault = {
  name: string;
  processes: readonly Layout[];
  runs: number;
  /** As the goals have it. */
  fullRuns: number;
  /** Runs between two recounts. */
  perRound: number;
  env?: Record<string, string>;
  /** Why it cannot be done here; null: it can. */
  notRun?: (ground: Stage['ground']) => string | null;
  round(stage: Stage, runs: number, dice: Dice): Promise<Round>;
};

/** What a fault under load has at hand. `note` tells the reader something. */
export type Running = { stage: Stage; dice: Dice; payer: Payer; journal: Journal; callers: Callers; note(text: string): void };

export const WIDTH = 24;
/** Answers before and after each fault. */
export const CALLS_AROUND = 150;

/**
 * Calls without a pause while `inject` does the fault `runs` times; then what is not answered is sent until it is. Wrong is what `inject`
 * says, a server process that ends by itself, a refusal that is final, and a call that is never answered.
 */
export function underLoad(inject: (running: Running, runs: number) => Promise<string[]>, hangUp = 0): Fault['round'] {
  return async (stage, runs, dice) => {
    const payer = await stage.payer('metered');
    const journal = new Journal(`call-${dice.below(2 ** 31)}`);
    const { url } = stage;
    const notes: string[] = [];
    const callers = startCallers({ url, secret: payer.secret, journal, width: WIDTH, dice, hangUp });
    const wrong: string[] = [];
    try {
      wrong.push(...(await inject({ stage, dice, payer, journal, callers, note: (text) => notes.push(text) }, runs)));
      stage.proxy.setWeather({});
      wrong.push(...stage.deaths());
      await stage.recovered();
    } finally {
      await callers.stop();
    }
    wrong.push(...(await resolveAll({ url, secret: payer.secret, journal, dice })), ...falseRefusals(journal));
    return { payer, journal, wrong, notes };
  };
}

/** One after another, with calls before each and after the last. */
export function each(inject: (running: Running) => Promise<string[] | undefined>): (running: Running, runs: number) => Promise<string[]> {
  return async (running, runs) => {
    const wrong: string[] = [];
    for (let run = 0; run < runs; run++) {
      await running.callers.more(CALLS_AROUND);
      wrong.push(...((await inject(running)) ?? []));
    }
    await running.callers.more(CALLS_AROUND);
    return wrong;
  };
}
