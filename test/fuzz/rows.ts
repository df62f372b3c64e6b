/**
 * `npm run rows -- [--count N] [--seed N]`: makes nodes at random of the operators that have a rule, with attributes and axes as nobody should write
 * them; where the rows are proved to be apart, ONNX Runtime must answer each row alone as it does among others. Prints what it did not, as JSON.
 */
import { parseArgs } from 'node:util';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import {
  encodeModel,
  graph,
  model,
  node,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
  proveRows,
  tensor,
  value,
} from '../../src/inference/onnx/onnx.ts';
import { Dice } from './random.ts';

const ROWS = 3;
const RANKS = [2, 3, 4];

type Given = { dice: Dice; rank: number; constants: OnnxTensor[] };

function axes({ dice, rank }: Given): number[] {
  return Array.from({ length: dice.below(3) }, () => dice.below(2 * rank) - rank);
}

function ints(given: Given, name: string, values: number[]): string {
  given.constants.push(tensor(name, 'INT64', [values.length], BigInt64Array.from(values, BigInt)));
  return name;
}

function floats(given: Given, name: string, dims: number[]): string {
  const size = dims.reduce((product, one) => product * one, 1);
  given.constants.push(
    tensor(
      name,
      'FP32',
      dims,
      Float32Array.from({ length: size }, () => 0.5 + given.dice.next()),
    ),
  );
  return name;
}

/** A size of the tensor [ROWS, 2, 2, …] at most. */
const dimsOf = (given: Given) => Array.from({ length: given.dice.below(given.rank + 1) }, () => given.dice.pick([1, 2, ROWS]));

const axisOf = (given: Given) => given.dice.below(2 * given.rank) - given.rank;
const along = (operator: string) => (given: Given) => node(operator, ['x'], ['y'], { axis: axisOf(given) });
const bits = (given: Given) => given.dice.below(2);

const KINDS: ((given: Given) => OnnxNode)[] = [
  ...['Softmax', 'LogSoftmax', 'Hardmax', 'LpNormalization', 'Flatten'].map(along),
  (given) => node('LayerNormalization', ['x', floats(given, 'c', dimsOf(given))], ['y'], { axis: axisOf(given) }),
  ...['ReduceMean', 'ReduceMax', 'ReduceL2'].map(
    (operator) => (given: Given) => node(operator, ['x'], ['y'], { axes: axes(given), keepdims: bits(given) }),
  ),
  (given) => node('ReduceSum', ['x', ints(given, 'a', axes(given))], ['y'], { keepdims: bits(given), noop_with_empty_axes: bits(given) }),
  (given) => node('Squeeze', ['x', ints(given, 'a', axes(given))], ['y']),
  (given) => node('Unsqueeze', ['x', ints(given, 'a', axes(given))], ['y']),
  (given) => {
    const at = axes(given);
    const begin = at.length || 1;
    const starts = ints(
      given,
      'b',
      Array.from({ length: begin }, () => given.dice.below(2)),
    );
    const ends = ints(
      given,
      'e',
      Array.from({ length: begin }, () => 1 + given.dice.below(3)),
    );
    return node('Slice', ['x', starts, ends, ints(given, 'a', at)], ['y']);
  },
  (given) => node('Gather', ['x', ints(given, 'i', [given.dice.below(2), 0])], ['y'], { axis: axisOf(given) }),
  (given) => node('Concat', ['x', 'x'], ['y'], { axis: axisOf(given) }),
  (given) => node('Split', ['x'], ['y', 'z'], { axis: axisOf(given) }),
  (given) =>
    node('Transpose', ['x'], ['y'], {
      perm: Array.from({ length: given.rank }, (_, axis) => (given.dice.below(3) ? axis : given.dice.below(given.rank))),
    }),
  (given) =>
    node(
      'Reshape',
      [
        'x',
        ints(
          given,
          's',
          Array.from({ length: 1 + given.dice.below(given.rank + 1) }, () => given.dice.pick([0, -1, 1, 2, ROWS, 4])),
        ),
      ],
      ['y'],
      { allowzero: bits(given) },
    ),
  (given) =>
    node(
      'Pad',
      [
        'x',
        ints(
          given,
          'p',
          Array.from({ length: 2 * given.rank }, () => (given.dice.below(3) ? 0 : given.dice.below(3) - 1)),
        ),
      ],
      ['y'],
    ),
  (given) => node('TopK', ['x', ints(given, 'k', [1])], ['y', 'z'], { axis: axisOf(given) }),
  (given) => node('Add', ['x', floats(given, 'c', dimsOf(given))], ['y']),
  (given) => node('PRelu', ['x', floats(given, 'c', dimsOf(given))], ['y']),
  (given) =>
    node('MatMul', given.dice.below(2) ? ['x', floats(given, 'c', dimsOf(given))] : [floats(given, 'c', dimsOf(given)), 'x'], ['y']),
  () => node('MatMul', ['x', 'x'], ['y']),
  (given) =>
    node('Gemm', ['x', floats(given, 'c', [2, 2]), floats(given, 'd', dimsOf(given))], ['y'], { transA: bits(given), transB: bits(given) }),
  (given) =>
    node('BatchNormalization', ['x', ...['c', 'd', 'e', 'f'].map((name) => floats(given, name, [2]))], ['y'], {
      training_mode: bits(given),
    }),
  (given) => node('InstanceNormalization', ['x', floats(given, 'c', [2]), floats(given, 'd', [2])], ['y']),
  () => node('GlobalAveragePool', ['x'], ['y']),
  () => node('LRN', ['x'], ['y'], { size: 3 }),
  (given) => node('CumSum', ['x', ints(given, 'a', [axisOf(given)])], ['y']),
];

