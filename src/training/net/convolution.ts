import { type Activation, type Layer, startLimit, uniformStart } from './layer.ts';
import type { Tape } from './tape.ts';

type Conv2d = { filters: number; kernel: number; stride?: number; padding?: 'SAME' | 'VALID'; activation?: Activation };

/** How one side of a picture is cut: `before` and `after` are padding, `rest` what the last step leaves over. */
type Side = { size: number; out: number; before: number; after: number; rest: number };

/**
 * A convolution (cross-correlation, as in ONNX) of square kernels. With g = ∂L/∂output: ∂L/∂input is the transposed convolution of g;
 * ∂L/∂kernel is the convolution of the input with g as its kernel, rows and channels swapped and stride as dilation; ∂L/∂bias is Σ g.
 * SAME pads as TensorFlow does. Errors: RangeError on rows that are no pictures, then where a kernel is larger than them.
 */
export function conv2d(spec: Conv2d, dims: readonly number[], name: string): Layer {
  const { filters, kernel, stride = 1, padding = 'VALID', activation } = spec;
  const [channels, height, width, ...rest] = dims;
  if (channels === undefined || height === undefined || width === undefined || rest.length > 0) {
    throw new RangeError(`conv2d wants pictures and gets rows of [${dims.join(', ')}]`);
  }
  const sides = [height, width].map((size) => sideOf(size, kernel, stride, padding));
  if (sides.some(({ out }) => out < 1)) throw new RangeError(`conv2d has a kernel of ${kernel}, larger than [${dims.join(', ')}]`);
  const weight = `${name}.weight`;
  const bias = `${name}.bias`;
  const pads = [...sides.map(({ before }) => before), ...sides.map(({ after }) => after)];
  const strides = [stride, stride];
  const inputs = channels * kernel * kernel;
  return {
    dims: [filters, ...sides.map(({ out }) => out)],
    masks: [],
    carried: [],
    parameters: [
      {
        name: weight,
        dims: [filters, channels, kernel, kernel],
        decays: true,
        start: uniformStart(filters * inputs, startLimit(inputs, filters * kernel * kernel, activation)),
      },
      { name: bias, dims: [filters], decays: false, start: () => new Float64Array(filters) },
    ],
    forward: (tape, input) => ({
      output: tape.op('Conv', [input, weight, bias], { pads, strides }),
      backward(gradient, want) {
        tape.gradients.set(weight, kernelGradient(tape, { input, gradient, pads, strides, kernel }));
        tape.gradients.set(bias, tape.op('ReduceSum', [gradient, tape.integers([0, 2, 3])], { keepdims: 0 }));
        if (!want.input) return '';
        return tape.op('ConvTranspose', [gradient, weight], { pads, strides, output_padding: sides.map((side) => side.rest) });
      },
    }),
  };
}

function sideOf(size: number, kernel: number, stride: number, padding: 'SAME' | 'VALID'): Side {
  const wanted = padding === 'SAME' ? Math.max(0, (Math.ceil(size / stride) - 1) * stride + kernel - size) : 0;
  const before = Math.floor(wanted / 2);
  const steps = size + wanted - kernel;
  return { size, out: Math.floor(steps / stride) + 1, before, after: wanted - before, rest: steps % stride };
}

type KernelGradient = { input: string; gradient: string; pads: number[]; strides: number[]; kernel: number };

/** What the last step leaves over makes the result larger than the kernel by as much: it is cut off. */
function kernelGradient(tape: Tape, { input, gradient, pads, strides, kernel }: KernelGradient): string {
  const swap = (from: string) => tape.op('Transpose', [from], { perm: [1, 0, 2, 3] });
  const whole = tape.op('Conv', [swap(input), swap(gradient)], { pads, dilations: strides });
  const cut = tape.op('Slice', [whole, tape.integers([0, 0]), tape.integers([kernel, kernel]), tape.integers([2, 3])]);
  return swap(cut);
}
