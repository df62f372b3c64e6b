import { setTimeout as sleep } from 'node:timers/promises';
import type { Dice } from '../fuzz/random.ts';
import { Client, inParallel } from '../support/client.ts';
import { Journal, type Outcome } from './journal.ts';
import { attempt, falseRefusals, mayRetry } from './load.ts';
import type { Stage } from './stage.ts';

const CLIENTS = 200;
/** A lease of a process that died ends after two seconds, and is swept twice a second by those that serve. */
const IN_DOUBT_MS = 4_000;
const FREE_AGAIN_MS_MAX = 20_000;

/** Calls of one key; `capped`: of those that share the cap. */
export type Demand = { secret: string; calls: number; capped: boolean };

/**
 * 200 clients, spread over the hosts, send more calls than a cap of `capacity` units lets in, while server processes are killed at random
 * moments. Wrong is QUOTA_EXCEEDED while the cap cannot be full, or for a call that is not under it; and in the end any other number of
 * answers under the cap than its units, and a call beside it without an answer.
 */
export async function useUp(
  stage: Stage,
  dice: Dice,
  { capacity, demands }: { capacity: number; demands: readonly Demand[] },
): Promise<{ journal: Journal; wrong: string[] }> {
  const journal = new Journal(`capped-${dice.below(2 ** 31)}`);
  const calls = demands.flatMap(({ secret, calls, capped }) =>
    Array.from({ length: calls }, () => ({ entry: journal.issue(), secret, capped, place: dice.next() })),
  );
  calls.sort((a, b) => a.place - b.place);
  const wrong: string[] = [];
  const units = new Units();
  const clients = stage.urls.map((url) => new Client(url, CLIENTS / stage.urls.length));
  type Call = (typeof calls)[number];
  const send = ({ entry, secret }: Call): Promise<Outcome> => attempt(dice.pick(clients), secret, entry, journal);
  const isOpen = ({ entry, capped }: Call) => capped && entry.answer === null;
  const answered = () => calls.filter(({ entry, capped }) => capped && entry.answer !== null).length;

  async function untilTold(call: Call): Promise<void> {
    for (;;) {
      const sent = call.capped ? units.send() : null;
      const known = call.entry.answer !== null;
      const outcome = await send(call);
      if ('refused' in outcome && outcome.refused === 'QUOTA_EXCEEDED' && !(call.capped && units.mostAt() >= capacity)) {
        wrong.push(`QUOTA_EXCEEDED with ${call.capped ? `at most ${units.mostAt()} of ${capacity} units used or in flight` : 'no cap'}`);
      }
      sent?.('unknown' in outcome ? 'in doubt' : 'answered' in outcome && !known ? 'used' : 'free');
      if (!mayRetry(outcome)) return;
      await sleep(20 + dice.below(80));
    }
  }

  /** The one after the other at once, as many as there are clients. */
  const all = (some: readonly Call[], width: number, work: (call: Call) => Promise<unknown>) =>
    inParallel(some.length, width, async (i) => {
      const call = some[i];
      if (call) await work(call);
    });

  try {
    const points = Array.from({ length: 2 + Math.floor(capacity / 10_000) }, () => dice.below(capacity));
    await killingAt(stage, dice, points, answered, all(calls, CLIENTS, untilTold), units);
    await stage.recovered();
    // What a killed process had in flight is free again: whoever was refused meanwhile gets it now.
    const giveUpMs = performance.now() + FREE_AGAIN_MS_MAX;
    while (answered() < capacity && performance.now() < giveUpMs) {
      await all(calls.filter(isOpen), 16, async (call) => answered() < capacity && (await send(call)));
      await sleep(100);
    }
    await all(calls.filter(isOpen), CLIENTS, send);
  } finally {
    for (const client of clients) client[Symbol.dispose]();
  }
  if (answered() !== capacity) wrong.push(`${answered()} calls were answered under a cap of ${capacity}`);
  const beside = calls.filter(({ entry, capped }) => !capped && entry.answer === null).length;
  if (beside > 0) wrong.push(`${beside} calls beside the cap were not answered`);
  wrong.push(...falseRefusals(journal).filter((text) => !text.startsWith('QUOTA_EXCEEDED')));
  return { journal, wrong };
}

/** Kills a server process each time that `progress` comes to one of the points, until `work` has ended. */
export async function killingAt(
  stage: Stage,
  dice: Dice,
  points: readonly number[],
  progress: () => number,
  work: Promise<unknown>,
  units: Units,
): Promise<void> {
  let ended = false;
  const kills = (async () => {
    for (const point of points.toSorted((a, b) => a - b)) {
      while (!ended && progress() < point) await sleep(5);
      const pid = dice.pick(stage.servers());
      stage.kill(pid);
      // Who is the only one is not replaced by another.
      if (pid === stage.server.pid) await units.whileNobodyServes(stage.recovered());
    }
  })();
  try {
    await work;
  } finally {
    ended = true;
    await kills;
  }
}

/** The most units that can be used or in flight, as far as callers can know. */
export class Units {
  private used = 0;
  private open = 0;
  private readonly doubtSinceMs: number[] = [];
  private servedSinceMs = 0;

  send(): (became: 'used' | 'free' | 'in doubt') => void {
    this.open++;
    return (became) => {
      this.open--;
      if (became === 'used') this.used++;
      if (became === 'in doubt') this.doubtSinceMs.push(performance.now());
    };
  }

  /** What is in doubt stays so: nobody sweeps. */
  async whileNobodyServes(recovered: Promise<void>): Promise<void> {
    this.servedSinceMs = Number.POSITIVE_INFINITY;
    await recovered;
    this.servedSinceMs = performance.now();
  }

  mostAt(): number {
    const now = performance.now();
    const inDoubt = this.doubtSinceMs.filter((sinceMs) => Math.max(sinceMs, this.servedSinceMs) + IN_DOUBT_MS > now);
    // The one that asks is open, and has no unit.
    return this.used + this.open - 1 + inDoubt.length;
  }
}
