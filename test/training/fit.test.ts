import { describe, expect, it } from 'vitest';
import { checkModel, encodeModel } from '../../src/inference/onnx/onnx.ts';
import {
  createNet,
  createRandom,
  type Examples,
  evaluate,
  exportModel,
  type FitOptions,
  type Front,
  fitNet,
  Tensor,
} from '../../src/training/net/net.ts';
import { scheduleFactor } from '../../src/training/net/schedules.ts';
import { openSession } from '../../src/training/net/session.ts';

/** Bars at the top (class 0) or at the left (class 1) of noise. */
function bars(rows: number, seed = 5): Examples {
  const random = createRandom(seed);
  const classes = Int32Array.from({ length: rows }, () => random.below(2));
  const values = Float32Array.from({ length: rows * 16 }, (_, at) => {
    const inBar = classes[Math.floor(at / 16)] === 0 ? at % 16 < 4 : at % 4 === 0;
    return (random.below(100) + (inBar ? 120 : 0)) / 255;
  });
  return { rows, dims: [4, 4], values, targets: { kind: 'CLASSES', values: classes, classes: ['top', 'left'] } };
}

/** y = 3 + 2 a − b, in units of a thousand. */
function line(rows: number): Examples {
  const random = createRandom(9);
  const values = Float32Array.from({ length: rows * 2 }, () => random.normal());
  const numbers = Float64Array.from({ length: rows }, (_, row) => 1_000 * (3 + 2 * (values[2 * row] ?? 0) - (values[2 * row + 1] ?? 0)));
  return { rows, dims: [2], values, targets: { kind: 'NUMBERS', values: numbers, names: ['y'] } };
}

const net = createNet({
  dims: [4, 4],
  layers: [
    { kind: 'conv2d', filters: 3, kernel: 2, activation: 'relu' },
    { kind: 'flatten' },
    { kind: 'batchNorm' },
    { kind: 'dropout', rate: 0.2 },
    { kind: 'dense', units: 2, activation: 'softmax' },
  ],
});
const options: FitOptions = { loss: 'SPARSE_CROSS_ENTROPY', optimiser: { kind: 'ADAM' }, epochs: 4, batchRows: 32, seed: 1 };

/** Features as they come. */
const plain = (dims: readonly number[]): Front => ({ dims, lay: (tape) => tape.feed('x', 'FP32', ['N', ...dims]) });
const feeds =
  ({ values, dims }: Examples) =>
  (from: number, to: number) => {
    const size = dims.reduce((product, dim) => product * dim, 1);
    return { x: new Tensor('float32', values.slice(from * size, to * size), [to - from, ...dims]) };
  };

