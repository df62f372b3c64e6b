import { readFile } from 'node:fs/promises';
import { gunzipSync } from 'node:zlib';
import { wrongFile } from './bad-rows.ts';
import type { Column, NumberColumn, NumberDatatype } from './columns.ts';

/** An IDX array: dimensions, slowest first, and its elements. */
type Idx = { datatype: NumberDatatype; dims: readonly number[]; values: NumberColumn['values'] };

type Element = { datatype: NumberDatatype; bytes: number; read(view: DataView, at: number): number };

const GZIP_BYTES_MAX = 4 * 1024 ** 3 - 1;
const FORMAT = 'IDX';
const EXPECTED = 'an IDX file, or the rows and their labels one after the other; gzipped or not';
const ELEMENTS: Record<number, Element> = {
  8: { datatype: 'UINT8', bytes: 1, read: (view, at) => view.getUint8(at) },
  9: { datatype: 'INT64', bytes: 1, read: (view, at) => view.getInt8(at) },
  11: { datatype: 'INT64', bytes: 2, read: (view, at) => view.getInt16(at) },
  12: { datatype: 'INT64', bytes: 4, read: (view, at) => view.getInt32(at) },
  13: { datatype: 'FP32', bytes: 4, read: (view, at) => view.getFloat32(at) },
  14: { datatype: 'FP64', bytes: 8, read: (view, at) => view.getFloat64(at) },
};

/**
 * Reads the IDX format (Y. LeCun, http://yann.lecun.com/exdb/mnist): two zero bytes, element type, rank, big-endian 32-bit dimensions, elements. One
 * array is the column `image` where its rows are pictures of bytes, else `values`; a second of rank 1 behind it is `label`. Gzip members that follow each
 * other are one, so that `cat images.gz labels.gz` makes a dataset.
 */
export async function readIdx(path: string): Promise<{ rows: number; columns: Column[] }> {
  const bytes = unzipped(await readFile(path));
  const arrays: Idx[] = [];
  for (let at = 0; at < bytes.length; ) {
    const { array, next } = parseIdx(bytes, at);
    arrays.push(array);
    at = next;
  }
  const [first, second] = arrays;
  const [rows = 0, ...dims] = first?.dims ?? [];
  if (first === undefined || arrays.length > 2) throw wrongFile(FORMAT, `${arrays.length} arrays`, EXPECTED);
  const name = first.datatype === 'UINT8' && dims.length >= 2 ? 'image' : 'values';
  const columns: Column[] = [{ name, kind: 'NUMBER', datatype: first.datatype, dims, values: first.values }];
  if (second !== undefined) {
    if (second.dims.length !== 1 || second.dims[0] !== rows)
      throw wrongFile(FORMAT, `${rows} rows with [${second.dims.join(', ')}] labels`, EXPECTED);
    columns.push({ name: 'label', kind: 'NUMBER', datatype: 'INT64', dims: [], values: Float64Array.from(second.values) });
  }
  return { rows, columns };
}

function unzipped(bytes: Buffer): Uint8Array {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  try {
    return gunzipSync(bytes, { maxOutputLength: GZIP_BYTES_MAX });
  } catch (error) {
    throw wrongFile(FORMAT, error instanceof Error ? error.message : 'damaged gzip', EXPECTED);
  }
}

function parseIdx(bytes: Uint8Array, start: number): { array: Idx; next: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset + start, bytes.length - start);
  const element = view.byteLength < 4 ? undefined : ELEMENTS[view.getUint8(2)];
  const rank = view.byteLength < 4 ? 0 : view.getUint8(3);
  const head = 4 + 4 * rank;
  if (element === undefined || view.getUint16(0) !== 0 || rank < 1 || rank > 8 || view.byteLength < head) {
    throw wrongFile(FORMAT, `no IDX head at byte ${start}`, EXPECTED);
  }
  const dims = Array.from({ length: rank }, (_, index) => view.getUint32(4 + 4 * index));
  const count = dims.reduce((product, dim) => product * dim, 1);
  if (view.byteLength - head < count * element.bytes) {
    throw wrongFile(
      FORMAT,
      `${view.byteLength - head} bytes of elements where [${dims.join(', ')}] wants ${count * element.bytes}`,
      EXPECTED,
    );
  }
  const values =
    element.datatype === 'UINT8'
      ? bytes.slice(start + head, start + head + count)
      : Float64Array.from({ length: count }, (_, index) => element.read(view, head + index * element.bytes));
  return { array: { datatype: element.datatype, dims, values }, next: start + head + count * element.bytes };
}

/** The bytes of an IDX file of unsigned bytes. */
export function writeIdx(dims: readonly number[], values: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + 4 * dims.length + values.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(2, 8);
  view.setUint8(3, dims.length);
  for (const [index, dim] of dims.entries()) view.setUint32(4 + 4 * index, dim);
  bytes.set(values, 4 + 4 * dims.length);
  return bytes;
}
