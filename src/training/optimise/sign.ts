import { DATATYPES, type OnnxNode } from '../../inference/onnx/onnx.ts';
import { numbersOf } from './numbers.ts';
import { isPlain, type Workpiece } from './workpiece.ts';

const GIVES = new Set(['Relu', 'Sigmoid', 'Softmax', 'Abs', 'Exp', 'Sqrt', 'Softplus']);
/** Of nothing below zero they make nothing below zero; each reads values in these places. */
const KEEPS: Record<string, 'first' | 'all'> = {
  AveragePool: 'first',
  Cast: 'first',
  Dropout: 'first',
  Flatten: 'first',
  GlobalAveragePool: 'first',
  GlobalMaxPool: 'first',
  Identity: 'first',
  MaxPool: 'first',
  Reshape: 'first',
  Squeeze: 'first',
  Transpose: 'first',
  Unsqueeze: 'first',
  Add: 'all',
  Concat: 'all',
  Div: 'all',
  Max: 'all',
  Mul: 'all',
};
const UNSIGNED: readonly (number | undefined)[] = [DATATYPES.UINT8, DATATYPES.UINT16, DATATYPES.UINT32, DATATYPES.UINT64, DATATYPES.BOOL];

/** Tells of a value whether the graph itself keeps it from being negative, whatever the inputs. */
export function signs({ graph, constants }: Workpiece): (value: string) => boolean {
  const known = new Map<string, boolean>();
  for (const { name = '', type } of graph.input) if (UNSIGNED.includes(type?.tensorType?.elemType)) known.set(name, true);
  for (const [name, tensor] of constants) known.set(name, numbersOf(tensor)?.every((one) => one >= 0) ?? false);
  for (const one of graph.node)
    for (const name of one.output)
      if (one.opType !== 'Constant')
        known.set(
          name,
          keeps(one, (value) => known.get(value) ?? false),
        );
  return (value) => known.get(value) === true;
}

function keeps(one: OnnxNode, positive: (value: string) => boolean): boolean {
  const { opType = '', input } = one;
  if (!isPlain(one)) return false;
  if (GIVES.has(opType)) return true;
  const read = KEEPS[opType];
  if (read === undefined) return false;
  return (read === 'first' ? input.slice(0, 1) : input).every(positive);
}
