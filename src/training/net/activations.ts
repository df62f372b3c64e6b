import { DATATYPES } from '../../inference/onnx/onnx.ts';
import { type Activation, BARE, type Laid, type Layer } from './layer.ts';
import type { Tape } from './tape.ts';

const LAY: Record<Activation, (tape: Tape, input: string) => Laid> = { relu, sigmoid, tanh, softmax };

/** Errors: RangeError for a softmax on rows that are not flat. */
export function activation(kind: Activation, dims: readonly number[]): Layer {
  if (kind === 'softmax' && dims.length !== 1) throw new RangeError(`softmax wants flat rows and gets [${dims.join(', ')}]: flatten first`);
  return { ...BARE, dims, forward: LAY[kind] };
}

/** max(x, 0); the gradient passes where the output is positive. */
function relu(tape: Tape, input: string): Laid {
  const output = tape.op('Relu', [input]);
  return {
    output,
    backward(gradient) {
      const passes = tape.op('Cast', [tape.op('Greater', [output, tape.constant([0])])], { to: DATATYPES[tape.precision] });
      return tape.op('Mul', [gradient, passes]);
    },
  };
}

/** s = 1 / (1 + exp(−x)); ∂L/∂x = g s (1 − s). */
function sigmoid(tape: Tape, input: string): Laid {
  const output = tape.op('Sigmoid', [input]);
  return {
    output,
    backward(gradient) {
      const slope = tape.op('Mul', [output, tape.op('Sub', [tape.constant([1]), output])]);
      return tape.op('Mul', [gradient, slope]);
    },
  };
}

/** ∂L/∂x = g (1 − tanh² x). */
function tanh(tape: Tape, input: string): Laid {
  const output = tape.op('Tanh', [input]);
  return {
    output,
    backward(gradient) {
      const slope = tape.op('Sub', [tape.constant([1]), tape.op('Mul', [output, output])]);
      return tape.op('Mul', [gradient, slope]);
    },
  };
}

/** s = exp(x) / Σ exp(x) by row; ∂L/∂x = s ∘ (g − Σ g ∘ s). */
function softmax(tape: Tape, input: string): Laid {
  const output = tape.op('Softmax', [input], { axis: -1 });
  return {
    output,
    backward(gradient) {
      const weighted = tape.op('ReduceSum', [tape.op('Mul', [gradient, output]), tape.integers([-1])], { keepdims: 1 });
      return tape.op('Mul', [output, tape.op('Sub', [gradient, weighted])]);
    },
  };
}
