import { describe, expect, it, vi } from 'vitest';
import { checkEinsums } from '../../src/inference/onnx/einsum.ts';
import { versionsOf } from '../../src/inference/onnx/functions.ts';
import {
  checkModel,
  encodeModel,
  graph,
  model,
  node,
  type OnnxNode,
  type OnnxTensor,
  proveRows,
  tensor,
  value,
} from '../../src/inference/onnx/onnx.ts';
import { RULES } from '../../src/inference/onnx/row-rules.ts';
import { Application, CONST, type Known, rowsOfRank } from '../../src/inference/onnx/row-values.ts';
import { shapesOf } from '../../src/inference/onnx/shapes.ts';
import { checkSparseTensor, checkTensor } from '../../src/inference/onnx/tensors.ts';
import { randomInputs } from '../../src/inference/random-inputs.ts';
import type { Signature } from '../../src/inference/tensor.ts';
import { makeFunction, makeGraph, refusalOf, weights, withGraph, withParts } from './onnx-parts.ts';

const ofRank = (rank: number): Known => ({ kind: 'ROWS', tail: Array<null>(rank - 1).fill(null) });
const dimsOf = (rank: number) => ['N', ...Array<number>(rank - 1).fill(1)];

describe('the number of dimensions', () => {
  it('is at most 64 at the door of a model', () => {
    expect(refusalOf(encodeModel(withParts({ inputs: [value('x', 'FP32', dimsOf(65))] })))).toMatchObject({
      message: expect.stringContaining('more than 64 dimensions'),
      data: { place: 'graph.input["x"]' },
    });
    expect(refusalOf(encodeModel(withParts({ outputs: [value('y', 'FP32', dimsOf(65))] }))).data.place).toBe('graph.output["y"]');
  });

  it('ends the proof of rows beyond 64, where a chain raises it without end or an input brings it', () => {
    const length = 2_000;
    const nodes = Array.from({ length }, (_, index) => {
      return node('Unsqueeze', [index === 0 ? 'x' : `v${index}`], [index === length - 1 ? 'y' : `v${index + 1}`], { axes: [1] });
    });
    const main = graph({ name: 'g', nodes, inputs: [value('x', 'FP32', dimsOf(2))], outputs: [value('y', 'FP32', ['N'])] });
    expect(proveRows(model(main, { opset: 11 }))).toEqual({ proved: false, node: 'graph.node[62] (Unsqueeze)' });
    const wide = { inputs: [value('x', 'FP32', dimsOf(65))], outputs: [value('y', 'FP32', dimsOf(65))] };
    expect(proveRows(withParts(wide))).toEqual({ proved: false, node: 'graph.input x' });
  });

  it.each([
    ['Gather', [ofRank(60), { ...CONST, dims: [1, 1, 1, 1, 1, 1] }], { axis: 1 }],
    ['Gather', [{ ...CONST, dims: [1, 1, 1, 1, 1, 1] }, ofRank(60)], { axis: 0 }],
    ['OneHot', [ofRank(64), CONST, CONST], { axis: -1 }],
  ] as const)('is not raised beyond 64 by %s', (operator, inputs, attributes) => {
    const rule = RULES.get(operator);
    expect(rule?.(new Application(node(operator, ['x', 'c'], ['y'], attributes), inputs, 17))).toBeNull();
  });

  it('takes no memory for each node', () => {
    expect(rowsOfRank(64)).toBe(rowsOfRank(64));
    expect(rowsOfRank(65)).toBeNull();
  });
});