/** Now and then without an attribute, or without its value. */
function forgetful(one: OnnxNode, dice: Dice): OnnxNode {
  const forgotten = dice.below(4 * one.attribute.length);
  const hollow = dice.below(2) === 0;
  const attribute = one.attribute.flatMap((whole, index) => {
    if (index !== forgotten) return [whole];
    const { i: _, ...rest } = whole;
    return hollow ? [rest] : [];
  });
  return { ...one, attribute };
}

/** A node at random from x to y, and what shows where y has other ranks or sizes than were thought: the sum of both, or of y alone. */
function subject(dice: Dice): { file: Uint8Array; proved: boolean; dims: number[]; kind: string } {
  const rank = dice.pick(RANKS);
  const given: Given = { dice, rank, constants: [] };
  const dims = [ROWS, ...Array.from({ length: rank - 1 }, () => dice.pick([1, 2, 2]))];
  const one = forgetful(dice.pick(KINDS)(given), dice);
  const after = dice.pick([
    [node('Identity', ['y'], ['o'])],
    [node('Add', ['x', 'y'], ['o'])],
    [node('Mul', ['y', 'y'], ['p']), node('Sub', ['p', 'x'], ['o'])],
  ]);
  const main = graph({
    name: 'rows',
    nodes: [one, ...after],
    inputs: [value('x', 'FP32', ['N', ...dims.slice(1)])],
    outputs: [value('o', 'FP32', ['N'])],
    initializers: given.constants,
  });
  const whole = model(main, { opset: dice.pick([11, 13, 17]) });
  const undeclared = { ...whole, graph: { ...main, output: [{ ...value('o', 'FP32', []), type: { tensorType: { elemType: 1 } } }] } };
  return { file: encodeModel(undeclared as OnnxModel), proved: proveRows(whole).proved, dims, kind: one.opType ?? '' };
}

type Case = { seed: number; kind: string; what: string };

async function check(seed: number): Promise<Case | 'not proved' | 'refused' | 'apart'> {
  const dice = new Dice(seed);
  const { file, proved, dims, kind } = subject(dice);
  if (!proved) return 'not proved';
  const session = await InferenceSession.create(file, { logSeverityLevel: 4, intraOpNumThreads: 1 }).catch(() => null);
  if (session === null) return 'refused';
  const size = dims.slice(1).reduce((product, one) => product * one, 1);
  const all = Float32Array.from({ length: ROWS * size }, () => 40 * dice.next() - 20);
  const run = async (rows: Float32Array) => {
    const { o } = await session.run({ x: new Tensor('float32', rows, [rows.length / size, ...dims.slice(1)]) });
    return { dims: o?.dims ?? [], data: Array.from((o?.data ?? []) as Float32Array) };
  };
  try {
    const together = await run(all);
    const each = together.data.length / ROWS;
    for (let row = 0; row < ROWS; row++) {
      const alone = (await run(all.slice(row * size, (row + 1) * size))).data;
      const among = together.data.slice(row * each, (row + 1) * each);
      if (together.dims[0] !== ROWS || !isSame(alone, among))
        return { seed, kind, what: `row ${row} of [${together.dims}]: ${among} among others, ${alone} alone` };
    }
    return 'apart';
  } catch {
    return 'refused';
  } finally {
    await session.release();
  }
}

function isSame(one: readonly number[], other: readonly number[]): boolean {
  const isNear = (a: number, b: number) => Object.is(a, b) || Math.abs(a - b) <= 1e-3 * (1 + Math.abs(a));
  return one.length === other.length && one.every((value, index) => isNear(value, other[index] ?? Number.NaN));
}

const { values } = parseArgs({
  options: { count: { type: 'string', default: '20000' }, seed: { type: 'string', default: String(Date.now() % 1_000_000) } },
});
const tally: Record<string, number> = { mixed: 0 };
const mixed: Case[] = [];
for (let one = 0; one < Number(values.count); one++) {
  const found = await check(Number(values.seed) * 1_000_000 + one);
  const name = typeof found === 'string' ? found : 'mixed';
  tally[name] = (tally[name] ?? 0) + 1;
  if (typeof found !== 'string') mixed.push(found);
}
console.log(JSON.stringify({ seed: Number(values.seed), tally, mixed: mixed.slice(0, 10) }));
process.exitCode = mixed.length === 0 ? 0 : 1;
