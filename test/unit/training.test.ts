import { describe, expect, it } from 'vitest';
import { DATATYPES, encodeModel, node, type OnnxModel, type OnnxNode } from '../../src/inference/onnx/onnx.ts';
import { gradientModel, LABELS, LOSS } from '../../src/training/gradient.ts';
import { parseIdx } from '../../src/training/idx.ts';
import { startWeights } from '../../src/training/net.ts';
import { createRandom, shuffled } from '../../src/training/random.ts';
import { floats, openSession, Tensor } from '../../src/training/session.ts';
import { nextOf, RATE, stateOf, stepModel } from '../../src/training/step.ts';
import {
  adam,
  createNet,
  type Dataset,
  drawStrokes,
  evaluate,
  exportModel,
  fitNet,
  SEVEN,
  signatureOf,
} from '../../src/training/training.ts';

const ROWS = 5;
/** Every kind of layer once, in double precision. */
const net = createNet({
  input: { name: 'x', datatype: 'FP64', dims: [2, 3] },
  layers: [
    { kind: 'flatten' },
    { kind: 'dense', units: 7, activation: 'relu' },
    { kind: 'scale', factor: 1.5 },
    { kind: 'dropout', rate: 0.4 },
    { kind: 'dense', units: 4, activation: 'softmax' },
    { kind: 'dense', units: 3, activation: 'softmax' },
  ],
  precision: 'FP64',
});

function feeds(): Record<string, Tensor> {
  const random = createRandom(11);
  const uniform = (size: number) => Float64Array.from({ length: size }, () => 2 * random.uniform() - 1);
  const all: Record<string, Tensor> = {
    x: floats(uniform(ROWS * 6), [ROWS, 2, 3]),
    [LABELS]: new Tensor('int64', BigInt64Array.of(0n, 1n, 2n, 1n, 0n), [ROWS]),
  };
  for (const { name, dims, rate } of net.masks)
    all[name] = floats(
      uniform(ROWS * 7).map((one) => (one < rate ? 0 : 1 / (1 - rate))),
      [ROWS, ...dims],
    );
  const weights = startWeights(net, createRandom(12));
  for (const { name, dims } of net.parameters)
    all[name] = floats(weights.get(name)?.map((one) => one + 0.1 * random.uniform()) ?? new Float64Array(), dims);
  return all;
}

/** The largest |analytic − numeric| / (|analytic| + |numeric| + 1e-6) over all parameters; numeric: (L(θ + h) − L(θ − h)) / 2h. */
async function worstGradientError(model: OnnxModel): Promise<number> {
  const session = await openSession(model);
  const given = feeds();
  const loss = async () => Number((await session.run(given, [LOSS]))[LOSS]?.data[0]);
  const analytic = await session.run(given);
  const h = 1e-5;
  let worst = 0;
  for (const { name } of net.parameters) {
    const theta = given[name]?.data as Float64Array;
    for (const [index, start] of theta.entries()) {
      theta[index] = start + h;
      const above = await loss();
      theta[index] = start - h;
      const below = await loss();
      theta[index] = start;
      const numeric = (above - below) / (2 * h);
      const exact = Number(analytic[`${name}.gradient`]?.data[index]);
      worst = Math.max(worst, Math.abs(exact - numeric) / (Math.abs(exact) + Math.abs(numeric) + 1e-6));
    }
  }
  await session.release();
  return worst;
}

/** The graph with the last node that fits replaced by one that hands its first input on: a gradient without that term. */
function without(model: OnnxModel, fits: (one: OnnxNode) => boolean): OnnxModel {
  const nodes = [...(model.graph?.node ?? [])];
  const index = nodes.findLastIndex(fits);
  const found = nodes[index];
  if (found === undefined || model.graph === undefined) throw new Error('no such node');
  nodes[index] = node('Identity', found.input.slice(0, 1), found.output);
  return { ...model, graph: { ...model.graph, node: nodes } };
}

const reads = (part: string) => (one: OnnxNode) => one.input.some((name) => name.startsWith(part));

describe('the gradient graph', () => {
  it('agrees with central finite differences for every parameter', async () => {
    expect(await worstGradientError(gradientModel(net))).toBeLessThan(1e-5);
  });

  it.each([
    ['the one-hot labels of the loss', (one: OnnxNode) => one.opType === 'Sub' && one.input[0]?.startsWith('exp') === true],
    ['the mean over rows', (one: OnnxNode) => one.opType === 'Div' && reads('sub')(one)],
    ['the row sum of softmax', (one: OnnxNode) => one.opType === 'Sub' && reads('reducesum')(one)],
    ['the mask of dropout', reads('dropout_3.mask')],
    ['the factor of scale', (one: OnnxNode) => one.opType === 'Mul' && reads('constant')(one)],
    ['the gate of ReLU', (one: OnnxNode) => one.opType === 'Mul' && reads('cast')(one)],
  ])('disagrees without %s', async (_name, fits) => {
    expect(await worstGradientError(without(gradientModel(net), fits))).toBeGreaterThan(1e-2);
  });
});