describe('a training', () => {
  it('gives the same weights for the same seed, and others for another', async () => {
    const data = bars(100);
    const [first, again, other] = [
      await fitNet(net, data, options),
      await fitNet(net, data, options),
      await fitNet(net, data, { ...options, seed: 2 }),
    ];
    expect(again).toEqual(first);
    expect(other).not.toEqual(first);
  });

  it('that goes on from a checkpoint of any epoch ends with the same weights, bit by bit', async () => {
    const saved: Uint8Array[] = [];
    const early = { ...options, validation: bars(40, 6), earlyStopping: { patience: 3, minDelta: 0 }, weightDecay: 0.01 };
    const whole = await fitNet(net, bars(100), { ...early, onEpoch: (_, save) => void saved.push(save()) });
    expect(saved.length).toBeGreaterThan(1);
    for (const bytes of saved) {
      for (const checkpoint of [bytes, Buffer.from(bytes)]) expect(await fitNet(net, bars(100), { ...early, checkpoint })).toEqual(whole);
    }
  });

  it('refuses a checkpoint of other options, and one that is cut', async () => {
    let saved = new Uint8Array();
    await fitNet(net, bars(40), {
      ...options,
      epochs: 1,
      onEpoch: (_, save) => {
        saved = new Uint8Array(save());
      },
    });
    await expect(fitNet(net, bars(40), { ...options, epochs: 1, seed: 3, checkpoint: saved })).rejects.toThrow('of another net');
    await expect(fitNet(net, bars(40), { ...options, epochs: 1, checkpoint: saved.subarray(0, -4) })).rejects.toThrow(RangeError);
    await expect(fitNet(net, bars(40), { ...options, epochs: 1, checkpoint: Uint8Array.of(1) })).rejects.toThrow('no checkpoint');
  });

  it('stops when the validation loss does not fall, with the weights of its best epoch', async () => {
    const losses: number[] = [];
    const noise = bars(60, 8);
    // Labels that nothing tells: what is learnt makes it worse.
    const targets = { ...noise.targets, values: Int32Array.from({ length: 60 }, (_, row) => row % 2) } as Examples['targets'];
    const stopping = { ...options, epochs: 50, validation: { ...noise, targets }, earlyStopping: { patience: 2, minDelta: 0 } };
    const stopped = await fitNet(net, bars(100), { ...stopping, onEpoch: ({ validationLoss }) => void losses.push(validationLoss ?? 0) });
    expect(losses.length).toBeLessThan(50);
    const best = losses.indexOf(Math.min(...losses)) + 1;
    expect(losses.length - best).toBe(2);
    const until = await fitNet(net, bars(100), { ...options, epochs: best });
    expect(stopped.weights).toEqual(until.weights);
  });

  it('learns, and exports what it learnt: the same figures through the file', async () => {
    const reports: number[] = [];
    const test = bars(200, 7);
    const trained = await fitNet(net, bars(300), {
      ...options,
      epochs: 12,
      validation: test,
      onEpoch: ({ validationMetric }) => void reports.push(validationMetric ?? 0),
    });
    const bytes = encodeModel(exportModel(plain([4, 4]), net, trained, test.targets));
    checkModel(bytes);
    const figures = await evaluate(bytes, feeds(test), test.targets);
    if (figures.kind !== 'CLASSES') throw new Error('figures of another kind');
    expect(figures.accuracy).toBeGreaterThan(0.9);
    expect(figures.accuracy).toBeCloseTo(reports.at(-1) ?? 0, 10);
    expect(figures.confusion.flat().reduce((sum, one) => sum + one, 0)).toBe(200);
    expect(figures.calibration.reduce((sum, bin) => sum + bin.rows, 0)).toBe(200);
    const session = await openSession(bytes);
    const { label } = await session.run(feeds(test)(0, 3));
    await session.release();
    const texts = label?.data as unknown as string[];
    expect(texts.every((text) => ['top', 'left'].includes(text))).toBe(true);
  });

  it('of two classes by one sigmoid unit answers a probability for each', async () => {
    const test = bars(100, 7);
    const single = createNet({ dims: [4, 4], layers: [{ kind: 'flatten' }, { kind: 'dense', units: 1, activation: 'sigmoid' }] });
    const trained = await fitNet(single, bars(300), { ...options, loss: 'BINARY_CROSS_ENTROPY', epochs: 30 });
    const figures = await evaluate(encodeModel(exportModel(plain([4, 4]), single, trained, test.targets)), feeds(test), test.targets);
    expect(figures).toMatchObject({ kind: 'CLASSES', rows: 100 });
    if (figures.kind === 'CLASSES') expect(figures.accuracy).toBeGreaterThan(0.9);
  });

  it.each(['GRADIENT_DESCENT', 'MOMENTUM', 'ADAM'] as const)('by %s finds a line in its own units', async (kind) => {
    const data = line(400);
    const linear = createNet({ dims: [2], layers: [{ kind: 'dense', units: 1 }] });
    const learningRate = kind === 'MOMENTUM' ? 0.02 : 0.05;
    const trained = await fitNet(linear, data, { ...options, loss: 'MEAN_SQUARED_ERROR', optimiser: { kind, learningRate }, epochs: 30 });
    const figures = await evaluate(encodeModel(exportModel(plain([2]), linear, trained, data.targets)), feeds(data), data.targets);
    if (figures.kind !== 'NUMBERS') throw new Error('figures of another kind');
    expect(figures.r2).toBeGreaterThan(0.9999);
    expect(figures.meanAbsoluteError).toBeLessThan(20);
  });

  it('whose loss is no number any more says so', async () => {
    const linear = createNet({ dims: [2], layers: [{ kind: 'dense', units: 1 }] });
    const wild = {
      ...options,
      loss: 'MEAN_SQUARED_ERROR',
      optimiser: { kind: 'GRADIENT_DESCENT', learningRate: 100 },
      epochs: 50,
    } as const;
    await expect(fitNet(linear, line(100), wild)).rejects.toThrow('the loss is no number');
  });
});

