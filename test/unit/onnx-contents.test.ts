import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { MercatoError } from '../../src/base/errors.ts';
import {
  decodeModel,
  encodeModel,
  estimateRun,
  graph,
  model,
  node,
  type OnnxNode,
  type OnnxTensor,
  readContents,
  tensor,
  value,
} from '../../src/inference/onnx/onnx.ts';
import { shapesOf } from '../../src/inference/onnx/shapes.ts';

const floats = (name: string, ...dims: number[]) => tensor(name, 'FP32', dims, new Float32Array(dims.reduce((a, b) => a * b, 1)));
const longs = (name: string, ...numbers: number[]) => tensor(name, 'INT64', [numbers.length], BigInt64Array.from(numbers, BigInt));

/** A file from x [N, ...] to y. */
function file(nodes: OnnxNode[], constants: OnnxTensor[] = [], x: (number | string | null)[] = ['N', 4], opset = 17): Uint8Array {
  return encodeModel(
    model(
      graph({ name: 'g', nodes, inputs: [value('x', 'FP32', x)], outputs: [value('y', 'FP32', ['N', null])], initializers: constants }),
      { opset },
    ),
  );
}

/** What a run of one row takes. */
const runOf = (bytes: Uint8Array) => readContents(bytes).estimates[0] ?? { flops: null, activationBytes: null };

/** Nodes whose sizes the file makes up, so that a sum of bytes would fall or be no number. */
const MADE_UP: [name: string, made: OnnxNode][] = [
  ['a Pad', node('Pad', ['w0', 'pads'], ['m'])],
  ['a ConstantOfShape', node('ConstantOfShape', ['size'], ['m'])],
  ['zeros beyond any number', node('ConstantOfShape', ['beyond'], ['m'])],
  ['a Reshape', node('Reshape', ['w0', 'size'], ['m'])],
  ['an Expand', node('Expand', ['w0', 'size'], ['m'])],
  ['a Tile', node('Tile', ['w0', 'size'], ['m'])],
  ['a Resize', node('Resize', ['w0', '', '', 'size'], ['m'])],
  ['a Split', node('Split', ['w0', 'size'], ['m'], { axis: 0 })],
  ['a OneHot', node('OneHot', ['index', 'size', 'w0'], ['m'])],
  ['a TopK', node('TopK', ['w0', 'size'], ['m', 'n'])],
  ['a ConvTranspose', node('ConvTranspose', ['cube', 'cube'], ['m'], { pads: [2 ** 40, 0] })],
  ['an RNN', node('RNN', ['cube', 'cube', 'cube'], ['m'], { hidden_size: -(2 ** 40) })],
];

