import type { CategoryColumn, NumberColumn } from './columns.ts';
import type { FittedStep } from './preprocessing.ts';

/** The most frequent text of the rows; of equals the first by name. Errors: RangeError where every one is missing. */
export function mostFrequent({ name, values, categories }: CategoryColumn, rows: Uint32Array): string {
  const [best] = ranked(Array.from(rows, (row) => categories[values[row] ?? -1]).filter((text) => text !== undefined));
  if (best === undefined) throw new RangeError(`${name} is missing in every row`);
  return best;
}

/** The mean, median or most frequent of the numbers that are there. Errors: RangeError where every one is missing. */
export function typical({ name, values, dims }: NumberColumn, rows: Uint32Array, by: 'MEAN' | 'MEDIAN' | 'MOST_FREQUENT'): number {
  const size = dims.reduce((product, dim) => product * dim, 1);
  const there: number[] = [];
  for (const row of rows) {
    for (let at = row * size; at < (row + 1) * size; at++) {
      const value = values[at] ?? Number.NaN;
      if (!Number.isNaN(value)) there.push(value);
    }
  }
  if (there.length === 0) throw new RangeError(`${name} is missing in every row`);
  if (by === 'MEAN') return there.reduce((sum, value) => sum + value, 0) / there.length;
  if (by === 'MOST_FREQUENT') return ranked(there)[0] ?? 0;
  const sorted = Float64Array.from(there).sort();
  const middle = sorted.length / 2;
  return ((sorted[Math.ceil(middle) - 1] ?? 0) + (sorted[Math.floor(middle)] ?? 0)) / 2;
}

function ranked<T extends string | number>(values: readonly T[]): T[] {
  const counts = new Map<T, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort(([a, left], [b, right]) => right - left || (a < b ? -1 : 1)).map(([value]) => value);
}

/**
 * Mean and standard deviation after the steps before: of each element of a flat row, of all elements together of a picture. What does not vary has
 * the deviation 1. Errors: RangeError for numbers that are missing still, and after steps that change dimensions.
 */
export function spreadOf(
  { name, values, dims }: NumberColumn,
  rows: Uint32Array,
  steps: readonly FittedStep[],
): { mean: number[]; deviation: number[] } {
  if (steps.some(({ kind }) => kind === 'RESIZE')) throw new RangeError(`STANDARDISE of ${name} must stand before RESIZE`);
  const size = dims.reduce((product, dim) => product * dim, 1);
  const groups = dims.length <= 1 ? size : 1;
  const sums = new Float64Array(groups);
  const squares = new Float64Array(groups);
  const each = (use: (value: number, group: number) => void) => {
    for (const row of rows) {
      for (let at = 0; at < size; at++) use(applied(values[row * size + at] ?? Number.NaN, at, steps), at % groups);
    }
  };
  const count = (rows.length * size) / groups;
  each((value, group) => {
    sums[group] = (sums[group] ?? 0) + value;
  });
  const mean = Array.from(sums, (sum) => sum / count);
  if (mean.some(Number.isNaN)) throw new RangeError(`${name} has numbers that are missing; IMPUTE must stand before STANDARDISE`);
  each((value, group) => {
    squares[group] = (squares[group] ?? 0) + (value - (mean[group] ?? 0)) ** 2;
  });
  return { mean, deviation: Array.from(squares, (sum) => (sum > 0 ? Math.sqrt(sum / count) : 1)) };
}

/** An element after the steps that work on elements. */
function applied(value: number, element: number, steps: readonly FittedStep[]): number {
  let result = value;
  for (const step of steps) {
    if (step.kind === 'IMPUTE' && Number.isNaN(result)) result = Number(step.value);
    if (step.kind === 'SCALE') result = result * step.factor + step.offset;
    if (step.kind === 'STANDARDISE') {
      const at = step.mean.length === 1 ? 0 : element;
      result = (result - (step.mean[at] ?? 0)) / (step.deviation[at] ?? 1);
    }
  }
  return result;
}
