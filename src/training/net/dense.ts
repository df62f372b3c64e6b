import { type Activation, type Layer, startLimit, uniformStart } from './layer.ts';

/**
 * y = x W + b, so ∂L/∂W = xᵀ g, ∂L/∂b = Σ rows of g, ∂L/∂x = g Wᵀ. W starts as `startLimit` says, b at 0. Errors: RangeError on rows that are not
 * flat.
 */
export function dense({ units, activation }: { units: number; activation?: Activation }, dims: readonly number[], name: string): Layer {
  const [inputs, ...rest] = dims;
  if (inputs === undefined || rest.length > 0) throw new RangeError(`dense wants flat rows and gets [${dims.join(', ')}]: flatten first`);
  const weight = `${name}.weight`;
  const bias = `${name}.bias`;
  return {
    dims: [units],
    masks: [],
    carried: [],
    parameters: [
      {
        name: weight,
        dims: [inputs, units],
        decays: true,
        start: uniformStart(inputs * units, startLimit(inputs, units, activation)),
      },
      { name: bias, dims: [units], decays: false, start: () => new Float64Array(units) },
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
