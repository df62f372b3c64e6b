import { sizeOf } from './numbers.ts';

/** Integers and what one of them is worth, by channel: value ≈ integer × scale of its channel. */
export type Quantised = { integers: Int8Array; scales: Float32Array };

/** How unsigned bytes stand for an activation: value ≈ (byte − zeroPoint) × scale. */
export type ByteScale = { scale: number; zeroPoint: number };

/**
 * Weights take ±63, not ±127: processors without VNNI add two products of byte and weight in 16 bits, and 2 × 255 × 63 is the most that
 * fits. So a model answers the same on every one.
 */
export const WEIGHT_MAX = 63;

/**
 * Symmetric integers for weights, one scale for each index along `axis`: scale = max|w| / WEIGHT_MAX, integer = w / scale rounded half to
 * even. Each value differs from its integer × scale by at most scale / 2, up to rounding in FP32. Null where a weight or a scale is no
 * finite FP32 number.
 */
export function quantiseChannels(values: Float64Array, dims: readonly number[], axis: number): Quantised | null {
  const channels = dims[axis] ?? 1;
  const inner = sizeOf(dims.slice(axis + 1));
  const largest = new Float64Array(channels);
  for (const [at, value] of values.entries()) {
    if (!Number.isFinite(value)) return null;
    const channel = Math.floor(at / inner) % channels;
    largest[channel] = Math.max(largest[channel] ?? 0, Math.abs(value));
  }
  const scales = Float32Array.from(largest, (one) => (one === 0 ? 1 : one / WEIGHT_MAX));
  if (scales.some((scale) => scale === 0 || !Number.isFinite(scale))) return null;
  const integers = Int8Array.from(values, (value, at) => {
    const scale = scales[Math.floor(at / inner) % channels] ?? 1;
    return clamp(halfToEven(value / scale), -WEIGHT_MAX, WEIGHT_MAX);
  });
  return { integers, scales };
}

/** The bytes for values from `min` to `max`, widened to hold zero, which is exact: padding and ReLU give it. */
export function byteScale(min: number, max: number): ByteScale {
  const [low, high] = [Math.min(0, min), Math.max(0, max)];
  const scale = Math.fround((high - low) / 255);
  if (scale === 0) return { scale: 1, zeroPoint: 0 };
  return { scale, zeroPoint: clamp(halfToEven(-low / scale), 0, 255) };
}

/** A bias in units of activation × weight, as integer kernels add it; null where it does not fit 32 bits or a unit is no FP32 number. */
export function quantiseBias(
  values: Float64Array,
  scale: number,
  weights: Float32Array,
): { integers: Int32Array; scales: Float32Array } | null {
  const scales = weights.map((weight) => weight * scale);
  if (scales.some((one) => one === 0 || !Number.isFinite(one))) return null;
  const exact = Array.from(values, (value, channel) => halfToEven(value / (scales[channel] ?? 1)));
  if (exact.some((one) => !(Math.abs(one) < 2 ** 31))) return null;
  return { integers: Int32Array.from(exact), scales };
}

/** [rows, columns] to [columns, rows]. */
export function transposed(values: Float64Array, rows: number, columns: number): Float64Array {
  return Float64Array.from(values, (_, at) => values[(at % rows) * columns + Math.floor(at / rows)] ?? 0);
}

export function halfToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, value));
}
