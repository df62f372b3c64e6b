import { has, integer, integers, text } from './attributes.ts';
import { DATATYPES } from './datatypes.ts';
import { axesOf, axisOf, broadcast, type Dim, type Dims, info } from './dims.ts';
import type { ShapeRule } from './shape-rules.ts';
import type { NodeView } from './shapes.ts';
import { listOf } from './shapes-moving.ts';

/** Operators that make new numbers out of several elements. */
export const COMPUTING: Record<string, ShapeRule> = {
  MatMul: ({ inputs: [a, b] }) => [info(a?.elemType ?? 0, multiplied(a?.dims ?? null, b?.dims ?? null))],
  MatMulInteger: ({ inputs: [a, b] }) => [info(DATATYPES.INT32, multiplied(a?.dims ?? null, b?.dims ?? null))],
  QLinearMatMul: ({ inputs: [a, , , b, , , , zero] }) => [info(zero?.elemType ?? 0, multiplied(a?.dims ?? null, b?.dims ?? null))],
  'com.microsoft.MatMulNBits': ({ node, inputs: [a] }) => {
    const dims = a?.dims ?? null;
    return [info(a?.elemType ?? 0, dims === null || dims.length < 2 ? null : dims.with(-1, integer(node, 'N', 0)))];
  },
  Gemm: gemm,
  'com.microsoft.FusedGemm': gemm,
  'com.microsoft.QGemm': ({ node, inputs: [a, , , b, , , , , zero] }) => [
    info(zero?.elemType ?? DATATYPES.FP32, gemmDims(node, a?.dims ?? null, b?.dims ?? null)),
  ],
  Einsum: ({ node, inputs }) => [
    info(
      inputs[0]?.elemType ?? 0,
      summed(
        text(node, 'equation', ''),
        inputs.map((one) => one?.dims ?? null),
      ),
    ),
  ],
  Conv: (view) => [info(view.inputs[0]?.elemType ?? 0, convolved(view, 0, 1))],
  'com.microsoft.FusedConv': (view) => [info(view.inputs[0]?.elemType ?? 0, convolved(view, 0, 1))],
  ConvInteger: (view) => [info(DATATYPES.INT32, convolved(view, 0, 1))],
  QLinearConv: (view) => [info(view.inputs[7]?.elemType ?? 0, convolved(view, 0, 3))],
  ConvTranspose: (view) => [info(view.inputs[0]?.elemType ?? 0, transposedConvolved(view))],
  MaxPool: (view) => {
    const dims = pooled(view);
    return [info(view.inputs[0]?.elemType ?? 0, dims), info(DATATYPES.INT64, dims)];
  },
  AveragePool: (view) => [info(view.inputs[0]?.elemType ?? 0, pooled(view))],
  LpPool: (view) => [info(view.inputs[0]?.elemType ?? 0, has(view.node, 'dilations') ? null : pooled(view))],
  GlobalAveragePool: globallyPooled,
  GlobalMaxPool: globallyPooled,
  GlobalLpPool: globallyPooled,
  ArgMax: argument,
  ArgMin: argument,
  TopK: ({ node, inputs: [data, k] }) => {
    const dims = data?.dims ?? null;
    const axis = dims && axisOf(integer(node, 'axis', -1), dims.length);
    const top = dims === null || axis === null ? null : dims.with(axis, k?.numbers?.[0] ?? null);
    return [info(data?.elemType ?? 0, top), info(DATATYPES.INT64, top)];
  },
  QuantizeLinear: ({ node, inputs: [data, , zero] }) => [
    info(zero?.elemType ?? integer(node, 'output_dtype', DATATYPES.UINT8), data?.dims ?? null),
  ],
  DequantizeLinear: ({ inputs: [data, scale] }) => [info(scale?.elemType ?? 0, data?.dims ?? null)],
  DynamicQuantizeLinear: ({ inputs: [data] }) => [
    info(DATATYPES.UINT8, data?.dims ?? null),
    info(DATATYPES.FP32, []),
    info(DATATYPES.UINT8, []),
  ],
  ...Object.fromEntries(['Add', 'Mul'].map((one) => [`com.microsoft.QLinear${one}`, quantisedPair] as const)),
  'ai.onnx.ml.Scaler': ({ inputs: [data] }) => [info(DATATYPES.FP32, data?.dims ?? null)],
  'ai.onnx.ml.Normalizer': ({ inputs: [data] }) => [info(DATATYPES.FP32, data?.dims ?? null)],
  'ai.onnx.ml.Imputer': ({ inputs: [data] }) => [info(data?.elemType ?? 0, data?.dims ?? null)],
  'ai.onnx.ml.LabelEncoder': ({ inputs: [data] }) => [info(0, data?.dims ?? null)],
  'ai.onnx.ml.LinearRegressor': scores('targets'),
  'ai.onnx.ml.TreeEnsembleRegressor': scores('n_targets'),
  'ai.onnx.ml.TreeEnsemble': scores('n_targets'),
  'ai.onnx.ml.LinearClassifier': classes,
  'ai.onnx.ml.TreeEnsembleClassifier': classes,
};

