import { type Application, axisOf, type Const, type Known, type Rows, rankOf, rowsOfRank, sparesRows } from './row-values.ts';

/** What the outputs of an operator are; null: that its rows do not touch is not proved. One for each output, or one for all. */
export type Rule = (of: Application) => Known | null;

const same: Rule = (of) => (of.constantFrom(1) ? of.rows(0) : null);
const sameRank = (of: Application): Rows | null => {
  const x = of.rows(0);
  return x && rowsOfRank(rankOf(x));
};

/** Each element by itself; constants are aligned at the last axis, and must reach the batch with a size of 1 at most. */
const elementwise: Rule = ({ inputs }) => {
  const rows = inputs.filter((input): input is Rows => input?.kind === 'ROWS');
  const [first] = rows;
  if (first === undefined || rows.some((other) => rankOf(other) !== rankOf(first))) return null;
  const fits = inputs.every((input) => input?.kind !== 'CONST' || isBesideRows(input, rankOf(first)));
  return fits ? rowsOfRank(rankOf(first)) : null;
};

function isBesideRows({ dims }: Const, rank: number): boolean {
  return dims !== null && (dims.length < rank || (dims.length === rank && dims[0] === 1));
}

const isScalar = ({ dims }: Const) => dims !== null && dims.length <= 1 && (dims[0] ?? 1) === 1;

const matMul: Rule = (of) => {
  const [a, b] = [of.inputs[0], of.inputs[1]];
  if (a?.kind === 'ROWS' && b?.kind === 'CONST') return rankOf(a) >= 2 && b.dims?.length === 2 ? rowsOfRank(rankOf(a)) : null;
  if (a?.kind === 'CONST' && b?.kind === 'ROWS') return rankOf(b) >= 3 && a.dims?.length === 2 ? rowsOfRank(rankOf(b)) : null;
  if (a?.kind === 'ROWS' && b?.kind === 'ROWS') return rankOf(a) >= 3 && rankOf(a) === rankOf(b) ? rowsOfRank(rankOf(a)) : null;
  return null;
};

const gemm: Rule = (of) => {
  const [a, c] = [of.rows(0), of.inputs[2]];
  const bias = c === undefined || (c.kind === 'CONST' && isBesideRows(c, 2));
  return a && rankOf(a) === 2 && of.int('transA', 0) === 0 && of.constant(1) && bias ? rowsOfRank(2) : null;
};

/** Over the axes behind the channels, with constant weights. */
const spatial: Rule = (of) => {
  const x = sameRank(of);
  return x && rankOf(x) >= 3 && of.constantFrom(1) && of.node.output.length === 1 ? x : null;
};

const globalPool: Rule = (of) => {
  const x = sameRank(of);
  return x && rankOf(x) >= 3 ? x : null;
};

const batchNormalization: Rule = (of) =>
  of.int('training_mode', 0) === 0 && of.node.output.length === 1 && of.constantFrom(1) && of.opset >= 9 ? same(of) : null;

/** Along one axis, which `fallback` is where none is given. */
const along =
  (fallback: number): Rule =>
  (of) => {
    const x = of.rows(0);
    return x && of.constantFrom(1) && sparesRows([of.int('axis', fallback)], rankOf(x)) ? rowsOfRank(rankOf(x)) : null;
  };

/** Scale and bias are of the normalised axes, which the batch is none of. */
const layerNormalization: Rule = (of) => {
  const x = of.rows(0);
  const fits = x && of.inputs.slice(1).every((input) => input?.kind === 'CONST' && input.dims !== null && input.dims.length < rankOf(x));
  return fits ? along(-1)(of) : null;
};

const flatten: Rule = (of) => (of.rows(0) && of.int('axis', 1) === 1 ? rowsOfRank(2) : null);

const reshape: Rule = (of) => {
  const [x, shape] = [of.rows(0), of.constant(1)?.ints];
  if (!x || !shape || shape.length === 0 || of.int('allowzero', 0) !== 0) return null;
  const [first, ...rest] = shape;
  const wanted = { kind: 'ROWS', tail: rest.map((size) => (size > 0 ? size : null)) } as const;
  if (first === 0) return wanted;
  // The rows are what is left over where the others take a row each.
  const size = (sizes: readonly (number | null)[]) =>
    sizes.reduce<number | null>((product, one) => (product === null || one === null ? null : product * one), 1);
  const row = size(x.tail);
  return first === -1 && row !== null && row > 0 && rest.every((one) => one > 0) && size(rest) === row ? wanted : null;
};

