import { graph, model, type OnnxModel, type OnnxValue, value } from '../inference/onnx/onnx.ts';
import { LOSS, layGradient } from './gradient.ts';
import type { Net } from './net.ts';
import type { Optimiser } from './optimiser.ts';

export const RATE = 'rate';

/** `<name>.next` is an output; the next step takes it as its input `<name>`. */
export function nextOf(name: string): string {
  return `${name}.next`;
}

/** What goes from one step to the next: each parameter and the optimiser's slots of it. */
export function stateOf(net: Net, optimiser: Optimiser): { name: string; dims: readonly number[] }[] {
  return net.parameters.flatMap(({ name, dims }) => [
    { name, dims },
    ...optimiser.slots.map((slot) => ({ name: `${name}.${slot}`, dims })),
  ]);
}

/**
 * One step of training as one graph: forward, loss, gradients, update. Inputs: a batch (the net's input and LABELS), the masks, RATE and the
 * state; outputs: LOSS of the batch before the update, and the state after it under `nextOf` names.
 */
export function stepModel(net: Net, optimiser: Optimiser): OnnxModel {
  const tape = layGradient(net);
  tape.feed(RATE, net.precision, []);
  const outputs: OnnxValue[] = [value(LOSS, net.precision, [])];
  const put = (name: string, from: string, dims: readonly number[]) => {
    tape.op('Identity', [from], {}, nextOf(name));
    outputs.push(value(nextOf(name), net.precision, dims));
  };
  for (const { name, dims } of net.parameters) {
    const slots = optimiser.slots.map((slot) => tape.feed(`${name}.${slot}`, net.precision, dims));
    const updated = optimiser.update(tape, name, tape.gradients.get(name) ?? '', slots, RATE);
    put(name, updated.theta, dims);
    for (const [index, slot] of optimiser.slots.entries()) put(`${name}.${slot}`, updated.slots[index] ?? '', dims);
  }
  return model(graph({ name: 'step', nodes: tape.nodes, inputs: tape.inputs, outputs, initializers: tape.constants }));
}
