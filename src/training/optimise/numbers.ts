import { DATATYPES, type OnnxTensor } from '../../inference/onnx/onnx.ts';

/** The elements of a constant of FP32, FP16 or FP64, row by row; null for other types. The tensor is as `checkModel` accepts it. */
export function numbersOf(tensor: OnnxTensor): Float64Array | null {
  const { dataType, rawData } = tensor;
  if (dataType === DATATYPES.FP32) return Float64Array.from(new Float32Array(copied(rawData ?? joined(tensor.floatData))));
  if (dataType === DATATYPES.FP64) return new Float64Array(copied(rawData ?? joined(tensor.doubleData)));
  if (dataType !== DATATYPES.FP16) return null;
  const bits = rawData === undefined ? Uint16Array.from(varints(tensor.int32Data)) : new Uint16Array(copied(rawData));
  return Float64Array.from(new Float16Array(bits.buffer));
}

export function dimsOf({ dims }: OnnxTensor): number[] {
  return dims.map(Number);
}

export function sizeOf(dims: readonly number[]): number {
  return dims.reduce((product, dim) => product * dim, 1);
}

/** Protobuf bytes may lie at any offset; typed arrays want theirs aligned. */
function copied(bytes: Uint8Array): ArrayBuffer {
  return Uint8Array.from(bytes).buffer;
}

function joined(chunks: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(chunks);
}

/** FP16 in a typed field is its bits, each as a varint. */
function* varints(chunks: readonly Uint8Array[]): Generator<number> {
  let [value, shift] = [0, 0];
  for (const byte of joined(chunks)) {
    value += (byte & 0x7f) * 2 ** shift;
    shift += 7;
    if (byte >= 0x80) continue;
    yield value;
    [value, shift] = [0, 0];
  }
}