const squeeze: Rule = (of) => {
  const x = of.rows(0);
  const axes = of.ints('axes', 1);
  return x && sparesRows(axes, rankOf(x)) ? rowsOfRank(rankOf(x) - axes.length) : null;
};

const unsqueeze: Rule = (of) => {
  const x = of.rows(0);
  const axes = of.ints('axes', 1);
  return x && axes && sparesRows(axes, rankOf(x) + axes.length) ? rowsOfRank(rankOf(x) + axes.length) : null;
};

const transpose: Rule = (of) => {
  const x = of.rows(0);
  const perm = of.attribute('perm')?.ints.map(Number);
  return x && perm?.length === rankOf(x) && perm[0] === 0 ? rowsOfRank(rankOf(x)) : null;
};

const concat: Rule = (of) => {
  const all = of.inputs.map((input) => (input?.kind === 'ROWS' ? input : null));
  const [first] = all;
  const fit = first && all.every((one) => one !== null && rankOf(one) === rankOf(first));
  return fit && of.attribute('axis') && sparesRows([of.int('axis', 0)], rankOf(first)) ? rowsOfRank(rankOf(first)) : null;
};

const slice: Rule = (of) => {
  const x = of.rows(0);
  return x && of.constantFrom(1) && sparesRows(of.ints('axes', 3), rankOf(x)) ? rowsOfRank(rankOf(x)) : null;
};

const gather: Rule = (of) => {
  const [data, indices] = [of.inputs[0], of.inputs[1]];
  if (data?.kind === 'ROWS' && indices?.kind === 'CONST' && indices.dims)
    return sparesRows([of.int('axis', 0)], rankOf(data)) ? rowsOfRank(rankOf(data) + indices.dims.length - 1) : null;
  // A table of the file: each index finds its own entry.
  if (data?.kind === 'CONST' && indices?.kind === 'ROWS' && data.dims)
    return axisOf(of.int('axis', 0), data.dims.length) === 0 ? rowsOfRank(rankOf(indices) + data.dims.length - 1) : null;
  return null;
};

function keepsDims(of: Application, x: Rows, reduced: number): Rows | null {
  const keeps = of.int('keepdims', 1);
  if (keeps !== 0 && keeps !== 1) return null;
  return rowsOfRank(rankOf(x) - (keeps === 1 ? 0 : reduced));
}

const reduce: Rule = (of) => {
  const x = of.rows(0);
  const axes = of.ints('axes', 1);
  if (!x || !sparesRows(axes, rankOf(x))) return null;
  return keepsDims(of, x, axes.length);
};

const argument: Rule = (of) => {
  const x = of.rows(0);
  if (!x || !sparesRows([of.int('axis', 0)], rankOf(x))) return null;
  return keepsDims(of, x, 1);
};

const oneHot: Rule = (of) => {
  const x = of.rows(0);
  return x && of.constantFrom(1) && sparesRows([of.int('axis', -1)], rankOf(x) + 1) ? rowsOfRank(rankOf(x) + 1) : null;
};

const pad: Rule = (of) => {
  const x = of.rows(0);
  const pads = of.ints('pads', 1);
  const fits = x && of.inputs.length <= 3 && of.constantFrom(1) && pads?.length === 2 * rankOf(x);
  return fits && pads[0] === 0 && pads[rankOf(x)] === 0 ? rowsOfRank(rankOf(x)) : null;
};

/** One scale for all, or one for each entry of an axis that is not the batch. */
const quantize: Rule = (of) => {
  const [x, scale] = [of.rows(0), of.constant(1)];
  if (!x || !scale?.dims || !of.constantFrom(1)) return null;
  const perAxis = scale.dims.length === 1 && sparesRows([of.int('axis', 1)], rankOf(x));
  return isScalar(scale) || perAxis ? rowsOfRank(rankOf(x)) : null;
};

const integerMatMul: Rule = (of) => {
  const zero = of.inputs[2];
  return of.rows(0) && (zero === undefined || (zero.kind === 'CONST' && isScalar(zero))) && of.constantFrom(1) ? matMul(of) : null;
};

const quantizedMatMul: Rule = (of) => {
  const [a, scale, zero, b] = [of.rows(0), of.constant(1), of.constant(2), of.constant(3)];
  const fits = a && scale && zero && isScalar(scale) && isScalar(zero) && of.constantFrom(1) && b?.dims?.length === 2 && rankOf(a) >= 2;
  return fits ? rowsOfRank(rankOf(a)) : null;
};