describe('the step graph', () => {
  it('updates as Adam is written down', async () => {
    const optimiser = adam();
    const [session, gradients] = [await openSession(stepModel(net, optimiser)), await openSession(gradientModel(net))];
    const given = feeds();
    const exact = await gradients.run(given);
    const size = (dims: readonly number[]) => dims.reduce((product, dim) => product * dim, 1);
    for (const { name, dims } of stateOf(net, optimiser)) given[name] ??= floats(new Float64Array(size(dims)).fill(0.25), dims);
    const result = await session.run({ ...given, [RATE]: floats(Float64Array.of(optimiser.rate(3)), []) });
    const rate = (0.001 * Math.sqrt(1 - 0.999 ** 3)) / (1 - 0.9 ** 3);
    for (const { name } of net.parameters) {
      const theta = given[name]?.data as Float64Array;
      const next = result[nextOf(name)]?.data as Float64Array;
      const gradient = exact[`${name}.gradient`]?.data as Float64Array;
      for (const [index, g] of gradient.entries()) {
        const [m, v] = [0.9 * 0.25 + 0.1 * g, 0.999 * 0.25 + 0.001 * g * g];
        expect(next[index]).toBeCloseTo((theta[index] ?? 0) - (rate * m) / (Math.sqrt(v) + 1e-7), 12);
      }
    }
    await Promise.all([session.release(), gradients.release()]);
  });
});

/** Bars at the top (class 0) or at the left (class 1) of noise. */
function bars(rows: number): Dataset {
  const random = createRandom(5);
  const labels = Uint8Array.from({ length: rows }, () => random.below(2));
  const values = Uint8Array.from({ length: rows * 16 }, (_, index) => {
    const inBar = labels[Math.floor(index / 16)] === 0 ? index % 16 < 4 : index % 4 === 0;
    return random.below(100) + (inBar ? 120 : 0);
  });
  return { rows, dims: [4, 4], values, labels };
}

const small = createNet({
  input: { name: 'image', datatype: 'UINT8', dims: [4, 4] },
  layers: [
    { kind: 'scale', factor: 1 / 255 },
    { kind: 'flatten' },
    { kind: 'dense', units: 8, activation: 'relu' },
    { kind: 'dropout', rate: 0.2 },
    { kind: 'dense', units: 2, activation: 'softmax' },
  ],
});

describe('fitNet', () => {
  const data = bars(200);
  const train = (seed: number) => fitNet(small, data, { epochs: 3, batchRows: 32, seed });

  it('gives the same weights for the same seed, and others for another', async () => {
    const [first, again, other] = [await train(1), await train(1), await train(2)];
    expect(again).toEqual(first);
    expect(other).not.toEqual(first);
  });

  it('learns, and exports what it learnt with its preprocessing inside', async () => {
    const losses: number[] = [];
    const weights = await fitNet(small, data, { epochs: 20, batchRows: 32, seed: 1, onEpoch: ({ loss }) => losses.push(loss) });
    expect(losses.at(-1)).toBeLessThan((losses[0] ?? 0) / 2);
    const bytes = encodeModel(exportModel(small, weights));
    expect((await evaluate(bytes, bars(100), 2)).accuracy).toBeGreaterThan(0.95);
    expect(signatureOf(bytes)).toEqual({
      batchDimension: 'N',
      inputs: [{ name: 'image', datatype: 'UINT8', shape: [-1, 4, 4], dimensions: ['N', null, null] }],
      outputs: [
        { name: 'probabilities', datatype: 'FP32', shape: [-1, 2], dimensions: ['N', null] },
        { name: 'label', datatype: 'INT64', shape: [-1], dimensions: ['N'] },
      ],
    });
  });

  it('refuses rows that do not fit the net', async () => {
    await expect(fitNet(small, { ...data, dims: [16] }, { epochs: 1, batchRows: 8, seed: 1 })).rejects.toThrow(RangeError);
  });
});

describe('createNet', () => {
  it('refuses a dense layer on rows that are not flat', () => {
    const input = { name: 'x', datatype: 'FP32', dims: [2, 2] } as const;
    expect(() => createNet({ input, layers: [{ kind: 'dense', units: 1 }] })).toThrow('dense_0: rows of dimensions [2, 2] are not flat');
  });

  it('casts what it is fed to its own precision', () => {
    const cast = exportModel(small, new Map()).graph?.node[0];
    expect([cast?.opType, cast?.attribute[0]?.i]).toEqual(['Cast', BigInt(DATATYPES.FP32)]);
  });
});

describe('createRandom', () => {
  it('gives one stream per seed and purpose, spread over [0, 1)', () => {
    const draw = (seed: number, stream = 0) => Array.from({ length: 1_000 }, createRandom(seed, stream).uniform);
    expect(draw(1)).toEqual(draw(1));
    expect(draw(1, 1)).not.toEqual(draw(1, 2));
    const mean = draw(1).reduce((sum, one) => sum + one, 0) / 1_000;
    expect(Math.abs(mean - 0.5)).toBeLessThan(0.03);
  });

  it('shuffles without losing or repeating', () => {
    expect([...shuffled(100, createRandom(3))].sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, index) => index));
  });
});

describe('parseIdx', () => {
  it('reads dimensions and bytes', () => {
    expect(parseIdx(Uint8Array.of(0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 2, 7, 9))).toEqual({ dims: [1, 2], values: Uint8Array.of(7, 9) });
  });

  it.each([
    ['another element type', [0, 0, 0x0d, 1, 0, 0, 0, 0]],
    ['a header that is cut', [0, 0, 8, 2, 0, 0, 0, 1]],
    ['fewer elements than it says', [0, 0, 8, 1, 0, 0, 0, 3, 1, 2]],
  ])('refuses %s', (_name, bytes) => {
    expect(() => parseIdx(Uint8Array.from(bytes))).toThrow(RangeError);
  });
});

describe('drawStrokes', () => {
  it('has full ink on the line, none far from it, and grey at its edge', () => {
    const picture = drawStrokes(SEVEN);
    expect(picture[7]?.[13]).toBe(255);
    expect(picture[0]?.[0]).toBe(0);
    expect(picture.flat().some((ink) => ink > 0 && ink < 255)).toBe(true);
  });
});
