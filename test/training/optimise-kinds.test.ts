import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { checkModel, decodeModel, encodeModel, float, graph, model, node, tensor, value } from '../../src/inference/onnx/onnx.ts';
import { createRandom, Tensor } from '../../src/training/net/net.ts';
import { type OptimisationKind, optimiseModel, randomFeeds } from '../../src/training/optimise/optimise.ts';
import { answers, convModel, denseModel, modelOf, relativeError, rowsOf, uniform } from '../support/optimise.ts';

const KINDS: OptimisationKind[] = ['GRAPH', 'DYNAMIC_INT8', 'STATIC_INT8', 'FP16'];
const digits = readFileSync('models/digits/model.onnx');
const calibration = rowsOf([64]);
const x = uniform(8 * 64, 40, 2);
const operators = (bytes: Uint8Array) => checkModel(bytes).operators.map(({ name }) => name);
const weight = (name: string, rows = 64, columns = 32) => tensor(name, 'FP32', [rows, columns], uniform(rows * columns, 5));

describe('an optimised model', () => {
  it.each(KINDS)('of kind %s answers nearly as its source, and is the same bytes twice', async (kind) => {
    const { bytes } = await optimiseModel(denseModel(), kind, { calibration });
    expect(Buffer.compare(bytes, (await optimiseModel(denseModel(), kind, { calibration })).bytes)).toBe(0);
    expect(relativeError(await answers(denseModel(), x, [8, 64]), await answers(bytes, x, [8, 64]))).toBeLessThan(0.03);
  });

  it.each([11, 13, 18])('of operator set %i runs', async (opset) => {
    const source = denseModel(opset);
    for (const kind of ['DYNAMIC_INT8', 'STATIC_INT8'] as const) {
      const { bytes } = await optimiseModel(source, kind, { calibration });
      expect(relativeError(await answers(source, x, [8, 64]), await answers(bytes, x, [8, 64]))).toBeLessThan(0.03);
    }
  });

  it('has Conv, Gemm and their weights in integers, a quarter of the size', async () => {
    const { bytes } = await optimiseModel(convModel(), 'STATIC_INT8', { calibration: rowsOf([1, 12, 12]) });
    const pictures = uniform(4 * 144, 41, 2);
    expect(
      relativeError(await answers(convModel(), pictures, [4, 1, 12, 12]), await answers(bytes, pictures, [4, 1, 12, 12])),
    ).toBeLessThan(0.05);
    expect(decodeModel(bytes).graph?.initializer.filter(({ dataType, dims }) => dataType === 1 && dims.length > 1)).toEqual([]);
  });

  it('of static form is fused by the runtime into integer kernels', async () => {
    const { bytes } = await optimiseModel(convModel(), 'STATIC_INT8', { calibration: rowsOf([1, 12, 12]) });
    const folder = await mkdtemp(join(tmpdir(), 'mercato-fused-'));
    const optimizedModelFilePath = join(folder, 'fused.onnx');
    const session = await InferenceSession.create(bytes, {
      graphOptimizationLevel: 'extended',
      optimizedModelFilePath,
      logSeverityLevel: 3,
    });
    await session.release();
    const { operators: fused } = checkModel(await readFile(optimizedModelFilePath));
    await rm(folder, { recursive: true });
    expect(fused).toContainEqual({ name: 'QLinearConv', count: 2 });
    expect(fused).toContainEqual({ name: 'com.microsoft.QGemm', count: 1 });
    expect(fused.map(({ name }) => name)).not.toContain('Relu');
  });

  it('takes alpha, beta, transB and a bias that is computed', async () => {
    const nodes = [
      node('Gemm', ['x', 'w', 'b'], ['g'], { alpha: 0.5, beta: float(2), transB: 1 }),
      node('ReduceMean', ['x'], ['c'], { axes: [1], keepdims: 1 }),
      node('Gemm', ['x', 'v', 'c'], ['h'], { beta: float(3) }),
      node('Add', ['g', 'h'], ['y']),
    ];
    const source = modelOf([64], [32], nodes, [weight('w', 32, 64), weight('v'), tensor('b', 'FP32', [32], uniform(32, 7))]);
    for (const kind of ['DYNAMIC_INT8', 'STATIC_INT8'] as const) {
      const { bytes } = await optimiseModel(source, kind, { calibration });
      expect(relativeError(await answers(source, x, [8, 64]), await answers(bytes, x, [8, 64]))).toBeLessThan(0.03);
    }
  });

  it('answers the same at every level of the runtime', async () => {
    const { bytes } = await optimiseModel(digits, 'DYNAMIC_INT8');
    const random = createRandom(3);
    const image = new Tensor(
      'uint8',
      Uint8Array.from({ length: 8 * 784 }, () => 256 * random.uniform()),
      [8, 28, 28],
    );
    const run = async (graphOptimizationLevel: 'basic' | 'all') => {
      const session = await InferenceSession.create(bytes, { graphOptimizationLevel });
      return (await session.run({ image })).probabilities?.data as Float32Array;
    };
    expect(relativeError(await run('basic'), await run('all'))).toBeLessThan(1e-5);
  });

  it('of the shipped digits has both layers in int8, in at most 0.3 of the size', async () => {
    const { bytes } = await optimiseModel(digits, 'DYNAMIC_INT8');
    expect(operators(bytes)).not.toContain('Gemm');
    expect(bytes.length).toBeLessThanOrEqual(0.3 * digits.length);
  });
});