const dropout: Rule = (of) => (of.opset >= 7 && of.inputs[2] === undefined && of.node.output.length === 1 ? same(of) : null);

/** ONNX-ML's operators on [N, C]. */
const table: Rule = (of) => {
  const x = of.rows(0);
  return x && rankOf(x) === 2 && of.inputs.length === 1 ? rowsOfRank(2) : null;
};

const all = (rule: Rule, ...names: string[]): [string, Rule][] => names.map((name) => [name, rule]);

/** By operator; those of other domains than ONNX's own with their domain. What is not here is not proved. */
export const RULES: ReadonlyMap<string, Rule> = new Map([
  ...all(same, 'Relu', 'Sigmoid', 'Tanh', 'Exp', 'Log', 'Sqrt', 'Abs', 'Neg', 'Erf', 'Floor', 'Ceil', 'Round', 'Sign', 'Sin', 'Cos', 'Tan'),
  ...all(
    same,
    'Asin',
    'Acos',
    'Atan',
    'Sinh',
    'Cosh',
    'Asinh',
    'Acosh',
    'Atanh',
    'Softplus',
    'Softsign',
    'Elu',
    'Selu',
    'LeakyRelu',
    'Celu',
  ),
  ...all(
    same,
    'HardSigmoid',
    'HardSwish',
    'ThresholdedRelu',
    'Identity',
    'Cast',
    'Not',
    'IsNaN',
    'IsInf',
    'Reciprocal',
    'Gelu',
    'Mish',
    'BitwiseNot',
    'Clip',
  ),
  ...all(elementwise, 'Add', 'Sub', 'Mul', 'Div', 'Pow', 'Max', 'Min', 'Mean', 'Sum', 'And', 'Or', 'Xor', 'Equal', 'Greater', 'Less'),
  ...all(elementwise, 'GreaterOrEqual', 'LessOrEqual', 'Where', 'Mod', 'PRelu', 'BitShift', 'BitwiseAnd', 'BitwiseOr', 'BitwiseXor'),
  ...all(matMul, 'MatMul'),
  ...all(gemm, 'Gemm'),
  ...all(
    spatial,
    'Conv',
    'ConvTranspose',
    'MaxPool',
    'AveragePool',
    'LpPool',
    'LRN',
    'InstanceNormalization',
    'ConvInteger',
    'QLinearConv',
  ),
  ...all(globalPool, 'GlobalAveragePool', 'GlobalMaxPool', 'GlobalLpPool'),
  ...all(batchNormalization, 'BatchNormalization'),
  ...all(layerNormalization, 'LayerNormalization'),
  ...all(along(-1), 'LpNormalization'),
  ...all((of) => along(of.opset >= 13 ? -1 : 1)(of), 'Softmax', 'LogSoftmax', 'Hardmax'),
  ...all(along(0), 'Split'),
  ...all(along(-1), 'TopK'),
  ...all(flatten, 'Flatten'),
  ...all(reshape, 'Reshape'),
  ...all(squeeze, 'Squeeze'),
  ...all(unsqueeze, 'Unsqueeze'),
  ...all(transpose, 'Transpose'),
  ...all(concat, 'Concat'),
  ...all(slice, 'Slice'),
  ...all(gather, 'Gather'),
  ...all(
    reduce,
    'ReduceSum',
    'ReduceMean',
    'ReduceMax',
    'ReduceMin',
    'ReduceProd',
    'ReduceL1',
    'ReduceL2',
    'ReduceLogSum',
    'ReduceLogSumExp',
    'ReduceSumSquare',
  ),
  ...all(argument, 'ArgMax', 'ArgMin'),
  ...all(oneHot, 'OneHot'),
  ...all(pad, 'Pad'),
  ...all(quantize, 'QuantizeLinear', 'DequantizeLinear'),
  ...all(integerMatMul, 'MatMulInteger'),
  ...all(quantizedMatMul, 'QLinearMatMul'),
  ...all(dropout, 'Dropout'),
  ...all(same, 'ai.onnx.ml.Binarizer', 'ai.onnx.ml.LabelEncoder'),
  ...all(
    table,
    'ai.onnx.ml.Imputer',
    'ai.onnx.ml.Scaler',
    'ai.onnx.ml.Normalizer',
    'ai.onnx.ml.LinearRegressor',
    'ai.onnx.ml.TreeEnsembleRegressor',
  ),
]);
