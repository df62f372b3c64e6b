import { Dice } from '../fuzz/random.ts';
import { recount } from './recount.ts';
import type { Fault } from './round.ts';
import { type Layout, PRICE_NANOS } from './stage.ts';
import type { Stages } from './stages.ts';

/** One line of the table: what a fault did to a number of server processes. */
export type Result = {
  name: string;
  processes: Layout;
  runs: number;
  calls: number;
  acknowledged: number;
  /** Calls that were at some time without an answer. */
  unknown: number;
  lost: number;
  doubled: number;
  stuck: number;
  nanosOff: bigint;
  /** Audits that found something. */
  audit: number;
  /** What else was not as it must be, in words. */
  wrong: string[];
  notes: string[];
  seconds: number;
  /** Why it was not run. */
  notRun: string | null;
};

function isClean({ lost, doubled, stuck, nanosOff, audit, wrong }: Result): boolean {
  return lost === 0 && doubled === 0 && stuck === 0 && nanosOff === 0n && audit === 0 && wrong.length === 0;
}

export function verdictOf(result: Result): 'clean' | 'NOT CLEAN' | 'NOT RUN' {
  if (result.notRun !== null) return 'NOT RUN';
  return isClean(result) ? 'clean' : 'NOT CLEAN';
}

/** 1 where something is not clean; 3 where all is, but for what was not run and is not allowed to be; else 0. */
export function exitCodeOf(results: readonly Result[], allowNotRun: boolean): 0 | 1 | 3 {
  const verdicts = results.map(verdictOf);
  if (verdicts.includes('NOT CLEAN')) return 1;
  return verdicts.includes('NOT RUN') && !allowNotRun ? 3 : 0;
}

/** Does a fault so many times, with a recount and an audit after each round of it. Where it is not clean, its stage is nobody else's. */
export async function runFault(
  fault: Fault,
  { stages, processes, seed, runs }: { stages: Stages; processes: Layout; seed: number; runs: number },
): Promise<Result> {
  const startedMs = performance.now();
  const notRun = fault.notRun?.(stages.ground) ?? null;
  const counts = { calls: 0, acknowledged: 0, unknown: 0, lost: 0, doubled: 0, stuck: 0, nanosOff: 0n, audit: 0 };
  const result: Result = { name: fault.name, processes, runs: 0, ...counts, wrong: [], notes: [], seconds: 0, notRun };
  if (notRun !== null) return result;
  const dice = new Dice(seed);
  try {
    const stage = await stages.take(processes, fault.env);
    while (result.runs < runs) {
      const count = Math.min(fault.perRound, runs - result.runs);
      const { payer, journal, wrong, notes } = await fault.round(stage, count, dice);
      result.runs += count;
      result.calls += journal.entries.length;
      result.acknowledged += journal.acknowledged;
      result.unknown += journal.unknown;
      result.wrong.push(...wrong);
      result.notes.push(...notes);
      const { lost, doubled, stuck, nanosOff } = await recount(stage.databaseUrl, payer.tenantId, PRICE_NANOS, journal);
      result.lost += lost;
      result.doubled += doubled;
      result.stuck += stuck;
      result.nanosOff += nanosOff;
      await stage.market.audit().catch((error: unknown) => {
        result.audit++;
        result.wrong.push(String(error));
      });
    }
  } catch (error) {
    result.wrong.push(`it broke off: ${error instanceof Error ? error.stack : String(error)}`);
  }
  if (!isClean(result)) await stages.close();
  result.seconds = (performance.now() - startedMs) / 1000;
  return result;
}

const HEAD = [
  'fault',
  'processes',
  'runs',
  'calls',
  'acknowledged',
  'unknown',
  'lost',
  'doubled',
  'stuck',
  'nanos off',
  'audit',
  'wrong',
  's',
];

/** One line a result, its columns aligned; Markdown. */
export function tableOf(results: readonly Result[]): string {
  const rows = results.map(cells);
  const widths = HEAD.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) => `| ${widths.map((width, column) => (row[column] ?? '').padEnd(width)).join(' | ')} |`;
  return [line(HEAD), `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`, ...rows.map(line)].join('\n');
}

function cells(result: Result): string[] {
  const { name, processes, notRun, runs, calls, acknowledged, unknown, lost, doubled, stuck, nanosOff, audit, wrong, seconds } = result;
  if (notRun !== null) return [name, String(processes), `NOT RUN: ${notRun}`];
  const figures = [runs, calls, acknowledged, unknown, lost, doubled, stuck, nanosOff].map(String);
  return [name, String(processes), ...figures, audit === 0 ? 'clean' : `broken ${audit}`, String(wrong.length), seconds.toFixed(1)];
}
