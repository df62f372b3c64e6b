import { median } from './sides.ts';

/** What a measurement hands over for the table. `value` is what `mark` bounds; `rounds` are its values, one a round. */
export type Figure = {
  id: string;
  what: string;
  unit: '×' | 'ms' | 's' | '/s';
  rounds: readonly number[];
  value: number;
  ours: string;
  theirs: string;
  mark: Bound | null;
  goal: Bound;
  /** Lines for the reader below the table. */
  notes: readonly string[];
};

/** At least, or at most. */
export type Bound = { least: number } | { most: number };

/** A measurement that could not be made here, and why. */
export type NotRun = { id: string; what: string; why: string };

/** The quotient of two sides round by round, and its median. */
export function ratios(ours: readonly number[], theirs: readonly number[]): { rounds: number[]; value: number } {
  const rounds = ours.map((one, round) => one / (theirs[round] ?? Number.NaN));
  return { rounds, value: median(rounds) };
}

export function differences(ours: readonly number[], theirs: readonly number[]): { rounds: number[]; value: number } {
  const rounds = ours.map((one, round) => one - (theirs[round] ?? Number.NaN));
  return { rounds, value: median(rounds) };
}

export function isMet(value: number, bound: Bound): boolean {
  return 'least' in bound ? value >= bound.least : value <= bound.most;
}

/** The table, one line a figure, its columns aligned; Markdown. */
export function tableOf(results: readonly (Figure | NotRun)[]): string {
  const head = ['id', 'what', 'result', 'rounds', 'ours', 'baseline', 'mark', 'goal'];
  const rows = results.map((result) =>
    'why' in result ? [result.id, result.what, `not run: ${result.why}`, '', '', '', '', ''] : cells(result),
  );
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) => `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  return [line(head), `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`, ...rows.map(line)].join('\n');
}

function cells({ id, what, unit, value, rounds, ours, theirs, mark, goal }: Figure): string[] {
  const said = (bound: Bound | null) => (bound === null ? '' : `${limit(bound, unit)} ${isMet(value, bound) ? 'met' : 'missed'}`);
  const digits = unit === '/s' ? 0 : 2;
  const spread = `${Math.min(...rounds).toFixed(digits)}–${Math.max(...rounds).toFixed(digits)}`;
  return [id, what, `${value.toFixed(digits)} ${unit}`, spread, ours, theirs, said(mark), said(goal)];
}

function limit(bound: Bound, unit: string): string {
  return 'least' in bound ? `≥ ${bound.least} ${unit}` : `≤ ${bound.most} ${unit}`;
}
