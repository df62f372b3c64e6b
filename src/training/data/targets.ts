import type { Targets } from '../net/net.ts';
import { type Column, columnOf, type NumberColumn, type Table } from './columns.ts';

const CLASSES_MAX = 10_000;

/**
 * The columns to predict, over all rows. Classes are in the order of numbers where all are whole numbers, else of their texts; `classes` fixes them, as
 * another table has them. Errors: RangeError, as `targets[0]: …`, where a column is not of the task's kind or a value is missing.
 */
export function targetsOf(
  table: Table,
  names: readonly string[],
  task: 'CLASSIFICATION' | 'REGRESSION',
  classes: readonly string[] | null = null,
): Targets {
  if (task === 'REGRESSION') {
    const columns = names.map((name, index) => numbersOf(columnOf(table, name), `targets[${index}]`));
    const values = new Float64Array(table.rows * names.length);
    for (const [index, { values: from }] of columns.entries()) {
      for (let row = 0; row < table.rows; row++) values[row * names.length + index] = from[row] ?? Number.NaN;
    }
    return { kind: 'NUMBERS', values, names };
  }
  const texts = textsOf(columnOf(table, names[0] ?? ''));
  const known = classes ?? inOrder([...new Set(texts)]);
  if (known.length < 2) throw new RangeError('targets[0]: there is one class, and two are the least');
  if (known.length > CLASSES_MAX) throw new RangeError(`targets[0]: there are more than ${CLASSES_MAX} classes`);
  const codes = new Map(known.map((name, code) => [name, code]));
  const values = Int32Array.from(texts, (text) => {
    const code = codes.get(text);
    if (code === undefined) throw new RangeError(`targets[0]: the class ${text} is not one of those trained on`);
    return code;
  });
  return { kind: 'CLASSES', values, classes: known };
}

function numbersOf(column: Column, at: string): NumberColumn {
  if (column.kind !== 'NUMBER' || column.dims.length > 0) throw new RangeError(`${at}: ${column.name} is no column of single numbers`);
  if (column.values.some(Number.isNaN)) throw new RangeError(`${at}: ${column.name} is missing in some rows`);
  return column;
}

function textsOf(column: Column): string[] {
  if (column.kind === 'CATEGORY') {
    if (column.values.includes(-1)) throw new RangeError(`targets[0]: ${column.name} is missing in some rows`);
    return Array.from(column.values, (code) => column.categories[code] ?? '');
  }
  const { values } = numbersOf(column, 'targets[0]');
  if (!values.every(Number.isInteger))
    throw new RangeError(`targets[0]: ${column.name} has numbers that are not whole; they are no classes`);
  return Array.from(values, String);
}

function inOrder(classes: string[]): string[] {
  const whole = classes.every((name) => /^-?\d{1,15}$/.test(name));
  return classes.sort(whole ? (a, b) => Number(a) - Number(b) : undefined);
}
