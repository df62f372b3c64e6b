import { graph, model, type OnnxModel, type OnnxNode, tensor, value } from '../inference/onnx/onnx.ts';
import { layForward, type Net, type Weights } from './net.ts';
import { ROWS, Tape } from './tape.ts';

/**
 * The trained net as a model that takes raw input: everything that training did to it is inside. Outputs: `probabilities`, in the net's
 * precision, [N, classes], and `label`, INT64 [N], the class of the largest. Every operator works on rows by themselves.
 */
export function exportModel(net: Net, weights: Weights): OnnxModel {
  const tape = new Tape(net.precision);
  for (const { name, dims } of net.parameters) tape.keep(tensor(name, net.precision, dims, weights.get(name) ?? new Float32Array()));
  const { output } = layForward(net, net.layers, tape, 'infer');
  tape.op('ArgMax', [output], { axis: 1, keepdims: 0 }, 'label');
  const outputs = [value('probabilities', net.precision, [ROWS, ...net.outputDims]), value('label', 'INT64', [ROWS])];
  return model(
    graph({
      name: 'classifier',
      nodes: renamed(tape.nodes, output, 'probabilities'),
      inputs: tape.inputs,
      outputs,
      initializers: tape.constants,
    }),
  );
}

function renamed(nodes: readonly OnnxNode[], from: string, to: string): OnnxNode[] {
  const rename = (names: readonly string[]) => names.map((name) => (name === from ? to : name));
  return nodes.map((one) => ({ ...one, input: rename(one.input), output: rename(one.output) }));
}
