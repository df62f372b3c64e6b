import { decodeBytes, elementCount, type Tensor } from '../../src/inference/inference.ts';

/**
 * Relative to each element as in ONNX's own runner; and, since what cancels out in a long sum leaves the rounding of its parts, also to the
 * largest element of the output.
 */
const TOLERANCE = { relative: 1e-3, ofLargest: 1e-6 };
const HALF = { relative: 1e-2, ofLargest: 1e-3 };

/** What is wrong with an output, in one line; null: it is as it must be. */
export function differenceOf(got: Tensor, wanted: Tensor): string | null {
  if (got.datatype !== wanted.datatype) return `${got.datatype} where ${wanted.datatype} was wanted`;
  if (String(got.shape) !== String(wanted.shape)) return `shape [${got.shape}] where [${wanted.shape}] was wanted`;
  if (got.datatype === 'BYTES') {
    const count = elementCount(got.shape);
    const [mine, theirs] = [decodeBytes(got.data, count), decodeBytes(wanted.data, count)];
    const at = mine.findIndex((text, index) => text !== theirs[index]);
    return at < 0 ? null : `element ${at} is "${mine[at]}" where "${theirs[at]}" was wanted`;
  }
  const [mine, theirs] = [fractions(got), fractions(wanted)];
  if (mine === null || theirs === null) return Buffer.compare(got.data, wanted.data) === 0 ? null : 'other bytes';
  const { relative, ofLargest } = got.datatype === 'FP16' ? HALF : TOLERANCE;
  const absolute =
    ofLargest * theirs.reduce((largest, value) => (Number.isFinite(value) ? Math.max(largest, Math.abs(value)) : largest), 0);
  const at = mine.findIndex((value, index) => !isClose(value, theirs[index] ?? Number.NaN, relative, absolute));
  return at < 0 ? null : `element ${at} is ${mine[at]} where ${theirs[at]} was wanted`;
}

function isClose(value: number, wanted: number, relative: number, absolute: number): boolean {
  if (Number.isNaN(value) || Number.isNaN(wanted)) return Number.isNaN(value) && Number.isNaN(wanted);
  return value === wanted || Math.abs(value - wanted) <= absolute + relative * Math.abs(wanted);
}

function fractions({ datatype, data }: Tensor): number[] | null {
  const { buffer } = Uint8Array.from(data);
  if (datatype === 'FP16') return [...new Float16Array(buffer)];
  if (datatype === 'FP32') return [...new Float32Array(buffer)];
  return datatype === 'FP64' ? [...new Float64Array(buffer)] : null;
}
