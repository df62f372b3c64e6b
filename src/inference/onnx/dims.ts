/** A size; `rows`: that of the batch, whatever it is; null: not known before a run. */
export type Dim = number | 'rows' | null;
export type Dims = readonly Dim[];

/**
 * What is known of a value before a run. `elemType`: ONNX's number, 0 where it is not known. `numbers`: the elements of a short list of whole
 * numbers or of a scalar, which shapes are computed from.
 */
export type Info = { readonly elemType: number; readonly dims: Dims | null; readonly numbers: Dims | null };

export const UNKNOWN: Info = { elemType: 0, dims: null, numbers: null };

/** More dimensions than any operator takes; without a bound a chain of nodes could make them without end. */
export const RANK_MAX = 64;

/** What is no size, as a file may make up of others, is one that is not known. */
export function info(elemType: number, dims: Dims | null, numbers: Dims | null = null): Info {
  if (dims === null || dims.length > RANK_MAX) return { elemType, dims: null, numbers };
  return { elemType, dims: dims.every(mayBeSize) ? dims : dims.map((dim) => (mayBeSize(dim) ? dim : null)), numbers };
}

/** A whole number from 0, infinity too, or what is not known: no sum of such falls. */
function mayBeSize(dim: Dim): boolean {
  return typeof dim !== 'number' || (dim >= 0 && Math.floor(dim) === dim);
}

/** The product where every one is a number and a size; else null, also of a batch by 1: callers ask for sizes, not for names. 0 times any is 0. */
export function product(dims: Dims): number | null {
  let result = 1;
  for (const dim of dims) {
    if (typeof dim !== 'number' || !mayBeSize(dim)) return null;
    result = result === 0 || dim === 0 ? 0 : result * dim;
  }
  return result;
}

/** An axis from the front, or null where it is outside the rank. */
export function axisOf(axis: number, rank: number): number | null {
  const front = axis < 0 ? axis + rank : axis;
  return Number.isInteger(front) && front >= 0 && front < rank ? front : null;
}

/** Axes from the front, or null where one is outside the rank. */
export function axesOf(axes: readonly number[], rank: number): number[] | null {
  const front = axes.map((axis) => axisOf(axis, rank));
  return front.every((axis) => axis !== null) ? front : null;
}

/** The shape of an elementwise result: sizes from the back, of which one may be 1. Null where a rank is not known. */
export function broadcast(shapes: readonly (Dims | null)[]): Dims | null {
  let result: Dims = [];
  for (const shape of shapes) {
    if (shape === null) return null;
    const rank = Math.max(result.length, shape.length);
    const [a, b] = [result, shape];
    result = Array.from({ length: rank }, (_, axis) => wider(at(a, axis - rank), at(b, axis - rank)));
  }
  return result;
}

/** The size from the back, 1 beyond the front. */
function at(dims: Dims, fromBack: number): Dim {
  const axis = dims.length + fromBack;
  return axis < 0 ? 1 : (dims[axis] ?? null);
}

/** A known size above 1 wins: whatever stands against it is 1 or the same. A batch against an unknown size may be either. */
function wider(a: Dim, b: Dim): Dim {
  if (a === b || b === 1) return a;
  if (a === 1) return b;
  if (typeof a === 'number') return a;
  return typeof b === 'number' ? b : null;
}