describe('sparse indices', () => {
  const refused = (indices: OnnxTensor, dims: bigint[], values = weights): unknown => {
    return refusalOf(encodeModel(withGraph({ sparseInitializer: [{ values, indices, dims }] }))).data.place;
  };
  const ofBytes = (...bytes: number[]): OnnxTensor => ({ ...tensor('i', 'INT64', [2], []), int64Data: [Uint8Array.from(bytes)] });

  it('are for no more values than there are elements', () => {
    const many = tensor('w1', 'FP32', [3], new Float32Array(3));
    expect(refused(tensor('i', 'INT64', [3], new BigInt64Array(3)), [2n], many)).toBe('graph.sparse_initializer["w1"].values');
    expect(refused(tensor('i', 'INT64', [2], new BigInt64Array(2)), [0n])).toBe('graph.sparse_initializer["w1"].values');
  });

  it('are read where they lie', () => {
    const read = vi.spyOn(DataView.prototype, 'getBigInt64');
    try {
      const indices = tensor('i', 'INT64', [1_000], new BigInt64Array(1_000));
      const values = tensor('w1', 'FP32', [1_000], new Float32Array(1_000));
      expect(checkSparseTensor({ values, indices, dims: [1_000n] }, 'here')).toBe(1_000);
      expect(read).not.toHaveBeenCalled();
    } finally {
      read.mockRestore();
    }
  });

  it('may be a list, with padding too, or of each dimension', () => {
    const accepted = (indices: OnnxTensor, dims: bigint[]): number => checkSparseTensor({ values: weights, indices, dims }, 'here');
    expect(accepted(ofBytes(0x00, 0xac, 0x02), [301n])).toBe(2);
    expect(accepted(ofBytes(0x01, 0x82, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00), [4n])).toBe(2);
    expect(accepted(tensor('i', 'INT64', [2, 2], BigInt64Array.of(0n, 2n, 1n, 0n)), [2n, 3n])).toBe(2);
  });

  it.each([
    ['beyond a list', ofBytes(0x00, 0xac, 0x02), [300n], '300'],
    ['-1', ofBytes(0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01), [4n], '-1'],
    ['the largest', tensor('i', 'INT64', [2], BigInt64Array.of(0n, 2n ** 63n - 1n)), [4n], '9223372036854775807'],
    ['the smallest', tensor('i', 'INT64', [2], BigInt64Array.of(-(2n ** 63n), 0n)), [4n], '-9223372036854775808'],
    ['beyond its own dimension', tensor('i', 'INT64', [2, 2], BigInt64Array.of(0n, 2n, 2n, 0n)), [2n, 3n], '2'],
  ])('are not %s', (_, indices, dims, index) => {
    expect(() => checkSparseTensor({ values: weights, indices, dims }, 'here')).toThrow(
      `The index ${index} is outside the tensor. (here.indices)`,
    );
  });
});

describe('imported operator sets', () => {
  const others = (count: number) => Array.from({ length: count }, (_, index) => ({ domain: `d${index}`, version: 1n }));

  it('are at most 100, of a model and of a function', () => {
    const whole = model(makeGraph());
    expect(refusalOf(encodeModel({ ...whole, opsetImport: [...whole.opsetImport, ...others(20_000)] }))).toMatchObject({
      message: expect.stringContaining('20001 operator sets are imported; at most 100 are read.'),
      data: { place: 'opset_import[100]' },
    });
    const functions = [{ ...makeFunction('f', []), opsetImport: others(101) }];
    expect(refusalOf(encodeModel({ ...whole, functions })).data.place).toBe('functions["f"].opset_import[100]');
    expect(checkModel(encodeModel({ ...whole, opsetImport: [...whole.opsetImport, ...others(99)] })).opsets).toHaveLength(100);
  });

  it('are not copied for a function that imports none', () => {
    const around = versionsOf(others(100), '');
    expect(versionsOf([], 'functions["f"].', around)).toBe(around);
    expect(versionsOf([{ domain: 'd1', version: 2n }], '', around).get('d1')).toBe(2);
  });
});

