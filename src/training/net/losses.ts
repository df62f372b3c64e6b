import { DATATYPES } from '../../inference/onnx/onnx.ts';
import type { Net } from './sequential.ts';
import { ROWS, type Tape } from './tape.ts';

/** Input of targets: INT64 [N] classes, or in the net's precision [N, k] numbers. */
export const TARGETS = '/targets';
/** Output of the loss: a scalar, the mean over the rows. */
export const LOSS = '/loss';

export type LossKind = 'MEAN_SQUARED_ERROR' | 'SPARSE_CROSS_ENTROPY' | 'BINARY_CROSS_ENTROPY';

export type Loss = {
  /** How many of the net's layers stand before the loss: a closing softmax or sigmoid is part of it, for numbers that cannot overflow. */
  layersOf(net: Net): number;
  /** Lays the loss under LOSS, and gives its gradient with respect to `output`. */
  lay(tape: Tape, net: Net, output: string): string;
};

/** Errors: RangeError for a net that does not end as the loss wants, with its last layer. */
export function lossOf(kind: LossKind, net: Net): Loss {
  const fault = faultOf(kind, net);
  if (fault !== null) throw new RangeError(`layers: ${kind} wants a net that ends in ${fault}`);
  return LOSSES[kind];
}

function faultOf(kind: LossKind, { last, outputDims }: Net): string | null {
  if (kind === 'MEAN_SQUARED_ERROR') return outputDims.length === 1 ? null : 'flat rows, one unit for each target';
  if (kind === 'SPARSE_CROSS_ENTROPY') return last === 'softmax' ? null : 'softmax, one unit for each class';
  return last === 'sigmoid' && outputDims.join() === '1' ? null : 'one unit with sigmoid';
}

const LOSSES: Record<LossKind, Loss> = {
  MEAN_SQUARED_ERROR: { layersOf: ({ layers }) => layers.length, lay: laySquaredError },
  SPARSE_CROSS_ENTROPY: { layersOf: ({ layers }) => layers.length - 1, lay: layCrossEntropy },
  BINARY_CROSS_ENTROPY: { layersOf: ({ layers }) => layers.length - 1, lay: layBinaryCrossEntropy },
};

/** L = 1/(2n) Σ (y − ŷ)² over n rows and all targets; ∂L/∂ŷ = (ŷ − y) / n. */
function laySquaredError(tape: Tape, net: Net, output: string): string {
  tape.feed(TARGETS, tape.precision, [ROWS, ...net.outputDims]);
  const difference = tape.op('Sub', [output, TARGETS]);
  const total = sumOf(tape, tape.op('Mul', [difference, difference]));
  const rows = rowsOf(tape);
  tape.op('Div', [total, tape.op('Mul', [rows, tape.constant([2])])], {}, LOSS);
  return tape.op('Div', [difference, rows]);
}

/** L = −1/n Σ log softmax(z)[y]; ∂L/∂z = (softmax(z) − onehot(y)) / n. Log-softmax rather than the log of softmax: it cannot overflow. */
function layCrossEntropy(tape: Tape, net: Net, output: string): string {
  tape.feed(TARGETS, 'INT64', [ROWS]);
  const [classes = 0] = net.outputDims;
  const every = tape.integers([...Array(classes).keys()], [1, classes]);
  const isClass = tape.op('Equal', [tape.op('Unsqueeze', [TARGETS, tape.integers([1])]), every]);
  const onehot = tape.op('Cast', [isClass], { to: DATATYPES[tape.precision] });
  const logs = tape.op('LogSoftmax', [output], { axis: -1 });
  const rows = rowsOf(tape);
  tape.op('Neg', [tape.op('Div', [sumOf(tape, tape.op('Mul', [onehot, logs])), rows])], {}, LOSS);
  return tape.op('Div', [tape.op('Sub', [tape.op('Exp', [logs]), onehot]), rows]);
}

/** L = 1/n Σ max(z, 0) − z y + log(1 + exp(−|z|)), which is −log of the probability of y; ∂L/∂z = (sigmoid(z) − y) / n. */
function layBinaryCrossEntropy(tape: Tape, _net: Net, output: string): string {
  tape.feed(TARGETS, 'INT64', [ROWS]);
  const column = tape.op('Unsqueeze', [TARGETS, tape.integers([1])]);
  const truth = tape.op('Cast', [column], { to: DATATYPES[tape.precision] });
  const rest = tape.op('Log', [tape.op('Add', [tape.op('Exp', [tape.op('Neg', [tape.op('Abs', [output])])]), tape.constant([1])])]);
  const sides = tape.op('Sub', [tape.op('Relu', [output]), tape.op('Mul', [output, truth])]);
  const rows = rowsOf(tape);
  tape.op('Div', [sumOf(tape, tape.op('Add', [sides, rest])), rows], {}, LOSS);
  return tape.op('Div', [tape.op('Sub', [tape.op('Sigmoid', [output]), truth]), rows]);
}

function sumOf(tape: Tape, values: string): string {
  return tape.op('ReduceSum', [values], { keepdims: 0 });
}

/** The number of rows as a scalar in the net's precision. */
function rowsOf(tape: Tape): string {
  const [rows] = [tape.op('Shape', [TARGETS], { start: 0, end: 1 })];
  return tape.op('Cast', [tape.op('Squeeze', [rows, tape.integers([0])])], { to: DATATYPES[tape.precision] });
}
