/** Element types by their Open Inference Protocol v2 names. */
export const DATATYPES = [
  'BOOL',
  'UINT8',
  'UINT16',
  'UINT32',
  'UINT64',
  'INT8',
  'INT16',
  'INT32',
  'INT64',
  'FP16',
  'FP32',
  'FP64',
  'BYTES',
] as const;
export type Datatype = (typeof DATATYPES)[number];

/**
 * `data` is little-endian and row-major: the product of `shape` elements. An element of BYTES is its length in bytes (4, little-endian)
 * followed by that many bytes of UTF-8 without NUL; one of BOOL is 0 or 1.
 */
export type Tensor = { name: string; datatype: Datatype; shape: readonly number[]; data: Uint8Array };

/** A declared input or output. In `shape` −1 is a dynamic dimension; `dimensions` has its symbolic name, or null where it is fixed or unnamed. */
export type SignatureTensor = {
  name: string;
  datatype: Datatype;
  shape: readonly number[];
  dimensions: readonly (string | null)[];
};

/** `batchDimension`: the symbolic dimension that leads every input and every output, else null. */
export type Signature = {
  inputs: readonly SignatureTensor[];
  outputs: readonly SignatureTensor[];
  batchDimension: string | null;
};

const ELEMENT_BYTES: Record<Datatype, number | null> = {
  BOOL: 1,
  UINT8: 1,
  UINT16: 2,
  UINT32: 4,
  UINT64: 8,
  INT8: 1,
  INT16: 2,
  INT32: 4,
  INT64: 8,
  FP16: 2,
  FP32: 4,
  FP64: 8,
  BYTES: null,
};

export function bytesOf(tensors: readonly Tensor[]): number {
  let bytes = 0;
  for (const { data } of tensors) bytes += data.length;
  return bytes;
}

export function isDatatype(text: unknown): text is Datatype {
  return DATATYPES.some((datatype) => datatype === text);
}

/** Bytes of one element; null for BYTES, whose elements differ. */
export function elementSize(datatype: Datatype): number | null {
  return ELEMENT_BYTES[datatype];
}

/** Elements of a tensor of this shape; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  let count = 1;
  for (const size of shape) count *= size;
  return count;
}

/** Rows of a call: the leading dimension of its inputs where the signature has a batch dimension, else 1. */
export function rowsOf(signature: Signature, inputs: readonly Pick<Tensor, 'shape'>[]): number {
  return signature.batchDimension === null ? 1 : (inputs[0]?.shape[0] ?? 1);
}

/** The leading dimension that all tensors have in common, or null where there is none. */
export function commonRows(tensors: readonly Pick<Tensor, 'shape'>[]): number | null {
  const rows = tensors[0]?.shape[0];
  return rows !== undefined && tensors.every((tensor) => tensor.shape[0] === rows) ? rows : null;
}

/** The rows of all `parts` in order; they agree in name, datatype and trailing shape. The bytes are new. */
export function joinRows(parts: readonly Tensor[]): Tensor {
  const [first] = parts;
  if (first === undefined) throw new RangeError('joinRows of nothing');
  let rows = 0;
  let size = 0;
  for (const part of parts) {
    rows += part.shape[0] ?? 0;
    size += part.data.length;
  }
  const data = new Uint8Array(size);
  let offset = 0;
  for (const part of parts) {
    data.set(part.data, offset);
    offset += part.data.length;
  }
  return { name: first.name, datatype: first.datatype, shape: [rows, ...first.shape.slice(1)], data };
}

/** Cuts a tensor into consecutive tensors of `counts` rows, which sum to its leading dimension. The bytes are shared. */
export function splitRows(tensor: Tensor, counts: readonly number[]): Tensor[] {
  const trailing = tensor.shape.slice(1);
  const perRow = elementCount(trailing);
  const size = elementSize(tensor.datatype);
  let offset = 0;
  return counts.map((rows) => {
    const end = size === null ? skipBytes(tensor.data, offset, rows * perRow) : offset + rows * perRow * size;
    const data = tensor.data.subarray(offset, end);
    offset = end;
    return { name: tensor.name, datatype: tensor.datatype, shape: [rows, ...trailing], data };
  });
}

/** The offset after `count` elements of BYTES. RangeError where an element passes the end. */
function skipBytes(data: Uint8Array, offset: number, count: number): number {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  let end = offset;
  for (let element = 0; element < count; element++) end += 4 + view.getUint32(end, true);
  if (end > data.length) throw new RangeError('a BYTES element passes the end of its tensor');
  return end;
}

/** The first element in which two BYTES tensors of as many differ, and what it is in each; null: in none. RangeError where one passes the end. */
export function firstOther(a: Uint8Array, b: Uint8Array, count: number): { at: number; one: Uint8Array; other: Uint8Array } | null {
  let [start, end] = [0, 0];
  for (let at = 0; at < count; at++) {
    [start, end] = [end, skipBytes(a, end, 1)];
    const [one, other] = [a.subarray(start, end), b.subarray(start, skipBytes(b, start, 1))];
    // Up to here both lie at the same places.
    if (Buffer.compare(one, other) !== 0) return { at, one: one.subarray(4), other: other.subarray(4) };
  }
  return null;
}

/** Strings of a BYTES tensor. RangeError unless `data` holds exactly `count` elements, TypeError where one is no UTF-8. */
export function decodeBytes(data: Uint8Array, count: number): string[] {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const texts: string[] = [];
  let offset = 0;
  for (let element = 0; element < count; element++) {
    const end = offset + 4 + view.getUint32(offset, true);
    if (end > data.length) throw new RangeError('a BYTES element passes the end of its tensor');
    texts.push(decoder.decode(data.subarray(offset + 4, end)));
    offset = end;
  }
  if (offset !== data.length) throw new RangeError('bytes are left over after the last BYTES element');
  return texts;
}

/** The data of a BYTES tensor of these strings. */
export function encodeBytes(texts: readonly string[]): Uint8Array {
  let size = 0;
  for (const text of texts) size += 4 + Buffer.byteLength(text);
  const data = Buffer.alloc(size);
  let offset = 0;
  for (const text of texts) {
    const length = data.write(text, offset + 4);
    data.writeUInt32LE(length, offset);
    offset += 4 + length;
  }
  return new Uint8Array(data.buffer, data.byteOffset, size);
}
