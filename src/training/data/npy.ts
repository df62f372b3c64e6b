import { readFile } from 'node:fs/promises';
import { parse } from 'npyjs';
import { wrongFile } from './bad-rows.ts';
import type { Column, NumberColumn, NumberDatatype } from './columns.ts';
import { zipEntries } from './zip.ts';

const ARRAY_BYTES_MAX = 4 * 1024 ** 3 - 1;
const ARRAYS_MAX = 256;
const EXPECTED = 'a NumPy array of bools, integers or floats, in C order and little-endian';

const DATATYPES: Record<string, NumberDatatype> = {
  b1: 'UINT8',
  u1: 'UINT8',
  i1: 'INT64',
  i2: 'INT64',
  u2: 'INT64',
  i4: 'INT64',
  u4: 'INT64',
  i8: 'INT64',
  f2: 'FP32',
  f4: 'FP32',
  f8: 'FP64',
};

/** Reads one array whose first dimension counts the rows: the column `values`, or `image` where its rows are pictures of bytes. */
export async function readNpy(path: string): Promise<{ rows: number; columns: Column[] }> {
  const { rows, column } = parseArray(await readFile(path), 'values', 'NPY');
  const isImage = column.datatype === 'UINT8' && column.dims.length >= 2;
  return { rows, columns: [isImage ? { ...column, name: 'image' } : column] };
}

/** Reads arrays of the same number of rows from an archive: a column each, of the array's name. */
export async function readNpz(path: string): Promise<{ rows: number; columns: Column[] }> {
  const columns: Column[] = [];
  let rows: number | null = null;
  for await (const entry of zipEntries(path, 'NPZ', ARRAY_BYTES_MAX)) {
    const array = parseArray(await entry.read(), entry.name.replace(/\.npy$/, ''), 'NPZ');
    rows ??= array.rows;
    if (array.rows !== rows)
      throw wrongFile('NPZ', `${array.column.name} has ${array.rows} rows, the others ${rows}`, 'the same number of rows');
    columns.push(array.column);
    if (columns.length > ARRAYS_MAX) throw wrongFile('NPZ', `more than ${ARRAYS_MAX} arrays`, `at most ${ARRAYS_MAX}`);
  }
  if (rows === null) throw wrongFile('NPZ', 'no array', 'a ZIP archive of NumPy arrays');
  return { rows, columns };
}

function parseArray(bytes: Buffer, name: string, format: string): { rows: number; column: NumberColumn } {
  const { data, shape, dtype, fortranOrder } = parsed(bytes, format);
  const datatype = DATATYPES[dtype];
  const [rows, ...dims] = shape;
  if (datatype === undefined) throw wrongFile(format, `${name} has elements ${dtype}`, EXPECTED);
  if (fortranOrder && dims.length > 0) throw wrongFile(format, `${name} is in Fortran order`, EXPECTED);
  if (rows === undefined) throw wrongFile(format, `${name} is one number`, 'rows as the first dimension');
  const count = shape.reduce((product, dim) => product * dim, 1);
  const elements = data as unknown as ArrayLike<number | bigint | boolean>;
  if (elements.length !== count) throw wrongFile(format, `${name} has ${elements.length} elements for [${shape.join(', ')}]`, EXPECTED);
  const values = datatype === 'UINT8' ? Uint8Array.from(elements, Number) : Float64Array.from(elements, Number);
  return { rows, column: { name, kind: 'NUMBER', datatype, dims, values } };
}

function parsed(bytes: Buffer, format: string) {
  try {
    // A copy of its own: a view on elements must begin at a multiple of their size.
    return parse(new Uint8Array(bytes).buffer);
  } catch (error) {
    throw wrongFile(format, error instanceof Error ? error.message : 'unreadable', EXPECTED);
  }
}
