import { graph, model, type OnnxModel, value } from '../../inference/onnx/onnx.ts';
import { LOSS, type LossKind, lossOf } from './losses.ts';
import { layForward, type Net } from './sequential.ts';
import { ROWS, Tape } from './tape.ts';

/** Input of features, in the net's precision [N, …dims]. */
export const FEATURES = '/features';

/**
 * Lays forward pass, loss and backward pass of a net on a tape: LOSS is on it, `tape.gradients` names ∂L/∂parameter for every parameter, and
 * `tape.carried` what is carried on. Inputs: FEATURES, TARGETS, the masks, the parameters, and what is carried. Errors: RangeError as `lossOf`.
 */
export function layGradient(net: Net, kind: LossKind): Tape {
  const loss = lossOf(kind, net);
  const tape = new Tape(net.precision);
  tape.feed(FEATURES, net.precision, [ROWS, ...net.dims]);
  for (const { name, dims } of [...net.parameters, ...net.carried]) tape.feed(name, net.precision, dims);
  const layers = net.layers.slice(0, loss.layersOf(net));
  const { output, laid } = layForward(layers, tape, FEATURES, 'train');
  let gradient = loss.lay(tape, net, output);
  const first = layers.findIndex((one) => one.parameters.length > 0);
  for (let index = laid.length - 1; first >= 0 && index >= first; index--) {
    gradient = laid[index]?.backward(gradient, { input: index > first }) ?? gradient;
  }
  return tape;
}

/** A graph that answers the loss and, under `<parameter>.gradient`, all gradients: what a check against finite differences runs. */
export function gradientModel(net: Net, kind: LossKind): OnnxModel {
  const tape = layGradient(net, kind);
  const outputs = [value(LOSS, net.precision, [])];
  for (const { name, dims } of net.parameters) {
    tape.name(tape.gradients.get(name) ?? '', `${name}.gradient`);
    outputs.push(value(`${name}.gradient`, net.precision, dims));
  }
  return model(graph({ name: 'gradient', nodes: tape.nodes, inputs: tape.inputs, outputs, initializers: tape.constants }));
}