describe('weights of other forms', () => {
  it('are taken from a Constant node, and one tensor for several layers', async () => {
    const nodes = [
      node('Constant', [], ['w'], { value: weight('t') }),
      node('MatMul', ['x', 'w'], ['a']),
      node('MatMul', ['x', 'w'], ['b']),
      node('Add', ['a', 'b'], ['y']),
    ];
    const source = modelOf([64], [32], nodes, []);
    for (const kind of ['DYNAMIC_INT8', 'STATIC_INT8', 'FP16'] as const) {
      const { bytes } = await optimiseModel(source, kind, { calibration });
      expect(bytes.length).toBeLessThan(source.length);
      expect(relativeError(await answers(source, x, [8, 64]), await answers(bytes, x, [8, 64]))).toBeLessThan(0.03);
    }
  });

  it('that are declared as inputs too stay no inputs', async () => {
    const main = graph({
      name: 'g',
      nodes: [node('MatMul', ['x', 'w'], ['y'])],
      inputs: [value('x', 'FP32', ['N', 64]), value('w', 'FP32', [64, 32])],
      outputs: [value('y', 'FP32', ['N', 32])],
      initializers: [weight('w')],
    });
    for (const irVersion of [3, 8]) {
      const source = encodeModel(model(main, { irVersion, opset: 13 }));
      for (const kind of KINDS) {
        const { bytes } = await optimiseModel(source, kind, { calibration });
        expect(relativeError(await answers(source, x, [8, 64]), await answers(bytes, x, [8, 64]))).toBeLessThan(0.03);
      }
    }
  });

  it('of FP64 are computed in integers, with FP64 inputs and outputs', async () => {
    const main = graph({
      name: 'g',
      nodes: [node('MatMul', ['x', 'w'], ['y'])],
      inputs: [value('x', 'FP64', ['N', 64])],
      outputs: [value('y', 'FP64', ['N', 32])],
      initializers: [tensor('w', 'FP64', [64, 32], Float64Array.from(uniform(2048, 5)))],
    });
    const { bytes } = await optimiseModel(encodeModel(model(main)), 'DYNAMIC_INT8');
    const session = await InferenceSession.create(bytes);
    const { y } = await session.run({ x: new Tensor('float64', Float64Array.from(x), [8, 64]) });
    expect(y?.type).toBe('float64');
    await session.release();
  });

  it('beyond FP16 stay FP32, with a note', async () => {
    const large = tensor(
      'w',
      'FP32',
      [64, 32],
      uniform(2048, 5).map((one) => one * 1e6),
    );
    const source = modelOf(
      [64],
      [32],
      [node('MatMul', ['x', 'w'], ['a']), node('Add', ['a', 'b'], ['y'])],
      [large, tensor('b', 'FP32', [2, 32], uniform(64, 6))],
    );
    const { notes, bytes } = await optimiseModel(source, 'FP16');
    expect(notes.join()).toMatch(/"w"/);
    expect(decodeModel(bytes).graph?.initializer.find(({ name }) => name === 'w')?.dataType).toBe(1);
  });

  it('in a subgraph, or read by one, stay', async () => {
    const branch = (name: string) =>
      graph({ name, nodes: [node('MatMul', ['x', 'w'], [name])], inputs: [], outputs: [value(name, 'FP32', ['N', 32])] });
    const nodes = [
      node('MatMul', ['x', 'w'], ['a']),
      node('If', ['yes'], ['b'], { then_branch: branch('t'), else_branch: branch('e') }),
      node('Add', ['a', 'b'], ['y']),
    ];
    const source = modelOf([64], [32], nodes, [weight('w'), tensor('yes', 'BOOL', [], Uint8Array.of(1))]);
    for (const kind of ['DYNAMIC_INT8', 'STATIC_INT8', 'FP16'] as const) {
      const { bytes } = await optimiseModel(source, kind, { calibration });
      expect(relativeError(await answers(source, x, [8, 64]), await answers(bytes, x, [8, 64]))).toBeLessThan(0.03);
    }
  });
});

