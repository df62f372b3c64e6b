import { graph, model, type OnnxModel, type OnnxValue, tensor, value } from '../../inference/onnx/onnx.ts';
import type { Targets } from './examples.ts';
import type { Trained } from './fit.ts';
import { layForward, type Net } from './sequential.ts';
import { ROWS, Tape } from './tape.ts';

/** What stands before a net in the exported model: it takes raw columns and gives the net's rows. */
export type Front = {
  /** Dimensions of one row that it gives. */
  dims: readonly number[];
  /** Lays it on a tape, with its inputs, and names the value [N, …dims] in the tape's precision. */
  lay(tape: Tape): string;
};

/** Outputs of a classifier. */
export const PROBABILITIES = 'probabilities';
export const LABEL = 'label';

/**
 * The trained net as a model that takes raw input and gives answers in the user's terms: all that training did to rows and targets is inside.
 * Of classes: PROBABILITIES [N, classes] in the net's precision, and LABEL [N], INT64 where classes are 0, 1, 2 …, else BYTES. Of numbers: for each
 * target one output [N] of its name. Every operator works on rows by themselves.
 */
export function exportModel(front: Front, net: Net, { weights, scaling }: Trained, targets: Targets): OnnxModel {
  const tape = new Tape(net.precision);
  const input = front.lay(tape);
  for (const { name, dims } of [...net.parameters, ...net.carried]) {
    tape.keep(tensor(name, net.precision, dims, weights.get(name) ?? new Float32Array()));
  }
  const { output } = layForward(net.layers, tape, input, 'infer');
  const outputs =
    targets.kind === 'CLASSES'
      ? layClasses(tape, net, output, targets.classes)
      : layNumbers(tape, net, output, targets.names, { mean: scaling?.mean ?? [], deviation: scaling?.deviation ?? [] });
  return model(graph({ name: 'model', nodes: tape.nodes, inputs: tape.inputs, outputs, initializers: tape.constants }));
}

/** One sigmoid unit is the probability of the second class. */
function layClasses(tape: Tape, net: Net, output: string, classes: readonly string[]): OnnxValue[] {
  const single = net.last === 'sigmoid';
  const both = single ? tape.op('Concat', [tape.op('Sub', [tape.constant([1]), output]), output], { axis: 1 }) : output;
  tape.name(both, PROBABILITIES);
  const index = tape.op('ArgMax', [both], { axis: 1, keepdims: 0 });
  const numbered = classes.every((name, at) => name === String(at));
  if (numbered) tape.name(index, LABEL);
  else tape.op('Gather', [tape.keep(tensor('/classes', 'BYTES', [classes.length], [...classes])), index], { axis: 0 }, LABEL);
  return [value(PROBABILITIES, net.precision, [ROWS, classes.length]), value(LABEL, numbered ? 'INT64' : 'BYTES', [ROWS])];
}

type Units = { mean: readonly number[]; deviation: readonly number[] };

function layNumbers(tape: Tape, net: Net, output: string, names: readonly string[], { mean, deviation }: Units): OnnxValue[] {
  const width = [names.length];
  const raw = tape.op('Add', [tape.op('Mul', [output, tape.constant(deviation, width)]), tape.constant(mean, width)]);
  return names.map((name, index) => {
    tape.op('Gather', [raw, tape.integers([index], [])], { axis: 1 }, name);
    return value(name, net.precision, [ROWS]);
  });
}
