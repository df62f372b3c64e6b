import { DATATYPES } from '../inference/onnx/onnx.ts';
import type { Random } from './random.ts';
import { ROWS, type Tape } from './tape.ts';

/** A trainable tensor and how it starts. */
export type Parameter = { name: string; dims: readonly number[]; start(random: Random): Float64Array };

/** An input that the trainer fills with fresh random numbers for every step: 0 with probability `rate`, else 1 / (1 − rate). */
export type Mask = { name: string; dims: readonly number[]; rate: number };

/** A layer laid on a tape: its output, and how the gradient of the loss goes back through it. */
export type Laid = {
  output: string;
  /** Adds the nodes that turn ∂L/∂output into ∂L/∂parameters, kept on the tape, and ∂L/∂input, which is the answer. */
  backward(gradient: string, want: { input: boolean }): string;
};

/** One layer in its place of a net: dimensions (of one row) and names are known. */
export type Layer = {
  dims: readonly number[];
  parameters: readonly Parameter[];
  masks: readonly Mask[];
  forward(tape: Tape, input: string, mode: 'train' | 'infer'): Laid;
};

/** What a net is described with. `scale` multiplies; `dense` is a fully connected layer. */
export type LayerSpec =
  | { kind: 'scale'; factor: number }
  | { kind: 'flatten' }
  | { kind: 'dense'; units: number; activation?: Activation }
  | { kind: Activation }
  | { kind: 'dropout'; rate: number };
type Activation = 'relu' | 'softmax';

const bare = { parameters: [], masks: [] };

/** Puts a layer behind `dims`; `name` is its own among the layers. Errors: RangeError for a dense layer on rows that are not flat. */
export function createLayer(spec: LayerSpec, dims: readonly number[], name: string): Layer {
  switch (spec.kind) {
    case 'scale':
      return scale(spec.factor, dims);
    case 'flatten':
      return flatten(dims);
    case 'dense':
      return dense(spec, dims, name);
    case 'relu':
      return relu(dims);
    case 'softmax':
      return softmax(dims);
    case 'dropout':
      return dropout(spec.rate, dims, name);
  }
}

function scale(factor: number, dims: readonly number[]): Layer {
  const times = (tape: Tape, x: string) => tape.op('Mul', [x, tape.constant([factor])]);
  return { ...bare, dims, forward: (tape, input) => ({ output: times(tape, input), backward: (gradient) => times(tape, gradient) }) };
}

function flatten(dims: readonly number[]): Layer {
  return {
    ...bare,
    dims: [dims.reduce((product, dim) => product * dim, 1)],
    forward: (tape, input) => ({
      output: tape.op('Flatten', [input], { axis: 1 }),
      backward: (gradient) => tape.op('Reshape', [gradient, tape.integers([-1, ...dims])]),
    }),
  };
}

/**
 * y = x W + b, so ∂L/∂W = xᵀ g, ∂L/∂b = Σ rows of g, ∂L/∂x = g Wᵀ. W starts uniform in ±√(6 / inputs) before ReLU (He et al. 2015), else in
 * ±√(6 / (inputs + units)) (Glorot and Bengio 2010); b starts at 0.
 */
function dense({ units, activation }: { units: number; activation?: Activation }, dims: readonly number[], name: string): Layer {
  const [inputs, ...rest] = dims;
  if (inputs === undefined || rest.length > 0) throw new RangeError(`${name}: rows of dimensions [${dims.join(', ')}] are not flat`);
  const limit = Math.sqrt(6 / (activation === 'relu' ? inputs : inputs + units));
  const weight = `${name}.weight`;
  const bias = `${name}.bias`;
  return {
    dims: [units],
    masks: [],
    parameters: [
      {
        name: weight,
        dims: [inputs, units],
        start: (random) => Float64Array.from({ length: inputs * units }, () => (2 * random.uniform() - 1) * limit),
      },
      { name: bias, dims: [units], start: () => new Float64Array(units) },
    ],
    forward: (tape, input) => ({
      output: tape.op('Gemm', [input, weight, bias]),
      backward(gradient, want) {
        tape.gradients.set(weight, tape.op('Gemm', [input, gradient], { transA: 1 }));
        tape.gradients.set(bias, tape.op('ReduceSum', [gradient, tape.integers([0])], { keepdims: 0 }));
        return want.input ? tape.op('Gemm', [gradient, weight], { transB: 1 }) : '';
      },
    }),
  };
}

/** max(x, 0); the gradient passes where the output is positive. */
function relu(dims: readonly number[]): Layer {
  return {
    ...bare,
    dims,
    forward(tape, input) {
      const output = tape.op('Relu', [input]);
      return {
        output,
        backward(gradient) {
          const passes = tape.op('Cast', [tape.op('Greater', [output, tape.constant([0])])], { to: DATATYPES[tape.precision] });
          return tape.op('Mul', [gradient, passes]);
        },
      };
    },
  };
}

/** s = exp(x) / Σ exp(x) by row; ∂L/∂x = s ∘ (g − Σ g ∘ s). */
function softmax(dims: readonly number[]): Layer {
  return {
    ...bare,
    dims,
    forward(tape, input) {
      const output = tape.op('Softmax', [input], { axis: -1 });
      return {
        output,
        backward(gradient) {
          const weighted = tape.op('ReduceSum', [tape.op('Mul', [gradient, output]), tape.integers([-1])], { keepdims: 1 });
          return tape.op('Mul', [output, tape.op('Sub', [gradient, weighted])]);
        },
      };
    },
  };
}

/** Inverted dropout (Srivastava et al. 2014): x ∘ mask while training, x itself afterwards. 0 ≤ rate < 1. */
function dropout(rate: number, dims: readonly number[], name: string): Layer {
  const mask = `${name}.mask`;
  return {
    dims,
    parameters: [],
    masks: [{ name: mask, dims, rate }],
    forward(tape, input, mode) {
      if (mode === 'infer') return { output: input, backward: (gradient) => gradient };
      tape.feed(mask, tape.precision, [ROWS, ...dims]);
      return { output: tape.op('Mul', [input, mask]), backward: (gradient) => tape.op('Mul', [gradient, mask]) };
    },
  };
}
