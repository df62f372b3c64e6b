import { DATATYPES, graph, model, type OnnxModel, value } from '../inference/onnx/onnx.ts';
import { layForward, type Net } from './net.ts';
import { ROWS, Tape } from './tape.ts';

export const LABELS = 'labels';
export const LOSS = 'loss';

/**
 * Lays forward pass, loss and backward pass of a classifier on a tape: the loss is on it under LOSS, a scalar, and `tape.gradients` names
 * ∂L/∂parameter for every parameter. Inputs: the net's, LABELS (INT64 [N], each in [0, classes)), the masks and the parameters.
 *
 * The loss is sparse categorical cross-entropy over the net's closing softmax, averaged over the rows:
 * L = −1/n Σ log s[label], hence ∂L/∂logits = (s − onehot(label)) / n. Errors: RangeError for a net that does not end in one softmax row.
 */
export function layGradient(net: Net): Tape {
  const [classes] = net.outputDims;
  if (classes === undefined || !endsInSoftmax(net)) throw new RangeError('cross-entropy wants a net that ends in softmax');
  const tape = new Tape(net.precision);
  const layers = net.layers.slice(0, -1);
  const { output: logits, laid } = layForward(net, layers, tape, 'train');
  for (const one of net.parameters) tape.feed(one.name, net.precision, one.dims);
  let gradient = layCrossEntropy(tape, logits, classes);
  const first = layers.findIndex((one) => one.parameters.length > 0);
  for (let index = laid.length - 1; index >= first; index--) {
    gradient = laid[index]?.backward(gradient, { input: index > first }) ?? gradient;
  }
  return tape;
}

/** A graph that answers the loss and, under `<parameter>.gradient`, all gradients: what a check against finite differences runs. */
export function gradientModel(net: Net): OnnxModel {
  const tape = layGradient(net);
  const outputs = [value(LOSS, net.precision, [])];
  for (const { name, dims } of net.parameters) {
    tape.op('Identity', [tape.gradients.get(name) ?? ''], {}, `${name}.gradient`);
    outputs.push(value(`${name}.gradient`, net.precision, dims));
  }
  return model(graph({ name: 'gradient', nodes: tape.nodes, inputs: tape.inputs, outputs, initializers: tape.constants }));
}

function endsInSoftmax(net: Net): boolean {
  const last = net.spec.layers.at(-1);
  return last?.kind === 'softmax' || (last?.kind === 'dense' && last.activation === 'softmax');
}

/** Gives ∂L/∂logits. Log-softmax rather than the log of softmax: it cannot overflow. */
function layCrossEntropy(tape: Tape, logits: string, classes: number): string {
  tape.feed(LABELS, 'INT64', [ROWS]);
  const column = tape.op('Unsqueeze', [LABELS, tape.integers([1])]);
  const every = tape.integers(
    Array.from({ length: classes }, (_, index) => index),
    [1, classes],
  );
  const cast = { to: DATATYPES[tape.precision] };
  const onehot = tape.op('Cast', [tape.op('Equal', [column, every])], cast);
  const rows = tape.op('Cast', [tape.op('Size', [LABELS])], cast);
  const logs = tape.op('LogSoftmax', [logits], { axis: -1 });
  const total = tape.op('ReduceSum', [tape.op('Mul', [onehot, logs])], { keepdims: 0 });
  tape.op('Neg', [tape.op('Div', [total, rows])], {}, LOSS);
  return tape.op('Div', [tape.op('Sub', [tape.op('Exp', [logs]), onehot]), rows]);
}
