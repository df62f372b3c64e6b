import { BARE, type Layer, sizeOf } from './layer.ts';

/** Rows of any dimensions as rows of one. */
export function flatten(dims: readonly number[]): Layer {
  return {
    ...BARE,
    dims: [sizeOf(dims)],
    forward: (tape, input) => ({
      output: tape.op('Flatten', [input], { axis: 1 }),
      backward: (gradient) => tape.op('Reshape', [gradient, tape.integers([-1, ...dims])]),
    }),
  };
}

/** Pictures as callers send them, height × width or height × width × channels, as layers want them: channels × height × width. */
export function channelsFirst(dims: readonly number[]): Layer {
  const [height = 0, width = 0, channels] = dims;
  if (channels === undefined) {
    return {
      ...BARE,
      dims: [1, height, width],
      forward: (tape, input) => ({
        output: tape.op('Unsqueeze', [input, tape.integers([1])]),
        backward: (gradient) => tape.op('Squeeze', [gradient, tape.integers([1])]),
      }),
    };
  }
  return {
    ...BARE,
    dims: [channels, height, width],
    forward: (tape, input) => ({
      output: tape.op('Transpose', [input], { perm: [0, 3, 1, 2] }),
      backward: (gradient) => tape.op('Transpose', [gradient], { perm: [0, 2, 3, 1] }),
    }),
  };
}
