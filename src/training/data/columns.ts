/** The datatypes in which a column's numbers come, and a caller of the trained model sends them. */
export type NumberDatatype = 'UINT8' | 'INT64' | 'FP32' | 'FP64';

/** Numbers of one row have `dims`, none of them a scalar; values are row by row, NaN where one is missing. */
export type NumberColumn = {
  name: string;
  kind: 'NUMBER';
  datatype: NumberDatatype;
  dims: readonly number[];
  values: Uint8Array | Float32Array | Float64Array;
};

/** Values are indices into `categories`, −1 where one is missing. */
export type CategoryColumn = { name: string; kind: 'CATEGORY'; values: Int32Array; categories: readonly string[] };

export type Column = NumberColumn | CategoryColumn;

/** Rows that were read, by column, and those that were left out. */
export type Table = { rows: number; columns: readonly Column[]; badRows: { count: number; first: readonly BadRow[] } };

/** `line` of the file, from 1; of a format without lines, the number of the row or entry. */
export type BadRow = { line: number; reason: string };

/** The column of a name. Errors: RangeError where there is none. */
export function columnOf({ columns }: Table, name: string): Column {
  const column = columns.find((one) => one.name === name);
  if (column === undefined) throw new RangeError(`there is no column ${name}; there are ${columns.map((one) => one.name).join(', ')}`);
  return column;
}

/** A growing list of numbers. */
export class NumberList {
  #values = new Float64Array(1024);
  length = 0;

  push(value: number): void {
    if (this.length === this.#values.length) {
      const grown = new Float64Array(2 * this.length);
      grown.set(this.#values);
      this.#values = grown;
    }
    this.#values[this.length++] = value;
  }

  done(): Float64Array {
    return this.#values.slice(0, this.length);
  }
}

const CATEGORIES_MAX = 100_000;

/** A growing list of texts, each kept once. */
export class CategoryList {
  readonly #codes = new NumberList();
  readonly #known = new Map<string, number>();

  push(text: string | null): void {
    this.#codes.push(text === null ? -1 : this.#codeOf(text));
  }

  #codeOf(text: string): number {
    const code = this.#known.get(text) ?? this.#known.size;
    if (code >= CATEGORIES_MAX) throw new RangeError(`a column has more than ${CATEGORIES_MAX} different texts`);
    this.#known.set(text, code);
    return code;
  }

  done(name: string): CategoryColumn {
    return { name, kind: 'CATEGORY', values: Int32Array.from(this.#codes.done()), categories: [...this.#known.keys()] };
  }
}