describe('what cannot be done', () => {
  const relu = modelOf([64], [64], [node('Relu', ['x'], ['y'])], []);

  it.each(['DYNAMIC_INT8', 'STATIC_INT8', 'FP16'] as const)('is refused for %s where nothing is to be done', async (kind) => {
    await expect(optimiseModel(relu, kind, { calibration })).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field: 'kind' } });
  });

  it('is refused without calibration, and where operators mean something else in a newer set', async () => {
    await expect(optimiseModel(denseModel(), 'STATIC_INT8')).rejects.toMatchObject({ data: { field: 'calibration' } });
    const old = modelOf([64], [32], [node('MatMul', ['x', 'w'], ['a']), node('Softmax', ['a'], ['y'], { axis: 0 })], [weight('w')], 9);
    await expect(optimiseModel(old, 'STATIC_INT8', { calibration })).rejects.toMatchObject({ code: 'BAD_USER_INPUT', message: /Softmax/ });
  });

  it('is told that computed weights become stored ones by GRAPH, which then works', async () => {
    const nodes = [
      node('ConstantOfShape', ['s'], ['w'], { value: tensor('v', 'FP32', [1], Float32Array.of(0.5)) }),
      node('MatMul', ['x', 'w'], ['y']),
    ];
    const source = modelOf([64], [32], nodes, [tensor('s', 'INT64', [2], BigInt64Array.of(64n, 32n))]);
    await expect(optimiseModel(source, 'DYNAMIC_INT8')).rejects.toMatchObject({ data: { expected: expect.stringMatching(/GRAPH/) } });
    const { bytes } = await optimiseModel(source, 'GRAPH');
    expect(operators((await optimiseModel(bytes, 'DYNAMIC_INT8')).bytes)).toContain('MatMulInteger');
  });

  it('is no rows of a model that takes texts', () => {
    const texts = graph({
      name: 'g',
      nodes: [node('Identity', ['x'], ['y'])],
      inputs: [value('x', 'BYTES', ['N'])],
      outputs: [value('y', 'BYTES', ['N'])],
    });
    const { feeds } = randomFeeds(encodeModel(model(texts)));
    expect(() => feeds(0, 1)).toThrow(expect.objectContaining({ code: 'MODEL_FAILED' }));
  });
});