/** Of a reduction over `axes`, all where there are none. */
export function reduced(view: NodeView): ReturnType<ShapeRule> {
  const { node, inputs } = view;
  const data = inputs[0] ?? null;
  const dims = data?.dims ?? null;
  const axes = listOf(view, 'axes', 1);
  const none = axes === undefined || axes?.length === 0;
  if (dims === null || axes === null || (axes?.length ?? 0) > dims.length) return [info(data?.elemType ?? 0, null)];
  if (none && integer(node, 'noop_with_empty_axes', 0) !== 0) return [info(data?.elemType ?? 0, dims)];
  const front = none ? dims.map((_, axis) => axis) : axesOf(axes ?? [], dims.length);
  return [info(data?.elemType ?? 0, front && without(dims, front, integer(node, 'keepdims', 1) !== 0))];
}

function argument({ node, inputs: [data] }: NodeView): ReturnType<ShapeRule> {
  const dims = data?.dims ?? null;
  const axis = dims && axisOf(integer(node, 'axis', 0), dims.length);
  return [info(DATATYPES.INT64, dims === null || axis === null ? null : without(dims, [axis], integer(node, 'keepdims', 1) !== 0))];
}

function without(dims: Dims, axes: readonly number[], keep: boolean): Dims {
  return keep ? dims.map((dim, axis) => (axes.includes(axis) ? 1 : dim)) : dims.filter((_, axis) => !axes.includes(axis));
}

function multiplied(a: Dims | null, b: Dims | null): Dims | null {
  if (a === null || b === null || a.length === 0 || b.length === 0) return null;
  const [left, right] = [a.length === 1 ? [1, ...a] : a, b.length === 1 ? [...b, 1] : b];
  const stack = broadcast([left.slice(0, -2), right.slice(0, -2)]);
  const matrix = [...(a.length === 1 ? [] : [left.at(-2) ?? null]), ...(b.length === 1 ? [] : [right.at(-1) ?? null])];
  return stack && [...stack, ...matrix];
}

function gemm({ node, inputs: [a, b] }: NodeView): ReturnType<ShapeRule> {
  return [info(a?.elemType ?? 0, gemmDims(node, a?.dims ?? null, b?.dims ?? null))];
}

function gemmDims(node: NodeView['node'], a: Dims | null, b: Dims | null): Dims | null {
  if (a?.length !== 2 || b?.length !== 2) return null;
  return [a[integer(node, 'transA', 0) === 0 ? 0 : 1] ?? null, b[integer(node, 'transB', 0) === 0 ? 1 : 0] ?? null];
}

/** Of an equation with letters only, one for each dimension. */
function summed(equation: string, shapes: readonly (Dims | null)[]): Dims | null {
  const [left = '', right] = equation.replaceAll(/\s/g, '').split('->');
  const terms = left.split(',');
  if (right === undefined || !/^[A-Za-z,]*$/.test(left + right) || terms.length !== shapes.length) return null;
  const sizes = new Map<string, Dim>();
  for (const [index, term] of terms.entries()) {
    const dims = shapes[index] ?? null;
    if (dims?.length !== term.length) return null;
    for (const [axis, letter] of [...term].entries()) {
      const dim = dims[axis] ?? null;
      if (!sizes.has(letter) || sizes.get(letter) === 1) sizes.set(letter, dim);
    }
  }
  const result = [...right].map((letter) => sizes.get(letter));
  return result.every((dim) => dim !== undefined) ? result : null;
}

type Window = {
  kernel: readonly Dim[];
  strides: readonly number[];
  dilations: readonly number[];
  pads: readonly number[];
  auto: string;
  ceil: boolean;
};

function windowOf({ node }: NodeView, kernel: readonly Dim[]): Window {
  const ones = kernel.map(() => 1);
  return {
    kernel,
    strides: integers(node, 'strides') ?? ones,
    dilations: integers(node, 'dilations') ?? ones,
    pads: integers(node, 'pads') ?? [...ones, ...ones].map(() => 0),
    auto: text(node, 'auto_pad', 'NOTSET'),
    ceil: integer(node, 'ceil_mode', 0) !== 0,
  };
}

