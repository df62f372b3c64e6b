import { integer } from './attributes.ts';
import { DATATYPES } from './datatypes.ts';
import { broadcast, type Info, info } from './dims.ts';
import { ELEMENTWISE, REDUCTIONS, TRUTHS, UNARY } from './families.ts';
import type { NodeView } from './shapes.ts';
import { COMPUTING, reduced } from './shapes-computing.ts';
import { MOVING } from './shapes-moving.ts';
import { RECURRENT } from './shapes-recurrent.ts';

/** What an operator's results are like; shorter than the results where the rest is not known. */
export type ShapeRule = (view: NodeView) => Info[];

const elementwise: ShapeRule = ({ name, inputs }) => {
  // Where: the first input is the condition.
  const type = TRUTHS.has(name) ? DATATYPES.BOOL : (inputs.at(name === 'Where' ? 1 : 0)?.elemType ?? 0);
  return [info(type, broadcast(inputs.map((one) => one?.dims ?? null)))];
};

const like: ShapeRule = ({ name, inputs: [first] }) => [
  info(TRUTHS.has(name) ? DATATYPES.BOOL : (first?.elemType ?? 0), first?.dims ?? null),
];

/** The rules by operator, with its domain in front where that is not ONNX's own. */
export const SHAPE_RULES: ReadonlyMap<string, ShapeRule> = new Map<string, ShapeRule>([
  ...[...UNARY].map((name) => [name, like] as const),
  ...[...ELEMENTWISE].map((name) => [name, elementwise] as const),
  ...[...REDUCTIONS].map((name) => [name, reduced] as const),
  ...(
    'Clip Softmax LogSoftmax Hardmax LayerNormalization SimplifiedLayerNormalization RMSNormalization InstanceNormalization ' +
    'GroupNormalization BatchNormalization LRN LpNormalization MeanVarianceNormalization CumSum Trilu com.microsoft.FastGelu com.microsoft.BiasGelu'
  )
    .split(' ')
    .map((name) => [name, like] as const),
  ['Dropout', ({ inputs: [first] }) => [info(first?.elemType ?? 0, first?.dims ?? null), info(DATATYPES.BOOL, first?.dims ?? null)]],
  ['Cast', ({ node, inputs: [first] }) => [info(integer(node, 'to', 0), first?.dims ?? null)]],
  ['CastLike', ({ inputs: [first, second] }) => [info(second?.elemType ?? 0, first?.dims ?? null)]],
  ...Object.entries(MOVING),
  ...Object.entries(COMPUTING),
  ...Object.entries(RECURRENT),
]);
