import type { Layer } from './layer.ts';
import type { Tape } from './tape.ts';

type BatchNorm = { momentum?: number; epsilon?: number };

/**
 * Batch normalisation (Ioffe and Szegedy 2015) of each feature of flat rows, or each channel of pictures: y = γ x̂ + β with
 * x̂ = (x − μ) / √(σ² + ε). While training μ and σ² are the batch's, and ∂L/∂x = γ / √(σ² + ε) · (g − mean g − x̂ mean(g x̂)); running ones follow
 * by r ← m r + (1 − m) batch and serve afterwards.
 */
export function batchNorm({ momentum = 0.9, epsilon = 1e-3 }: BatchNorm, dims: readonly number[], name: string): Layer {
  const [features = 0, ...places] = dims;
  const axes = [0, ...places.map((_, index) => index + 2)];
  const along = [1, features, ...places.map(() => 1)];
  const [gamma, beta, mean, variance] = ['gamma', 'beta', 'mean', 'variance'].map((part) => `${name}.${part}`) as [
    string,
    string,
    string,
    string,
  ];
  const one = (from: string, tape: Tape) => tape.op('Reshape', [from, tape.integers(along)]);
  const flat = (from: string, tape: Tape) => tape.op('Reshape', [from, tape.integers([features])]);

  function follow(tape: Tape, running: string, batch: string): void {
    const kept = tape.op('Mul', [running, tape.constant([momentum])]);
    const fresh = tape.op('Mul', [flat(batch, tape), tape.constant([1 - momentum])]);
    tape.carried.set(running, tape.op('Add', [kept, fresh]));
  }

  function inverse(tape: Tape, squares: string): string {
    const deviation = tape.op('Sqrt', [tape.op('Add', [squares, tape.constant([epsilon])])]);
    return tape.op('Div', [tape.constant([1]), deviation]);
  }

  return {
    dims,
    masks: [],
    carried: [
      { name: mean, dims: [features], start: 0 },
      { name: variance, dims: [features], start: 1 },
    ],
    parameters: [
      { name: gamma, dims: [features], decays: false, start: () => new Float64Array(features).fill(1) },
      { name: beta, dims: [features], decays: false, start: () => new Float64Array(features) },
    ],
    forward(tape, input, mode) {
      const average = (from: string) => tape.op('ReduceMean', [from], { axes, keepdims: 1 });
      const middle = mode === 'train' ? average(input) : one(mean, tape);
      const centred = tape.op('Sub', [input, middle]);
      const squares = mode === 'train' ? average(tape.op('Mul', [centred, centred])) : one(variance, tape);
      const scale = inverse(tape, squares);
      const normal = tape.op('Mul', [centred, scale]);
      const output = tape.op('Add', [tape.op('Mul', [normal, one(gamma, tape)]), one(beta, tape)]);
      if (mode === 'train') {
        follow(tape, mean, middle);
        follow(tape, variance, squares);
      }
      return {
        output,
        backward(gradient, want) {
          const sum = (from: string) => tape.op('ReduceSum', [from, tape.integers(axes)], { keepdims: 0 });
          const weighted = tape.op('Mul', [gradient, normal]);
          tape.gradients.set(gamma, sum(weighted));
          tape.gradients.set(beta, sum(gradient));
          if (!want.input) return '';
          const less = tape.op('Sub', [gradient, average(gradient)]);
          const centredGradient = tape.op('Sub', [less, tape.op('Mul', [normal, average(weighted)])]);
          return tape.op('Mul', [tape.op('Mul', [centredGradient, scale]), one(gamma, tape)]);
        },
      };
    },
  };
}
