import { load, type Measured } from './load.ts';
import { cpuSeconds } from './processes.ts';

type Parts = 'server' | 'runners' | 'database';

/** One of two servers that are compared: where its load goes, and whose CPU time is its own. */
export type Side = {
  name: string;
  url: string;
  headers: Record<string, string>;
  body: string;
  pids(): Promise<Record<Parts, readonly number[]>>;
};

/** Microseconds of CPU per request, of each part and of the sender. */
export type Cost = Record<Parts | 'sender', number>;
export type Round = Measured & { cost: Cost };

export type Effort = { rounds: number; seconds: number; warmSeconds: number };

/**
 * Loads the sides in turns, so that noise of the machine falls on both, and alternates who begins; first each answers once and is warmed up. The rounds of a
 * side, in the order of `sides`.
 */
export async function inTurns(sides: readonly Side[], connections: number, effort: Effort): Promise<Round[][]> {
  for (const { url, headers, body } of sides) {
    const given = { 'content-type': 'application/json', ...headers };
    await (await fetch(url, { method: 'POST', headers: given, body })).arrayBuffer();
  }
  if (effort.warmSeconds > 0) for (const side of sides) await load({ ...side, connections, seconds: effort.warmSeconds });
  const rounds: Round[][] = sides.map(() => []);
  for (let round = 0; round < effort.rounds; round++) {
    const order = [...sides.keys()];
    if (round % 2 === 1) order.reverse();
    for (const index of order) {
      const side = sides[index];
      if (side) rounds[index]?.push(await measure(side, connections, effort.seconds));
    }
  }
  return rounds;
}

async function measure(side: Side, connections: number, seconds: number): Promise<Round> {
  const pids = await side.pids();
  const before = secondsOf(pids);
  const measured = await load({ ...side, connections, seconds });
  const after = secondsOf(pids);
  const micros = (part: Parts) => ((after[part] - before[part]) / measured.requests) * 1e6;
  const sender = (measured.senderSeconds / measured.requests) * 1e6;
  return { ...measured, cost: { server: micros('server'), runners: micros('runners'), database: micros('database'), sender } };
}

function secondsOf({ server, runners, database }: Record<Parts, readonly number[]>): Record<Parts, number> {
  return { server: cpuSeconds(server), runners: cpuSeconds(runners), database: cpuSeconds(database) };
}

/** CPU time in words, at the median of the rounds. */
export function costLine(name: string, rounds: readonly Round[]): string {
  const part = (key: keyof Cost) => `${key} ${median(rounds.map(({ cost }) => cost[key])).toFixed(0)}`;
  return `${name}, CPU µs per request: ${part('server')}, ${part('runners')}, ${part('database')}, ${part('sender')}`;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}
