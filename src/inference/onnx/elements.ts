import { DATATYPES } from './datatypes.ts';
import { RANK_MAX } from './dims.ts';
import type { OnnxTensor } from './schema.ts';

/** More elements than this are weights, not sizes, axes or indices. */
export const FEW = 2 * RANK_MAX;

const WIDTHS: Record<number, { bytes: 1 | 2 | 4 | 8; signed: boolean }> = {
  [DATATYPES.UINT8]: { bytes: 1, signed: false },
  [DATATYPES.INT8]: { bytes: 1, signed: true },
  [DATATYPES.UINT16]: { bytes: 2, signed: false },
  [DATATYPES.INT16]: { bytes: 2, signed: true },
  [DATATYPES.INT32]: { bytes: 4, signed: true },
  [DATATYPES.INT64]: { bytes: 8, signed: true },
  [DATATYPES.BOOL]: { bytes: 1, signed: false },
  [DATATYPES.UINT32]: { bytes: 4, signed: false },
  [DATATYPES.UINT64]: { bytes: 8, signed: false },
};

/**
 * The elements of a small tensor of whole numbers, row by row, as `checkTensor` accepts it; null for more than `FEW`, for more than one of a type that holds
 * no sizes, and for another type.
 */
export function integersOf(tensor: OnnxTensor): bigint[] | null {
  const width = WIDTHS[tensor.dataType ?? 0];
  const count = tensor.dims.reduce((product, dim) => product * dim, 1n);
  const holdsSizes = tensor.dataType === DATATYPES.INT32 || tensor.dataType === DATATYPES.INT64;
  if (width === undefined || count > BigInt(holdsSizes ? FEW : 1)) return null;
  if (tensor.rawData !== undefined) return littleEndian(tensor.rawData, width);
  return [...tensor.int32Data, ...tensor.int64Data, ...tensor.uint64Data].flatMap((chunk) => varints(chunk));
}

/**
 * The first element that is not from 0 to below its bound, or null. `bounds` are safe integers, taken in turn. The tensor is one of INT64 as `checkTensor`
 * accepts it, and of any length: its bytes are read where they are.
 */
export function firstOutside({ rawData, int64Data }: OnnxTensor, bounds: readonly number[]): bigint | null {
  let turn = 0;
  // Of any 64-bit integer, the nearest double is on the same side of a safe one.
  const isOutside = (value: number): boolean => {
    const bound = bounds[turn] ?? 0;
    turn = turn + 1 < bounds.length ? turn + 1 : 0;
    return value < 0 || value >= bound;
  };
  if (rawData !== undefined) {
    const view = new DataView(rawData.buffer, rawData.byteOffset, rawData.byteLength);
    for (let at = 0; at < rawData.length; at += 8) {
      if (isOutside(view.getInt32(at + 4, true) * 2 ** 32 + view.getUint32(at, true))) return view.getBigInt64(at, true);
    }
    return null;
  }
  for (const chunk of int64Data) {
    for (let at = 0, end = 0; at < chunk.length; at = end) {
      end = varintEnd(chunk, at);
      if (isOutside(roughly(chunk, at, end))) return varints(chunk.subarray(at, end))[0] ?? null;
    }
  }
  return null;
}

function varintEnd(chunk: Uint8Array, start: number): number {
  let at = start;
  while ((chunk[at] ?? 0) >= 0x80) at++;
  return at + 1;
}

/** A varint as the nearest double; -1 for any that is negative, which has ten bytes and the sign in the last. */
function roughly(chunk: Uint8Array, start: number, end: number): number {
  if (end - start === 10 && ((chunk[end - 1] ?? 0) & 1) === 1) return -1;
  let value = 0;
  for (let at = Math.min(end, start + 9) - 1; at >= start; at--) value = value * 128 + ((chunk[at] ?? 0) & 0x7f);
  return value;
}

/** The elements of a small tensor of FP32 or FP64; null for another type or more than `FEW`. */
export function fractionsOf(tensor: OnnxTensor): number[] | null {
  const count = tensor.dims.reduce((product, dim) => product * dim, 1n);
  if (count > BigInt(FEW)) return null;
  if (tensor.dataType === DATATYPES.FP32) return [...new Float32Array(whole(tensor.rawData, tensor.floatData))];
  return tensor.dataType === DATATYPES.FP64 ? [...new Float64Array(whole(tensor.rawData, tensor.doubleData))] : null;
}

function littleEndian(raw: Uint8Array, { bytes, signed }: { bytes: number; signed: boolean }): bigint[] {
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  return Array.from({ length: raw.length / bytes }, (_, index) => {
    const at = index * bytes;
    if (bytes === 8) return signed ? view.getBigInt64(at, true) : view.getBigUint64(at, true);
    if (bytes === 4) return BigInt(signed ? view.getInt32(at, true) : view.getUint32(at, true));
    if (bytes === 2) return BigInt(signed ? view.getInt16(at, true) : view.getUint16(at, true));
    return BigInt(signed ? view.getInt8(at) : view.getUint8(at));
  });
}

/** 64-bit two's complement, as protobuf writes it. */
function varints(chunk: Uint8Array): bigint[] {
  const values: bigint[] = [];
  let [value, shift] = [0n, 0n];
  for (const byte of chunk) {
    value |= BigInt(byte & 0x7f) << shift;
    shift += 7n;
    if (byte >= 0x80) continue;
    values.push(BigInt.asIntN(64, value));
    [value, shift] = [0n, 0n];
  }
  return values;
}

/** Protobuf bytes may lie at any offset; typed arrays want theirs aligned. */
function whole(raw: Uint8Array | undefined, chunks: readonly Uint8Array[]): ArrayBuffer {
  return Uint8Array.from(raw ?? Buffer.concat(chunks)).buffer;
}
