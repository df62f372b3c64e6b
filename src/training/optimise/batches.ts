import { checkModel } from '../../inference/onnx/onnx.ts';
import type { Feeds } from '../net/net.ts';

/** Rows to run a model on. */
export type Rows = { rows: number; feeds: Feeds };

/** How many rows every run has where the model fixes it (1 where its inputs have no dimension), else null: any. */
export function fixedRows(model: Uint8Array): number | null {
  const leading = checkModel(model).inputs.map(({ dimensions }) => dimensions[0] ?? 1);
  if (leading.length === 0) return 1;
  return leading.find((one) => typeof one === 'number') ?? null;
}

/** [from, to) of runs over the rows, `most` at a time; where the model fixes their number, whole runs only. */
export function* spans(rows: number, most: number, fixed: number | null): Generator<readonly [from: number, to: number]> {
  const step = fixed ?? most;
  for (let from = 0; from < rows; from += step) {
    const to = Math.min(rows, from + step);
    if (fixed === null || to - from === fixed) yield [from, to];
  }
}
