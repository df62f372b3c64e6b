import { has, integer, integers, text } from './attributes.ts';
import { DATATYPES } from './datatypes.ts';
import { axesOf, axisOf, broadcast, type Dim, type Dims, info, product, RANK_MAX } from './dims.ts';
import { fractionsOf } from './elements.ts';
import type { ShapeRule } from './shape-rules.ts';
import type { NodeView } from './shapes.ts';

/** Plain numbers of an attribute, or of an input where newer versions take them: undefined where there is neither, null where they are not known. */
export function listOf({ node, inputs }: NodeView, name: string, input: number): number[] | null | undefined {
  const given = integers(node, name);
  if (given !== null) return given;
  const one = inputs[input] ?? null;
  if (one === null) return undefined;
  const numbers = one.numbers?.filter((each) => typeof each === 'number');
  return numbers === undefined || numbers.length !== one.numbers?.length ? null : numbers;
}

/** Operators that move elements and compute none. */
export const MOVING: Record<string, ShapeRule> = {
  Reshape: ({ node, inputs: [data, shape] }) => [
    info(data?.elemType ?? 0, reshaped(data?.dims ?? null, shape?.numbers ?? null, integer(node, 'allowzero', 0) !== 0)),
  ],
  Flatten: ({ node, inputs: [data] }) => {
    const dims = data?.dims ?? null;
    const axis = integer(node, 'axis', 1);
    if (dims === null || axis > dims.length || axis < -dims.length) return [info(data?.elemType ?? 0, null)];
    return [info(data?.elemType ?? 0, [folded(dims.slice(0, axis)), folded(dims.slice(axis < 0 ? axis + dims.length : axis))])];
  },
  Transpose: ({ node, inputs: [data] }) => {
    const dims = data?.dims ?? null;
    const perm = integers(node, 'perm') ?? dims?.map((_, axis) => dims.length - 1 - axis) ?? [];
    const valid = dims !== null && perm.length === dims.length && new Set(perm).size === perm.length;
    const moved = valid ? perm.map((axis) => dims[axis]) : null;
    return [info(data?.elemType ?? 0, moved?.every((dim) => dim !== undefined) ? moved : null)];
  },
  Squeeze: (view) => {
    const data = view.inputs[0] ?? null;
    const axes = listOf(view, 'axes', 1);
    return [info(data?.elemType ?? 0, squeezed(data?.dims ?? null, axes))];
  },
  Unsqueeze: (view) => {
    const data = view.inputs[0] ?? null;
    return [info(data?.elemType ?? 0, unsqueezed(data?.dims ?? null, listOf(view, 'axes', 1) ?? null))];
  },
  Concat: ({ node, inputs }) => {
    const shapes = inputs.map((one) => one?.dims ?? null);
    return [info(inputs[0]?.elemType ?? 0, shapes.every((one) => one !== null) ? concatenated(shapes, integer(node, 'axis', 1)) : null)];
  },
  Split: (view) => {
    const { node, inputs } = view;
    const dims = inputs[0]?.dims ?? null;
    const axis = dims && axisOf(integer(node, 'axis', 0), dims.length);
    const partOf = dims !== null && axis !== null ? partsOf(view, dims[axis] ?? null) : null;
    return node.output.map((_, index) =>
      info(inputs[0]?.elemType ?? 0, dims && axis !== null && partOf ? dims.with(axis, partOf(index)) : null),
    );
  },
  Slice: (view) => [info(view.inputs[0]?.elemType ?? 0, sliced(view))],
  Gather: ({ node, inputs: [data, indices] }) => {
    const [dims, places] = [data?.dims ?? null, indices?.dims ?? null];
    const axis = dims && axisOf(integer(node, 'axis', 0), dims.length);
    const picked = dims === null || axis === null || places === null ? null : [...dims.slice(0, axis), ...places, ...dims.slice(axis + 1)];
    return [info(data?.elemType ?? 0, picked)];
  },
  GatherElements: ({ inputs: [data, indices] }) => [info(data?.elemType ?? 0, indices?.dims ?? null)],
  Expand: ({ inputs: [data, shape] }) => {
    const list = shape?.numbers ?? null;
    return [info(data?.elemType ?? 0, list === null ? null : broadcast([data?.dims ?? null, list]))];
  },
  Tile: ({ inputs: [data, repeats] }) => {
    const [dims, times] = [data?.dims ?? null, repeats?.numbers ?? null];
    const tiled = dims?.length === times?.length ? dims?.map((dim, axis) => scaled(dim, times?.[axis] ?? null)) : undefined;
    return [info(data?.elemType ?? 0, tiled ?? null)];
  },
  Pad: (view) => {
    const { inputs } = view;
    const dims = inputs[0]?.dims ?? null;
    const pads = listOf(view, 'pads', 1) ?? null;
    if (dims === null || pads === null || pads.length !== 2 * dims.length || (inputs[3] ?? null) !== null) {
      return [info(inputs[0]?.elemType ?? 0, null)];
    }
    const padded = dims.map((dim, axis) => plus(dim, (pads[axis] ?? 0) + (pads[axis + dims.length] ?? 0)));
    return [info(inputs[0]?.elemType ?? 0, padded)];
  },
  Resize: resized,
  DepthToSpace: ({ node, inputs: [data] }) => [info(data?.elemType ?? 0, blocks(data?.dims ?? null, integer(node, 'blocksize', 0), false))],
  SpaceToDepth: ({ node, inputs: [data] }) => [info(data?.elemType ?? 0, blocks(data?.dims ?? null, integer(node, 'blocksize', 0), true))],
  Shape: ({ node, inputs: [data] }) => {
    const length = data?.dims?.slice(integer(node, 'start', 0), integer(node, 'end', data.dims.length)).length;
    return [info(DATATYPES.INT64, [length ?? null])];
  },
  Size: () => [info(DATATYPES.INT64, [])],
  ConstantOfShape: ({ node, inputs: [shape] }) => {
    const value = node.attribute.find(({ name }) => name === 'value')?.t;
    return [info(value?.dataType ?? DATATYPES.FP32, shape?.numbers ?? null)];
  },
  Constant: ({ node }) => {
    if (has(node, 'value_float')) return [info(DATATYPES.FP32, [])];
    if (has(node, 'value_int')) return [info(DATATYPES.INT64, [])];
    const ints = integers(node, 'value_ints');
    return ints === null ? [] : [info(DATATYPES.INT64, [ints.length])];
  },
  OneHot: ({ node, inputs: [indices, depth, values] }) => {
    const dims = indices?.dims ?? null;
    const axis = dims && axisOf(integer(node, 'axis', -1), dims.length + 1);
    return [info(values?.elemType ?? 0, dims === null || axis === null ? null : dims.toSpliced(axis, 0, depth?.numbers?.[0] ?? null))];
  },
};

