import { DATATYPES } from './datatypes.ts';
import type { OnnxTensor } from './schema.ts';

/** More elements than this are weights, not sizes, axes or indices. */
const FEW = 256;

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

/** The elements of a tensor of whole numbers, row by row, as `checkTensor` accepts it; null for another type or more than `most`. */
export function integersOf(tensor: OnnxTensor, most: number = FEW): bigint[] | null {
  const width = WIDTHS[tensor.dataType ?? 0];
  const count = tensor.dims.reduce((product, dim) => product * dim, 1n);
  if (width === undefined || count > BigInt(most)) return null;
  if (tensor.rawData !== undefined) return littleEndian(tensor.rawData, width);
  return [...tensor.int32Data, ...tensor.int64Data, ...tensor.uint64Data].flatMap((chunk) => varints(chunk));
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
