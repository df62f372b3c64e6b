import { integer, text } from './attributes.ts';
import { type Dim, type Dims, info } from './dims.ts';
import type { ShapeRule } from './shape-rules.ts';

/** Operators that go over a sequence step by step: all steps' states, the last state, and of an LSTM its cell. */
export const RECURRENT: Record<string, ShapeRule> = {
  RNN: recurrent,
  GRU: recurrent,
  LSTM: recurrent,
  'com.microsoft.DynamicQuantizeLSTM': recurrent,
};

function recurrent({ node, inputs: [x, , weights] }: Parameters<ShapeRule>[0]): ReturnType<ShapeRule> {
  const type = x?.elemType ?? 0;
  const dims = x?.dims ?? null;
  if (dims?.length !== 3) return [info(type, null), info(type, null), info(type, null)];
  const batchFirst = integer(node, 'layout', 0) !== 0;
  const [first = null, second = null] = dims;
  const [steps, rows] = batchFirst ? [second, first] : [first, second];
  const directions = text(node, 'direction', 'forward') === 'bidirectional' ? 2 : 1;
  const hidden: Dim = integer(node, 'hidden_size', 0) || (weights?.dims?.at(-1) ?? null);
  const all: Dims = batchFirst ? [rows, steps, directions, hidden] : [steps, directions, rows, hidden];
  const last: Dims = batchFirst ? [rows, directions, hidden] : [directions, rows, hidden];
  return [info(type, all), info(type, last), info(type, last)];
}