/** As a dimension where that is enough: a batch times 1 is the batch. */
function folded(dims: Dims): Dim {
  const others = dims.filter((dim) => dim !== 1);
  return others.length === 1 ? (others[0] ?? null) : product(others);
}

function scaled(dim: Dim, by: Dim): Dim {
  if (by === 1) return dim;
  return typeof dim === 'number' && typeof by === 'number' ? dim * by : null;
}

function plus(dim: Dim, more: number): Dim {
  if (more === 0) return dim;
  return typeof dim === 'number' ? dim + more : null;
}

/** In a target, 0 is the size that was there and −1 what is left. */
function reshaped(dims: Dims | null, target: Dims | null, zeroIsZero: boolean): Dims | null {
  if (target === null) return null;
  const kept = target.map((dim, axis) => (dim === 0 && !zeroIsZero ? (dims?.[axis] ?? null) : dim));
  const rest = kept.indexOf(-1);
  if (rest === -1) return kept;
  return kept.with(rest, dims === null ? null : quotient(dims, kept.toSpliced(rest, 1)));
}

/** The size by which `others` has as many elements as `dims`; a batch may stand on both sides, or be it. */
function quotient(dims: Dims, others: Dims): Dim {
  const batches = [dims, others].map((side) => side.filter((dim) => dim === 'rows').length);
  const [whole, part] = [dims, others].map((side) => product(side.filter((dim) => dim !== 'rows')));
  if (whole === undefined || whole === null || !part) return null;
  if (batches[0] === batches[1] && (batches[0] ?? 0) <= 1) return whole % part === 0 ? whole / part : null;
  return batches[0] === 1 && batches[1] === 0 && whole === part ? 'rows' : null;
}

function squeezed(dims: Dims | null, axes: number[] | null | undefined): Dims | null {
  if (dims === null || axes === null) return null;
  if (axes === undefined) return dims.every((dim) => typeof dim === 'number') ? dims.filter((dim) => dim !== 1) : null;
  const front = axes.length > dims.length ? null : axesOf(axes, dims.length);
  return front && dims.filter((_, axis) => !front.includes(axis));
}

function unsqueezed(dims: Dims | null, axes: number[] | null): Dims | null {
  if (dims === null || axes === null || dims.length + axes.length > RANK_MAX) return null;
  const front = axesOf(axes, dims.length + axes.length);
  if (front === null || new Set(front).size !== front.length) return null;
  const left = [...dims];
  return Array.from({ length: dims.length + axes.length }, (_, axis) => (front.includes(axis) ? 1 : (left.shift() ?? null)));
}

