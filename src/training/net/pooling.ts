import { DATATYPES } from '../../inference/onnx/onnx.ts';
import { BARE, type Layer } from './layer.ts';
import type { Tape } from './tape.ts';

/**
 * The largest of each square of `size` × `size`, side by side; a rest at the right and the bottom is dropped. The gradient goes to the largest, in
 * equal parts where several are. Errors: RangeError on rows that are no pictures, then on pictures smaller than a square.
 */
export function maxPool2d({ size }: { size: number }, dims: readonly number[]): Layer {
  const [channels, height, width, ...rest] = dims;
  if (channels === undefined || height === undefined || width === undefined || rest.length > 0) {
    throw new RangeError(`maxPool2d wants pictures and gets rows of [${dims.join(', ')}]`);
  }
  const [high, wide] = [Math.floor(height / size), Math.floor(width / size)];
  if (high < 1 || wide < 1) throw new RangeError(`maxPool2d has squares of ${size}, larger than [${dims.join(', ')}]`);
  const exact = high * size === height && wide * size === width;

  function backward(tape: Tape, input: string, output: string, gradient: string): string {
    const squares = tape.integers([-1, channels ?? 0, high, size, wide, size]);
    const ones = tape.integers([-1, channels ?? 0, high, 1, wide, 1]);
    const used = exact ? input : crop(tape, input, [high * size, wide * size]);
    const isLargest = tape.op('Equal', [tape.op('Reshape', [used, squares]), tape.op('Reshape', [output, ones])]);
    const largest = tape.op('Cast', [isLargest], { to: DATATYPES[tape.precision] });
    const count = tape.op('ReduceSum', [largest, tape.integers([3, 5])], { keepdims: 1 });
    const share = tape.op('Div', [tape.op('Reshape', [gradient, ones]), count]);
    const spread = tape.op('Mul', [largest, share]);
    const back = tape.op('Reshape', [spread, tape.integers([-1, channels ?? 0, high * size, wide * size])]);
    if (exact) return back;
    return tape.op('Pad', [back, tape.integers([0, 0, 0, 0, 0, 0, (height ?? 0) - high * size, (width ?? 0) - wide * size])]);
  }

  return {
    ...BARE,
    dims: [channels, high, wide],
    forward(tape, input) {
      const output = tape.op('MaxPool', [input], { kernel_shape: [size, size], strides: [size, size] });
      return { output, backward: (gradient) => backward(tape, input, output, gradient) };
    },
  };
}

function crop(tape: Tape, input: string, ends: readonly number[]): string {
  return tape.op('Slice', [input, tape.integers([0, 0]), tape.integers(ends), tape.integers([2, 3])]);
}