describe('a list as long as the file', () => {
  it('of the terms of an Einsum is not looked up again for each of them', () => {
    const names = Array<string>(1_000).fill('x');
    const one = node('Einsum', names, ['y'], { equation: `${names.map(() => 'a').join()}->a` });
    const map = vi.spyOn(one.input as string[], 'map');
    const inputs = [value('x', 'FP32', ['N'])];
    checkEinsums(model(graph({ name: 'g', nodes: [one], inputs, outputs: [value('y', 'FP32', ['N'])] })));
    expect(map.mock.calls.length).toBeLessThan(10);
  });

  it.each(['Squeeze', 'Unsqueeze', 'ReduceSum'])('of the axes of %s is not searched', (operator) => {
    const axes = Array.from({ length: 10_000 }, (_, axis) => (operator === 'Unsqueeze' ? axis : 0));
    const one = node(operator, ['x'], ['y'], { axes });
    const main = graph({ name: 'g', nodes: [one], inputs: [value('x', 'FP32', ['N', 2])], outputs: [] });
    const includes = vi.spyOn(Array.prototype, 'includes');
    try {
      const { infos } = shapesOf(model(main, { opset: 11 }), () => 2);
      expect(includes).not.toHaveBeenCalled();
      expect(infos.get('y')?.dims).toBeNull();
    } finally {
      includes.mockRestore();
    }
  });
});

describe('what is known of values before a run', () => {
  const follow = (nodes: OnnxNode[], initializers: OnnxTensor[] = []) => {
    const parts = { inputs: [value('x', 'FP32', dimsOf(64))], outputs: [], initializers };
    return shapesOf(model(graph({ name: 'g', nodes, ...parts })), () => 2).infos;
  };
  const outputs = (count: number) => Array.from({ length: count }, (_, index) => `p${index}`);

  it.each([
    ['inputs', node('Sum', Array<string>(130_000).fill('x'), ['p0'])],
    ['outputs', node('Split', ['x'], outputs(130_000), { axis: 1 })],
  ])('ends with eight million sizes of %s', (_, one) => {
    const infos = follow([node('Relu', ['x'], ['a']), one, node('Relu', ['a'], ['b'])]);
    expect(infos.get('a')?.dims).toHaveLength(64);
    expect(infos.has('p0')).toBe(false);
    expect(infos.has('b')).toBe(false);
  });

  it('are the elements of short lists only, of types that hold sizes, and of scalars', () => {
    const infos = follow(
      [node('Concat', ['few', 'few'], ['twice'], { axis: 0 })],
      [
        tensor('few', 'INT64', [128], new BigInt64Array(128)),
        tensor('many', 'INT64', [129], new BigInt64Array(129)),
        tensor('bytes', 'INT8', [2], new Int8Array(2)),
        tensor('byte', 'INT8', [], Int8Array.of(7)),
      ],
    );
    expect(infos.get('few')?.numbers).toHaveLength(128);
    for (const name of ['many', 'bytes', 'twice']) expect(infos.get(name)?.numbers).toBeNull();
    expect(infos.get('byte')?.numbers).toEqual([7]);
  });

  it('are not gathered from more parts than elements', () => {
    const parts = (...lengths: number[]) => ({
      ...tensor('c', 'FP32', [1], []),
      floatData: lengths.map((length) => new Uint8Array(length)),
    });
    expect(refusalOf(encodeModel(withParts({ initializers: [parts(4, 0, 0)] })))).toMatchObject({
      message: expect.stringContaining("The tensor's data is in 3 parts and its shape wants 1 entries."),
      data: { place: 'graph.initializer["c"]' },
    });
    expect(checkTensor(parts(4), 'here')).toBe(1);
    expect(checkTensor({ ...parts(0), dims: [0n] }, 'here')).toBe(0);
  });
});

describe('random inputs', () => {
  const inputs = (shapes: number[][]): Signature => ({
    inputs: shapes.map((shape, index) => ({ name: `x${index}`, datatype: 'BOOL', shape, dimensions: shape.map(() => null) })),
    outputs: [],
    batchDimension: null,
  });
  const range = { size: 2, wholeMax: 1 };

  it('are bounded together', () => {
    const third = 6 * 1024 * 1024;
    expect(randomInputs(inputs([[third], [third], [third]]), 1, range)).toBeNull();
    expect(randomInputs(inputs([[1024], [-1, 3]]), 1, range)?.map(({ data }) => data.length)).toEqual([1024, 6]);
    expect(randomInputs(inputs([[...Array<number>(40).fill(2 ** 31 - 1), 0]]), 1, range)).toBeNull();
  });
});