describe('what a file says by itself', () => {
  it('estimates a run for any sizes of its inputs, named or not', () => {
    const bytes = file([node('MatMul', ['x', 'w'], ['m']), node('Relu', ['m'], ['y'])], [floats('w', 4, 3)], ['N', 'words', null, 4]);
    // 2 × 7 × 5 rows of 4, by 4×3, then a pass over the result.
    const rows = 2 * 7 * 5;
    expect(estimateRun(bytes, new Map([['x', [2, 7, 5, 4]]]))).toEqual({
      flops: 2 * rows * 4 * 3 + 3 * rows,
      activationBytes: 4 * (rows * 4 + 2 * 3 * rows),
      weightBytes: 4 * 4 * 3,
      reason: null,
    });
    const pooled = file([node('NonZero', ['x'], ['z']), node('Cast', ['z'], ['y'], { to: 1 })]);
    const reason = expect.stringContaining('from graph.node[0] (NonZero) on');
    expect(estimateRun(pooled, new Map([['x', [2, 4]]]))).toEqual({ flops: null, activationBytes: null, weightBytes: 0, reason });
  });

  it('estimates the steps of a product, and what lives at once, for the given number of rows', () => {
    const bytes = file([node('MatMul', ['x', 'w'], ['m']), node('Relu', ['m'], ['r']), node('Relu', ['r'], ['y'])], [floats('w', 4, 3)]);
    // A product of 5×4 by 4×3, then two passes over 5×3; x with the first result and one more at a time.
    expect(readContents(bytes, [1, 5]).estimates).toMatchObject([
      { rows: 1 },
      { rows: 5, flops: 2 * 5 * 4 * 3 + 2 * 15, activationBytes: 4 * (5 * 4 + 2 * 15) },
    ]);
  });

  it('keeps a value in memory until its last reader, also one in a branch', () => {
    const inner = graph({ name: 'b', nodes: [node('Relu', ['a'], ['i'])], inputs: [], outputs: [value('i', 'FP32', ['N', 4])] });
    const chain = (last: OnnxNode) => file([node('Relu', ['x'], ['a']), node('Relu', ['a'], ['b']), node('Relu', ['b'], ['c']), last]);
    expect(runOf(chain(node('Add', ['c', 'c'], ['y']))).activationBytes).toBe(3 * 16);
    expect(runOf(chain(node('Add', ['c', 'a'], ['y']))).activationBytes).toBe(4 * 16);
    const branch = node('If', ['t'], ['z'], { then_branch: inner, else_branch: inner });
    const flag = tensor('t', 'BOOL', [], Uint8Array.of(1));
    const branched = file([node('Relu', ['x'], ['a']), node('Relu', ['a'], ['y']), branch], [flag]);
    expect(runOf(branched)).toMatchObject({ flops: null, activationBytes: null });
  });

  it('says from which node on it knows nothing, and estimates nothing then', () => {
    const found = readContents(file([node('NonZero', ['x'], ['i'], {}, { name: 'where' }), node('Cast', ['i'], ['y'], { to: 1 })]));
    expect(found).toMatchObject({ rowsProved: false, estimates: [{ flops: null, activationBytes: null }] });
    expect(found.findings).toContainEqual(expect.stringContaining('from graph.node[0] (NonZero "where") on'));
  });

  it('counts every constant of the file once, wherever it is, and what the runtime computes of them', () => {
    const inner = (name: string) =>
      graph({ name: 'b', nodes: [], inputs: [], outputs: [value(name, 'FP32', [5])], initializers: [floats(name, 5)] });
    const nodes = [
      node('Constant', [], ['c'], { value: floats('', 3) }),
      node('ConstantOfShape', ['s'], ['z']),
      node('If', ['t'], ['i'], { then_branch: inner('p'), else_branch: inner('q') }),
      node('Relu', ['x'], ['y']),
    ];
    const words = tensor('words', 'BYTES', [2], ['one', 'three']);
    const flag = tensor('t', 'BOOL', [], Uint8Array.of(1));
    // A list of one shape, three floats, seven that are made, two branches of five, eight letters and a flag.
    expect(runOf(file(nodes, [longs('s', 7), words, flag]))).toMatchObject({ weightBytes: 8 + 4 * (3 + 7 + 10) + 8 + 1 });
  });

  it.each([
    ['RNN', 1, 2],
    ['GRU', 3, 2],
    ['LSTM', 4, 3],
  ] as const)('knows the shapes that the runtime gives an %s, and its steps', async (name, gates, results) => {
    for (const [direction, directions] of [
      ['forward', 1],
      ['bidirectional', 2],
    ] as const) {
      const outputs = ['y', 'h', 'c'].slice(0, results);
      const one = graph({
        name: 'g',
        nodes: [node(name, ['x', 'w', 'r'], outputs, { hidden_size: 5, direction })],
        inputs: [value('x', 'FP32', ['T', 'N', 4])],
        outputs: outputs.map((output) => value(output, 'FP32', output === 'y' ? ['T', directions, 'N', 5] : [directions, 'N', 5])),
        initializers: [floats('w', directions, gates * 5, 4), floats('r', directions, gates * 5, 5)],
      });
      const bytes = encodeModel(model(one));
      const session = await InferenceSession.create(bytes);
      const ran = await session.run({ x: new Tensor('float32', new Float32Array(3 * 2 * 4), [3, 2, 4]) });
      await session.release();
      const { infos } = shapesOf(decodeModel(bytes), (size) => (size === 'T' ? 3 : 2));
      for (const output of outputs) expect(infos.get(output)).toMatchObject({ elemType: 1, dims: ran[output]?.dims });
      const elements = outputs.reduce((sum, output) => sum + (ran[output]?.data.length ?? 0), 0);
      expect(estimateRun(bytes, new Map([['x', [3, 2, 4]]]))).toEqual({
        flops: 2 * 3 * 2 * directions * gates * 5 * (4 + 5),
        activationBytes: 4 * (3 * 2 * 4 + elements),
        weightBytes: 4 * directions * gates * 5 * (4 + 5),
        reason: null,
      });
    }
  });

  it('tells what an LSTM takes of which only the last state is read', () => {
    const lstm = node('LSTM', ['x', 'w', 'r'], ['', 'y'], { hidden_size: 5 });
    const bytes = file([lstm], [floats('w', 1, 20, 4), floats('r', 1, 20, 5)], [3, 'N', 4]);
    expect(runOf(bytes)).toMatchObject({ flops: 2 * 3 * 20 * 9, activationBytes: 4 * (3 * 4 + 5), reason: null });
  });

  it('says which constants are very large', () => {
    const found = readContents(file([node('MatMul', ['x', 'w'], ['y'])], [floats('w', 4, 5 * 1024 * 1024)]));
    expect(found.findings).toContainEqual(expect.stringContaining('constant "w" is large: 83886080 bytes'));
  });

  it('says when loading computes large constants', () => {
    const nodes = [node('ConstantOfShape', ['s'], ['w']), node('MatMul', ['x', 'w'], ['y'])];
    const found = readContents(file(nodes, [longs('s', 4, 5 * 1024 * 1024)]));
    expect(found.findings).toContainEqual(expect.stringContaining('computes 83886080 bytes of constants'));
  });

  it.each([
    ['a hundred bytes that ask for 16 GB', [node('ConstantOfShape', ['s'], ['w'])], 'graph.node[0] (ConstantOfShape)'],
    [
      'a constant that doubles until it fills memory',
      Array.from({ length: 30 }, (_, index) => node('Concat', [`w${index}`, `w${index}`], [`w${index + 1}`], { axis: 0 })),
      'graph.node[29] (Concat)',
    ],
    ...MADE_UP.map(([name, made]): [string, OnnxNode[], string] => [
      `16 GB that ${name} would hide`,
      [node('ConstantOfShape', ['s'], ['w']), made],
      'graph.node[0] (ConstantOfShape)',
    ]),
  ])('refuses %s', (_name, bomb, place) => {
    const made = [
      longs('pads', -(2 ** 40), 0),
      longs('size', -(2 ** 40)),
      longs('beyond', ...Array(40).fill(2 ** 62), 0),
      longs('index', 0),
    ];
    const constants = [longs('s', 2 ** 16, 2 ** 16), ...made, floats('w0', 1), floats('cube', 1, 1, 1)];
    const bytes = file([...bomb, node('Relu', ['x'], ['y'])], constants);
    const refused = () => readContents(bytes);
    expect(refused).toThrow(MercatoError);
    expect(refused).toThrow(
      expect.objectContaining({
        code: 'MODEL_REJECTED',
        data: { rule: 'COMPUTED_CONSTANTS', place, limit: '536870912', given: expect.any(String) },
      }),
    );
  });

  it('reads a Split of a hundred thousand outputs in time: nothing is looked up for each', () => {
    const outputs = Array.from({ length: 100_000 }, (_, index) => `p${index}`);
    const split = node('Split', ['x'], outputs, { axis: 1, split: outputs.map(() => 1) });
    const bytes = file([split, node('Relu', ['p0'], ['y'])], [], ['N', 100_000], 11);
    expect(readContents(bytes).estimates[0]?.activationBytes).toBeGreaterThan(100_000 * 4);
  });

  it('tells from the inside of a Reshape what an exporter computed', () => {
    const nodes = [
      node('Shape', ['x'], ['s']),
      node('Gather', ['s', 'zero'], ['n']),
      node('Concat', ['n', 'rest'], ['to'], { axis: 0 }),
      node('Reshape', ['x', 'to'], ['y']),
    ];
    const found = readContents(file(nodes, [longs('zero', 0), longs('rest', -1)], ['N', 2, 8]), [3]);
    expect(found.estimates[0]?.flops).toBe(0);
    expect(found.estimates[0]?.activationBytes).toBeGreaterThanOrEqual(2 * 3 * 16 * 4);
  });
});

const folder = join(process.env.MERCATO_TEST_DATA ?? '../shared/data', 'onnx');

describe.skipIf(process.env.MERCATO_TEST_DATA === undefined)('models made by others', () => {
  it.each([
    ['densenet121', 2.87],
    ['resnet50', 4.1],
    ['squeezenet', 0.35],
  ])('%s multiplies as often as its authors say', (name, billions) => {
    const { flops } = runOf(readFileSync(join(folder, `light_${name}.onnx`)));
    expect((flops ?? 0) / 2e9 / billions).toBeGreaterThan(0.9);
    expect((flops ?? 0) / 2e9 / billions).toBeLessThan(1.1);
  });
});
