import type { Layer } from './layer.ts';
import { ROWS } from './tape.ts';

/** Inverted dropout (Srivastava et al. 2014): x ∘ mask while training, x itself afterwards. 0 ≤ rate < 1. */
export function dropout(rate: number, dims: readonly number[], name: string): Layer {
  if (!(rate >= 0 && rate < 1)) throw new RangeError(`dropout drops from 0 up to but not 1, not ${rate}`);
  const mask = `${name}.mask`;
  return {
    dims,
    parameters: [],
    carried: [],
    masks: [{ name: mask, dims, rate }],
    forward(tape, input, mode) {
      if (mode === 'infer') return { output: input, backward: (gradient) => gradient };
      tape.feed(mask, tape.precision, [ROWS, ...dims]);
      return { output: tape.op('Mul', [input, mask]), backward: (gradient) => tape.op('Mul', [gradient, mask]) };
    },
  };
}