describe('a net that does not fit', () => {
  it.each([
    ['dense on pictures', [4, 4], [{ kind: 'dense', units: 2 }], 'layers[0]: dense wants flat rows and gets [4, 4]: flatten first'],
    ['conv2d on flat rows', [16], [{ kind: 'conv2d', filters: 1, kernel: 2 }], 'layers[0]: rows of [16] are no pictures'],
    ['a kernel larger than the picture', [4, 4], [{ kind: 'conv2d', filters: 1, kernel: 5 }], 'layers[0]: conv2d has a kernel of 5'],
    ['pooling of what is too small', [4, 4], [{ kind: 'maxPool2d', size: 5 }], 'layers[0]: maxPool2d has squares of 5'],
    ['softmax of pictures', [4, 4], [{ kind: 'softmax' }], 'layers[0]: softmax wants flat rows'],
    ['dropout of everything', [4], [{ kind: 'dropout', rate: 1 }], 'layers[0]: dropout drops from 0 up to but not 1'],
  ] as const)('is refused with its place: %s', (_, dims, layers, message) => {
    expect(() => createNet({ dims, layers })).toThrow(message);
  });

  it.each([
    ['SPARSE_CROSS_ENTROPY', 'ends in softmax'],
    ['BINARY_CROSS_ENTROPY', 'one unit with sigmoid'],
  ] as const)('is refused by %s', async (loss, message) => {
    const linear = createNet({ dims: [4, 4], layers: [{ kind: 'flatten' }, { kind: 'dense', units: 2 }] });
    await expect(fitNet(linear, bars(10), { ...options, loss })).rejects.toThrow(message);
  });

  it('is refused for rows and targets of other sizes', async () => {
    await expect(fitNet(net, { ...bars(10), dims: [16] }, options)).rejects.toThrow('rows of [16] do not fit a net of [4, 4]');
    const three = { kind: 'CLASSES', values: new Int32Array(10), classes: ['a', 'b', 'c'] } as const;
    await expect(fitNet(net, { ...bars(10), targets: three }, options)).rejects.toThrow('2 units for 3 classes');
  });
});

describe('a schedule', () => {
  it('starts at the whole rate and falls as it says', () => {
    const factors = (schedule: Parameters<typeof scheduleFactor>[0]) => [1, 2, 3, 4, 5].map((epoch) => scheduleFactor(schedule, epoch, 5));
    expect(factors(null)).toEqual([1, 1, 1, 1, 1]);
    expect(factors({ kind: 'STEP', everyEpochs: 2, factor: 0.5 })).toEqual([1, 1, 0.5, 0.5, 0.25]);
    expect(factors({ kind: 'EXPONENTIAL', factor: 0.5 })).toEqual([1, 0.5, 0.25, 0.125, 0.0625]);
    const [first, , middle, , last] = factors({ kind: 'COSINE', floor: 0.2 });
    expect([first, last]).toEqual([1, 0.2]);
    expect(middle).toBeCloseTo(0.6, 12);
  });
});
