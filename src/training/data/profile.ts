import type { CategoryColumn, Column, NumberColumn, Table } from './columns.ts';

/** What a table holds, as JSON. Minimum to deviation are of the numbers that are there, null for categories and where none are. */
export type Profile = {
  rows: number;
  badRows: { count: number; first: { line: number; reason: string }[] };
  columns: ColumnProfile[];
  /** Up to ten rows, spread over the table; of large values the beginning. */
  samples: Record<string, unknown>[];
};

export type ColumnProfile = {
  name: string;
  type: 'NUMBER' | 'CATEGORY';
  datatype: string;
  dimensions: number[];
  missing: number;
  minimum: number | null;
  maximum: number | null;
  mean: number | null;
  deviation: number | null;
  /** Null: more than are counted. */
  distinct: number | null;
  /** Each value with its rows, the most frequent first; null: too many, or numbers that are not whole. */
  classes: { value: string; rows: number }[] | null;
};

const DISTINCT_MAX = 1_000;
const CLASSES_MAX = 100;
const SAMPLES = 10;
const SAMPLE_ELEMENTS_MAX = 16;

export function profileOf({ rows, columns, badRows }: Table): Profile {
  const places = Array.from({ length: Math.min(SAMPLES, rows) }, (_, index) => Math.floor((index * rows) / Math.min(SAMPLES, rows)));
  return {
    rows,
    badRows: { count: badRows.count, first: [...badRows.first] },
    columns: columns.map((column) => (column.kind === 'NUMBER' ? ofNumbers(column, rows) : ofCategory(column))),
    samples: places.map((row) => Object.fromEntries(columns.map((column) => [column.name, sampleOf(column, row, rows)]))),
  };
}

function ofNumbers({ name, datatype, dims, values }: NumberColumn, rows: number): ColumnProfile {
  const size = values.length / rows;
  const spread = spreadOf(values);
  const counts = size === 1 ? countsOf(values) : null;
  const whole = counts !== null && counts.size <= CLASSES_MAX && [...counts.keys()].every(Number.isInteger);
  const distinct = counts === null ? null : counts.size;
  const classes = whole ? ranked([...counts].map(([value, count]) => ({ value: String(value), rows: count }))) : null;
  return { name, type: 'NUMBER', datatype, dimensions: [...dims], ...spread, missing: missingRows(values, size), distinct, classes };
}

/** By Welford's method (1962), which does not lose digits. */
function spreadOf(values: NumberColumn['values']): Pick<ColumnProfile, 'minimum' | 'maximum' | 'mean' | 'deviation'> {
  let [count, mean, squares] = [0, 0, 0];
  let [minimum, maximum] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const value of values) {
    if (Number.isNaN(value)) continue;
    count++;
    const difference = value - mean;
    mean += difference / count;
    squares += difference * (value - mean);
    minimum = Math.min(minimum, value);
    maximum = Math.max(maximum, value);
  }
  if (count === 0) return { minimum: null, maximum: null, mean: null, deviation: null };
  return { minimum, maximum, mean, deviation: Math.sqrt(squares / count) };
}

/** Null where there are more than are counted. */
function countsOf(values: NumberColumn['values']): Map<number, number> | null {
  const counts = new Map<number, number>();
  for (const value of values) {
    if (Number.isNaN(value)) continue;
    counts.set(value, (counts.get(value) ?? 0) + 1);
    if (counts.size > DISTINCT_MAX) return null;
  }
  return counts;
}

function missingRows(values: NumberColumn['values'], size: number): number {
  if (values instanceof Uint8Array) return 0;
  let missing = 0;
  for (let from = 0; from < values.length; from += size) if (values.subarray(from, from + size).some(Number.isNaN)) missing++;
  return missing;
}

function ofCategory({ name, values, categories }: CategoryColumn): ColumnProfile {
  const counts = new Array<number>(categories.length).fill(0);
  let missing = 0;
  for (const code of values) {
    if (code < 0) missing++;
    else counts[code] = (counts[code] ?? 0) + 1;
  }
  const classes = ranked(categories.map((value, code) => ({ value, rows: counts[code] ?? 0 })));
  const numbers = { minimum: null, maximum: null, mean: null, deviation: null };
  const distinct = categories.length <= DISTINCT_MAX ? categories.length : null;
  const shown = categories.length <= CLASSES_MAX ? classes : null;
  return { name, type: 'CATEGORY', datatype: 'BYTES', dimensions: [], missing, ...numbers, distinct, classes: shown };
}

function ranked(classes: { value: string; rows: number }[]): { value: string; rows: number }[] {
  return classes.sort((a, b) => b.rows - a.rows || (a.value < b.value ? -1 : 1));
}

function sampleOf(column: Column, row: number, rows: number): unknown {
  if (column.kind === 'CATEGORY') return column.categories[column.values[row] ?? -1] ?? null;
  const size = column.values.length / rows;
  const elements = [...column.values.subarray(row * size, row * size + Math.min(size, SAMPLE_ELEMENTS_MAX))];
  const shown = elements.map((value) => (Number.isFinite(value) ? value : null));
  return column.dims.length === 0 ? (shown[0] ?? null) : shown;
}