function concatenated(shapes: readonly Dims[], axisGiven: number): Dims | null {
  const rank = shapes[0]?.length ?? 0;
  const axis = axisOf(axisGiven, rank);
  if (axis === null || shapes.some((one) => one.length !== rank)) return null;
  return Array.from({ length: rank }, (_, at) => {
    const sizes = shapes.map((one) => one[at] ?? null);
    if (at === axis) return sizes.every((one) => typeof one === 'number') ? sizes.reduce((sum, one) => sum + one, 0) : null;
    // All are the same, so that one of them tells; a batch that stands against something else does not.
    const told = new Set(sizes.filter((one) => one !== null));
    return told.size === 1 ? ([...told][0] ?? null) : null;
  });
}

/** The size of each output of a Split; a node may have very many, so that nothing is looked up for each. */
function partsOf(view: NodeView, dim: Dim): (index: number) => Dim {
  const parts = listOf(view, 'split', 1);
  if (parts !== undefined) return (index) => parts?.[index] ?? null;
  const count = integer(view.node, 'num_outputs', view.node.output.length);
  if (typeof dim !== 'number') return () => null;
  const size = Math.ceil(dim / count);
  return (index) => Math.max(0, Math.min(size, dim - index * size));
}

function sliced(view: NodeView): Dims | null {
  const dims = view.inputs[0]?.dims ?? null;
  const starts = listOf(view, 'starts', 1);
  const ends = listOf(view, 'ends', 2);
  const axes = listOf(view, 'axes', 3) ?? (view.inputs[3] ? null : starts?.map((_, axis) => axis));
  const steps = listOf(view, 'steps', 4) ?? (view.inputs[4] ? null : starts?.map(() => 1));
  if (dims === null || !starts || !ends) return null;
  const front = axes && axesOf(axes, dims.length);
  if (!front || new Set(front).size !== front.length || !steps) return dims.map(() => null);
  const result: Dim[] = [...dims];
  for (const [index, axis] of front.entries()) {
    result[axis] = cut(dims[axis] ?? null, starts[index] ?? 0, ends[index] ?? 0, steps[index] ?? 1);
  }
  return result;
}

/** The size of a slice; a size that is not known is kept where all is taken. */
function cut(dim: Dim, start: number, end: number, step: number): Dim {
  if (start === 0 && step === 1 && end >= 2 ** 31 - 1) return dim;
  if (typeof dim !== 'number' || step === 0) return null;
  const clamp = (at: number, low: number, high: number): number => Math.min(Math.max(at < 0 ? at + dim : at, low), high);
  const [from, to] = step > 0 ? [clamp(start, 0, dim), clamp(end, 0, dim)] : [clamp(start, 0, dim - 1), clamp(end, -1, dim - 1)];
  return Math.max(0, Math.ceil((to - from) / step));
}

function resized({ node, opset, inputs, constants }: NodeView): ReturnType<ShapeRule> {
  const [data, , , sizes] = inputs;
  const dims = data?.dims ?? null;
  const plain = dims !== null && !has(node, 'axes') && text(node, 'keep_aspect_ratio_policy', 'stretch') === 'stretch';
  const stored = constants[opset < 11 ? 1 : 2] ?? null;
  const factors = stored && fractionsOf(stored);
  if (!plain || (sizes?.numbers ?? factors)?.length !== dims.length) return [info(data?.elemType ?? 0, null)];
  if (sizes?.numbers) return [info(data?.elemType ?? 0, sizes.numbers)];
  const scaledDims = dims.map((dim, axis): Dim => {
    const factor = factors?.[axis];
    if (factor === 1) return dim;
    if (typeof dim !== 'number' || factor === undefined) return null;
    // The runtime multiplies in single precision: near a whole number it may round to the next.
    const size = Math.floor(dim * factor);
    return size === Math.floor(Math.fround(dim * factor)) ? size : null;
  });
  return [info(data?.elemType ?? 0, scaledDims)];
}

function blocks(dims: Dims | null, size: number, toDepth: boolean): Dims | null {
  const [batch, depth, high, wide] = dims ?? [];
  if (dims?.length !== 4 || batch === undefined || size < 1) return null;
  const times = (dim: Dim | undefined, by: number): Dim => (typeof dim === 'number' ? dim * by : null);
  const by = toDepth ? [size * size, 1 / size] : [1 / (size * size), size];
  return [batch, times(depth, by[0] ?? 1), times(high, by[1] ?? 1), times(wide, by[1] ?? 1)];
}
