import type { Random } from './random.ts';
import type { Tape } from './tape.ts';

/** A trainable tensor and how it starts. `decays`: weight decay draws it to 0. */
export type Parameter = { name: string; dims: readonly number[]; decays: boolean; start(random: Random): Float64Array };

/** What a layer carries from step to step without a gradient, such as running statistics; every element starts as `start`. */
export type Carried = { name: string; dims: readonly number[]; start: number };

/** An input that the trainer fills with fresh random numbers for every step: 0 with probability `rate`, else 1 / (1 − rate). */
export type Mask = { name: string; dims: readonly number[]; rate: number };

/** A layer laid on a tape: its output, and how the gradient of the loss goes back through it. */
export type Laid = {
  output: string;
  /** Adds the nodes that turn ∂L/∂output into ∂L/∂parameters, kept on the tape, and ∂L/∂input, which is the answer. */
  backward(gradient: string, want: { input: boolean }): string;
};

export type Mode = 'train' | 'infer';

/** One layer in its place of a net: dimensions (of one row) and names are known. Pictures inside a net are [channels, height, width]. */
export type Layer = {
  dims: readonly number[];
  parameters: readonly Parameter[];
  carried: readonly Carried[];
  masks: readonly Mask[];
  forward(tape: Tape, input: string, mode: Mode): Laid;
};

export type Activation = 'relu' | 'sigmoid' | 'tanh' | 'softmax';

/** What a net is described with. */
export type LayerSpec =
  | { kind: 'dense'; units: number; activation?: Activation }
  | { kind: Activation }
  | { kind: 'dropout'; rate: number }
  | { kind: 'flatten' }
  | { kind: 'conv2d'; filters: number; kernel: number; stride?: number; padding?: 'SAME' | 'VALID'; activation?: Activation }
  | { kind: 'maxPool2d'; size: number }
  | { kind: 'batchNorm'; momentum?: number; epsilon?: number };

/** A layer without parameters, state or randomness. */
export const BARE = { parameters: [], carried: [], masks: [] } as const;

/** Elements of a tensor of these dimensions. */
export function sizeOf(dims: readonly number[]): number {
  return dims.reduce((product, dim) => product * dim, 1);
}

/** Uniform in ±limit. */
export function uniformStart(size: number, limit: number): (random: Random) => Float64Array {
  return (random) => Float64Array.from({ length: size }, () => (2 * random.uniform() - 1) * limit);
}

/** ±√(6 / inputs) before ReLU (He et al. 2015), else ±√(6 / (inputs + outputs)) (Glorot and Bengio 2010). */
export function startLimit(inputs: number, outputs: number, activation: Activation | undefined): number {
  return Math.sqrt(6 / (activation === 'relu' ? inputs : inputs + outputs));
}
