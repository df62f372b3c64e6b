import { graph, model, type OnnxModel, type OnnxValue, value } from '../../inference/onnx/onnx.ts';
import { layGradient } from './gradient.ts';
import { LOSS, type LossKind } from './losses.ts';
import type { Optimiser } from './optimisers.ts';
import type { Net } from './sequential.ts';

/** Input: the optimiser's factor of this step, a scalar. */
export const RATE = '/rate';
/** Input: ηλ, by which decaying parameters shrink in this step, a scalar. */
export const DECAY = '/decay';

/** `<name>.next` is an output; the next step takes it as its input `<name>`. */
export function nextOf(name: string): string {
  return `${name}.next`;
}

/** What goes from one step to the next: each parameter, the optimiser's slots of it, and what layers carry. */
export function stateOf(net: Net, optimiser: Optimiser): { name: string; dims: readonly number[] }[] {
  const parameters = net.parameters.flatMap(({ name, dims }) => [
    { name, dims },
    ...optimiser.slots.map((slot) => ({ name: `${name}.${slot}`, dims })),
  ]);
  return [...parameters, ...net.carried.map(({ name, dims }) => ({ name, dims }))];
}

/**
 * One step of training as one graph: forward, loss, gradients, update. Inputs: FEATURES, TARGETS, the masks, RATE, DECAY and the state; outputs:
 * LOSS of the batch before the update, and the state after it under `nextOf` names. Weight decay is apart from the gradient, θ ← … − ηλθ
 * (Loshchilov and Hutter 2019), which for gradient descent is the same as a penalty λ/2 Σ θ².
 */
export function stepModel(net: Net, loss: LossKind, optimiser: Optimiser, decays: boolean): OnnxModel {
  const tape = layGradient(net, loss);
  tape.feed(RATE, net.precision, []);
  if (decays) tape.feed(DECAY, net.precision, []);
  const outputs: OnnxValue[] = [value(LOSS, net.precision, [])];
  const put = (name: string, from: string, dims: readonly number[]) => {
    tape.name(from, nextOf(name));
    outputs.push(value(nextOf(name), net.precision, dims));
  };
  for (const { name, dims, decays: draws } of net.parameters) {
    const slots = optimiser.slots.map((slot) => tape.feed(`${name}.${slot}`, net.precision, dims));
    const updated = optimiser.update(tape, name, tape.gradients.get(name) ?? '', slots, RATE);
    put(name, decays && draws ? tape.op('Sub', [updated.theta, tape.op('Mul', [name, DECAY])]) : updated.theta, dims);
    for (const [index, slot] of optimiser.slots.entries()) put(`${name}.${slot}`, updated.slots[index] ?? '', dims);
  }
  for (const { name, dims } of net.carried) put(name, tape.carried.get(name) ?? '', dims);
  return model(graph({ name: 'step', nodes: tape.nodes, inputs: tape.inputs, outputs, initializers: tape.constants }));
}
