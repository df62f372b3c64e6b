import { type Dataset, gather, sizeOf } from './dataset.ts';
import { LABELS, LOSS } from './gradient.ts';
import { type Net, startWeights, type Weights } from './net.ts';
import { adam, type Optimiser } from './optimiser.ts';
import { createRandom, type Random, shuffled } from './random.ts';
import { floats, openSession, type Session, Tensor } from './session.ts';
import { nextOf, RATE, stateOf, stepModel } from './step.ts';

type FitOptions = {
  epochs: number;
  batchRows: number;
  /** A whole number; what is random follows from it alone. */
  seed: number;
  optimiser?: Optimiser;
  onEpoch?(report: EpochReport): void;
};

/** `loss` is the mean over the epoch's rows, each taken before the step that its batch caused. */
export type EpochReport = { epoch: number; loss: number; elapsedMs: number };

type State = Map<string, Tensor>;

const STREAM = { weights: 1, order: 2, masks: 3 } as const;

/**
 * Trains a classifier on UINT8 rows: each epoch in a new order, the last batch possibly smaller. Blocks the process during a step. The same
 * net, data and options give the same weights, bit by bit, on the same kind of processor. Errors: RangeError for data that does not fit.
 */
export async function fitNet(
  net: Net,
  data: Dataset,
  { epochs, batchRows, seed, optimiser = adam(), onEpoch }: FitOptions,
): Promise<Weights> {
  if (net.spec.input.datatype !== 'UINT8' || net.spec.input.dims.join() !== data.dims.join())
    throw new RangeError('the rows do not fit the net');
  const session = await openSession(stepModel(net, optimiser));
  try {
    const orders = createRandom(seed, STREAM.order);
    const masks = createRandom(seed, STREAM.masks);
    let state = startState(net, optimiser, createRandom(seed, STREAM.weights));
    let step = 0;
    for (let epoch = 1; epoch <= epochs; epoch++) {
      const startMs = performance.now();
      const order = shuffled(data.rows, orders);
      let loss = 0;
      for (let from = 0; from < data.rows; from += batchRows) {
        const rows = order.subarray(from, from + batchRows);
        const feeds = { ...Object.fromEntries(state), ...feedsOf(net, data, rows, masks), [RATE]: scalar(net, optimiser.rate(++step)) };
        const result = await session.run(feeds);
        state = nextState(state, result);
        loss += Number(result[LOSS]?.data[0]) * rows.length;
      }
      onEpoch?.({ epoch, loss: loss / data.rows, elapsedMs: performance.now() - startMs });
    }
    return weightsOf(net, state);
  } finally {
    await session.release();
  }
}

function startState(net: Net, optimiser: Optimiser, random: Random): State {
  const weights = startWeights(net, random);
  return new Map(
    stateOf(net, optimiser).map(({ name, dims }) => {
      const size = sizeOf(dims);
      const zeros = net.precision === 'FP32' ? new Float32Array(size) : new Float64Array(size);
      return [name, floats(weights.get(name) ?? zeros, dims)];
    }),
  );
}

function nextState(state: State, result: Awaited<ReturnType<Session['run']>>): State {
  return new Map(
    [...state.keys()].map((name) => {
      const next = result[nextOf(name)];
      if (!(next instanceof Tensor)) throw new Error(`the step answers no ${name}`);
      return [name, next];
    }),
  );
}

function feedsOf(net: Net, data: Dataset, rows: Uint32Array, random: Random): Record<string, Tensor> {
  const batch = gather(data, rows);
  const feeds: Record<string, Tensor> = {
    [net.spec.input.name]: new Tensor('uint8', batch.values, [rows.length, ...data.dims]),
    [LABELS]: new Tensor('int64', batch.labels, [rows.length]),
  };
  for (const { name, dims, rate } of net.masks) {
    const size = rows.length * sizeOf(dims);
    const mask = net.precision === 'FP32' ? new Float32Array(size) : new Float64Array(size);
    const kept = 1 / (1 - rate);
    for (let index = 0; index < size; index++) mask[index] = random.uniform() < rate ? 0 : kept;
    feeds[name] = floats(mask, [rows.length, ...dims]);
  }
  return feeds;
}

function scalar(net: Net, number: number): Tensor {
  return floats(net.precision === 'FP32' ? Float32Array.of(number) : Float64Array.of(number), []);
}

function weightsOf(net: Net, state: State): Weights {
  return new Map(
    net.parameters.map(({ name }) => {
      const data = state.get(name)?.data;
      if (!(data instanceof Float32Array || data instanceof Float64Array)) throw new Error(`the step answers no ${name}`);
      return [name, data];
    }),
  );
}
