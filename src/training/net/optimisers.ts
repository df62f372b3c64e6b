import type { Tape } from './tape.ts';

export type OptimiserSpec =
  | { kind: 'GRADIENT_DESCENT'; learningRate: number }
  | { kind: 'MOMENTUM'; learningRate: number; momentum?: number }
  | { kind: 'ADAM'; learningRate?: number; beta1?: number; beta2?: number; epsilon?: number };

/** How a gradient becomes a step. State and step are tensors of the parameter's own dimensions, laid on the step's tape. */
export type Optimiser = {
  /** η, before a schedule. */
  learningRate: number;
  /** Names of the tensors that it keeps for each parameter; they start at 0. */
  slots: readonly string[];
  /** The factor of step number `step` (from 1) at a learning rate, fed to the graph as a scalar. */
  rate(step: number, learningRate: number): number;
  /** Lays θ' and the new slots, in the order of `slots`. */
  update(tape: Tape, theta: string, gradient: string, slots: readonly string[], rate: string): { theta: string; slots: readonly string[] };
};

export function createOptimiser(spec: OptimiserSpec): Optimiser {
  switch (spec.kind) {
    case 'GRADIENT_DESCENT':
      return gradientDescent(spec);
    case 'MOMENTUM':
      return momentumDescent(spec);
    case 'ADAM':
      return adam(spec);
  }
}

/** θ ← θ − η∇L. */
function gradientDescent({ learningRate }: { learningRate: number }): Optimiser {
  return {
    learningRate,
    slots: [],
    rate: (_, rate) => rate,
    update: (tape, theta, gradient, _, rate) => ({ theta: tape.op('Sub', [theta, tape.op('Mul', [gradient, rate])]), slots: [] }),
  };
}

/** v ← μv + ∇L, θ ← θ − ηv (Polyak 1964, in the form of Sutskever et al. 2013). */
function momentumDescent({ learningRate, momentum = 0.9 }: { learningRate: number; momentum?: number }): Optimiser {
  return {
    learningRate,
    slots: ['velocity'],
    rate: (_, rate) => rate,
    update(tape, theta, gradient, [velocity = ''], rate) {
      const next = tape.op('Add', [tape.op('Mul', [velocity, tape.constant([momentum])]), gradient]);
      return { theta: tape.op('Sub', [theta, tape.op('Mul', [next, rate])]), slots: [next] };
    },
  };
}

/**
 * Adam (Kingma and Ba 2015), in the form at the end of its section 2: m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g²,
 * θ ← θ − α √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε). The factor before m is computed in double precision, outside the graph.
 */
function adam({
  learningRate = 1e-3,
  beta1 = 0.9,
  beta2 = 0.999,
  epsilon = 1e-7,
}: Omit<OptimiserSpec & { kind: 'ADAM' }, 'kind'>): Optimiser {
  return {
    learningRate,
    slots: ['m', 'v'],
    rate: (step, rate) => (rate * Math.sqrt(1 - beta2 ** step)) / (1 - beta1 ** step),
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