function slid(dim: Dim, axis: number, { kernel, strides, dilations, pads, auto, ceil }: Window): Dim {
  const [size, stride = 0, dilation = 0] = [kernel[axis] ?? null, strides[axis], dilations[axis]];
  const odd = stride < 1 || dilation < 1 || pads.length !== 2 * kernel.length || pads.some((pad) => pad < 0);
  if (typeof dim !== 'number' || typeof size !== 'number' || odd) return null;
  if (auto === 'SAME_UPPER' || auto === 'SAME_LOWER') return Math.ceil(dim / stride);
  const before = auto === 'VALID' ? 0 : (pads[axis] ?? 0);
  const padding = auto === 'VALID' ? 0 : before + (pads[axis + kernel.length] ?? 0);
  const steps = (dim + padding - dilation * (size - 1) - 1) / stride;
  const count = Math.max(0, (ceil ? Math.ceil(steps) : Math.floor(steps)) + 1);
  // Whether a last window that starts in the padding counts has changed between versions.
  return ceil && (count - 1) * stride >= dim + before ? null : count;
}

function convolved(view: NodeView, data: number, weights: number): Dims | null {
  const [dims, kernel] = [view.inputs[data]?.dims ?? null, view.inputs[weights]?.dims ?? null];
  if (dims === null || kernel === null || dims.length < 3 || kernel.length !== dims.length) return null;
  const window = windowOf(view, kernel.slice(2));
  return [dims[0] ?? null, kernel[0] ?? null, ...dims.slice(2).map((dim, axis) => slid(dim, axis, window))];
}

function transposedConvolved(view: NodeView): Dims | null {
  const [data, kernel] = [view.inputs[0]?.dims ?? null, view.inputs[1]?.dims ?? null];
  if (data === null || kernel === null || data.length < 3 || kernel.length !== data.length) return null;
  const { strides, dilations, pads, auto, kernel: sizes } = windowOf(view, kernel.slice(2));
  const extra = integers(view.node, 'output_padding') ?? [];
  const shape = integers(view.node, 'output_shape');
  const channels = kernel[1];
  const spatial = data.slice(2).map((dim, axis): Dim => {
    const size = sizes[axis];
    if (shape !== null || auto !== 'NOTSET' || typeof dim !== 'number' || typeof size !== 'number') return null;
    const reach = (dilations[axis] ?? 1) * (size - 1) + 1;
    return (strides[axis] ?? 1) * (dim - 1) + (extra[axis] ?? 0) + reach - (pads[axis] ?? 0) - (pads[axis + sizes.length] ?? 0);
  });
  const groups = integer(view.node, 'group', 1);
  return [data[0] ?? null, typeof channels === 'number' ? channels * groups : null, ...spatial];
}

function pooled(view: NodeView): Dims | null {
  const dims = view.inputs[0]?.dims ?? null;
  const kernel = integers(view.node, 'kernel_shape');
  if (dims === null || dims.length < 3 || kernel?.length !== dims.length - 2) return null;
  const window = windowOf(view, kernel);
  return [...dims.slice(0, 2), ...dims.slice(2).map((dim, axis) => slid(dim, axis, window))];
}

function globallyPooled({ inputs: [data] }: NodeView): ReturnType<ShapeRule> {
  const dims = data?.dims ?? null;
  return [info(data?.elemType ?? 0, dims === null || dims.length < 3 ? null : dims.map((dim, axis) => (axis < 2 ? dim : 1)))];
}

function quantisedPair({ inputs: [a, , , b] }: NodeView): ReturnType<ShapeRule> {
  return [info(a?.elemType ?? 0, broadcast([a?.dims ?? null, b?.dims ?? null]))];
}

function scores(attribute: string): ShapeRule {
  return ({ node, inputs: [data] }) => {
    const dims = data?.dims ?? null;
    const type = attribute === 'targets' ? DATATYPES.FP32 : 0;
    return [info(type, dims?.length === 2 ? [dims[0] ?? null, integer(node, attribute, 1)] : null)];
  };
}

function classes({ node, inputs: [data] }: NodeView): ReturnType<ShapeRule> {
  const dims = data?.dims ?? null;
  if (dims?.length !== 2) return [];
  const rows = dims[0] ?? null;
  const numbers = node.attribute.find(({ name = '' }) => name === 'classlabels_ints' || name === 'classlabels_int64s')?.ints.length ?? 0;
  return [info(numbers > 0 ? DATATYPES.INT64 : DATATYPES.BYTES, [rows]), info(DATATYPES.FP32, [rows, null])];
}
