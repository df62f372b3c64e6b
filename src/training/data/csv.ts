import { createReadStream } from 'node:fs';
import { type CsvError, parse } from 'csv-parse';
import { type BadRows, wrongFile } from './bad-rows.ts';
import { CategoryList, type Column, NumberList } from './columns.ts';

const COLUMNS_MAX = 4_096;
const ROW_CHARS_MAX = 1024 * 1024;
const NAME_CHARS_MAX = 255;
/** Faults that take rows behind them along. */
const SWALLOWS = new Set<string>(['CSV_QUOTE_NOT_CLOSED', 'CSV_INVALID_CLOSING_QUOTE']);
const NUMBER = /^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$/;
const MISSING = new Set(['', 'NA', 'NaN', 'nan', 'null']);

/**
 * Reads CSV (RFC 4180, UTF-8, with or without a byte order mark) with a header, as a stream. A column whose every cell is a number or missing is
 * NUMBER (FP32), any other CATEGORY. Cells are missing where they are empty, NA, NaN or null. A row with another number of cells than the header, or with a
 * quote inside a bare cell, is bad. A quoted cell that does not end as one is a fault of the file: nobody can say which rows behind it it holds.
 */
export async function readCsv(path: string, bad: BadRows): Promise<{ rows: number; columns: Column[] }> {
  const source = createReadStream(path);
  const parser = parse({
    bom: true,
    info: true,
    trim: true,
    relax_column_count: true,
    skip_empty_lines: true,
    skip_records_with_error: true,
    max_record_size: ROW_CHARS_MAX,
    on_skip: (error: CsvError | undefined): undefined => {
      if (error !== undefined && SWALLOWS.has(error.code)) parser.destroy(unclosed(lastLine + 1));
      else bad.note(Number(error?.lines ?? 0), error?.message ?? 'unreadable');
    },
  });
  let lastLine = 0;
  source.on('error', (error) => parser.destroy(error));
  source.pipe(parser);
  let cells: Cells[] | null = null;
  let rows = 0;
  for await (const { record, info } of parser as AsyncIterable<{ record: string[]; info: { lines: number } }>) {
    lastLine = info.lines;
    if (cells === null) cells = checkHeader(record).map((name) => new Cells(name));
    else if (record.length !== cells.length) bad.note(info.lines, `${record.length} cells instead of ${cells.length}`);
    else {
      for (const [index, one] of cells.entries()) one.push(record[index] ?? '');
      rows++;
    }
  }
  if (cells === null) throw wrongFile('CSV', 'it is empty', 'a header and rows');
  return { rows, columns: cells.map((one) => one.done()) };
}

function unclosed(line: number): Error {
  return wrongFile(
    'CSV',
    `a quoted cell that begins on line ${line} or soon after does not end as one`,
    'cells in quotes with quotes inside doubled',
  );
}

function checkHeader(names: string[]): string[] {
  if (names.length > COLUMNS_MAX) throw wrongFile('CSV', `${names.length} columns`, `at most ${COLUMNS_MAX}`);
  for (const [index, name] of names.entries()) {
    if (name === '' || name.length > NAME_CHARS_MAX)
      throw wrongFile('CSV', `column ${index + 1} has no name`, 'a header with a name for each');
    if (name.startsWith('/')) throw wrongFile('CSV', `a column named ${name}`, 'names that do not begin with /');
    if (names.indexOf(name) !== index) throw wrongFile('CSV', `two columns named ${name}`, 'different names');
  }
  return names;
}

/** A column whose kind is not known before its last cell. */
class Cells {
  readonly #name: string;
  #numbers: NumberList | null = new NumberList();
  readonly #texts = new CategoryList();

  constructor(name: string) {
    this.#name = name;
  }

  push(cell: string): void {
    const missing = MISSING.has(cell);
    if (this.#numbers !== null && (missing || NUMBER.test(cell))) this.#numbers.push(missing ? Number.NaN : Number(cell));
    else if (this.#numbers !== null) this.#turn();
    if (this.#numbers === null) this.#texts.push(missing ? null : cell);
  }

  /** The first cell that is no number makes all of them texts. */
  #turn(): void {
    const numbers = this.#numbers?.done() ?? [];
    this.#numbers = null;
    for (const number of numbers) this.#texts.push(Number.isNaN(number) ? null : String(number));
  }

  done(): Column {
    if (this.#numbers === null) return this.#texts.done(this.#name);
    return { name: this.#name, kind: 'NUMBER', datatype: 'FP32', dims: [], values: this.#numbers.done() };
  }
}
