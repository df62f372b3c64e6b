import type { Tape } from './tape.ts';

/** How a gradient becomes a step. State and step are tensors of the parameter's own dimensions, laid on the step's tape. */
export type Optimiser = {
  /** Names of the tensors that it keeps for each parameter; they start at 0. */
  slots: readonly string[];
  /** The factor of step number `step` (from 1), fed to the graph as a scalar. */
  rate(step: number): number;
  /** Lays θ' and the new slots, in the order of `slots`. */
  update(tape: Tape, theta: string, gradient: string, slots: readonly string[], rate: string): { theta: string; slots: readonly string[] };
};

/**
 * Adam (Kingma and Ba 2015), in the form at the end of its section 2: m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g²,
 * θ ← θ − α √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε). The factor before m is computed in double precision, outside the graph.
 */
export function adam({ learningRate = 1e-3, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-7 } = {}): Optimiser {
  return {
    slots: ['m', 'v'],
    rate: (step) => (learningRate * Math.sqrt(1 - beta2 ** step)) / (1 - beta1 ** step),
    update(tape, theta, gradient, [m = '', v = ''], rate) {
      const mix = (old: string, beta: number, fresh: string) =>
        tape.op('Add', [tape.op('Mul', [old, tape.constant([beta])]), tape.op('Mul', [fresh, tape.constant([1 - beta])])]);
      const newM = mix(m, beta1, gradient);
      const newV = mix(v, beta2, tape.op('Mul', [gradient, gradient]));
      const spread = tape.op('Add', [tape.op('Sqrt', [newV]), tape.constant([epsilon])]);
      const step = tape.op('Mul', [tape.op('Div', [newM, spread]), rate]);
      return { theta: tape.op('Sub', [theta, step]), slots: [newM, newV] };
    },
  };
}
