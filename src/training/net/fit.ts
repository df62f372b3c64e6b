import { createHash } from 'node:crypto';
import { batchOf, checkExamples, masksOf } from './batches.ts';
import { type Best, type Checkpoint, decodeCheckpoint, encodeCheckpoint } from './checkpoint.ts';
import { type Examples, type Scaling, scalingOf } from './examples.ts';
import { LOSS, type LossKind } from './losses.ts';
import { createOptimiser, type Optimiser, type OptimiserSpec } from './optimisers.ts';
import { createRandom, type Random, shuffled } from './random.ts';
import { type ScheduleSpec, scheduleFactor } from './schedules.ts';
import { type Floats, filled, type Net, startWeights, type Weights } from './sequential.ts';
import { floats, openSession, type Session, Tensor } from './session.ts';
import { DECAY, nextOf, RATE, stateOf, stepModel } from './step.ts';
import { type Validation, validate, validationModel } from './validation.ts';

export type FitOptions = {
  loss: LossKind;
  optimiser: OptimiserSpec;
  schedule?: ScheduleSpec | null;
  /** λ: parameters that decay lose ηλ of themselves in a step. */
  weightDecay?: number;
  epochs: number;
  batchRows: number;
  /** A whole number; what is random follows from it alone. */
  seed: number;
  /** Ends after `patience` epochs without a validation loss smaller by more than `minDelta`; the best epoch's weights are the result. */
  earlyStopping?: { patience: number; minDelta: number } | null;
  /** Rows that are not learnt from; null: none. */
  validation?: Examples | null;
  /** Of an earlier `onEpoch` of the same run: goes on from there, bit by bit as if it had never stopped. */
  checkpoint?: Uint8Array | null;
  onEpoch?(report: EpochReport, checkpoint: () => Uint8Array): void | Promise<void>;
};

/** `loss` is the mean over the epoch's rows, each taken before the step that its batch caused. */
export type EpochReport = {
  epoch: number;
  loss: number;
  validationLoss: number | null;
  validationMetric: number | null;
  learningRate: number;
  elapsedMs: number;
};

/** `scaling` is that of the targets, null for classes. */
export type Trained = { weights: Weights; scaling: Scaling | null };

const STREAM = { weights: 1, order: 2, masks: 3 } as const;

/**
 * Trains a net: each epoch in a new order, the last batch possibly smaller. Numbers are learnt standardised. Blocks the process during a step. The
 * same net, rows and options give the same weights, bit by bit, on the same kind of processor. Errors: RangeError where rows, targets, loss and net
 * do not fit, then as `decodeCheckpoint`; an Error where the loss is no number any more.
 */
export async function fitNet(net: Net, examples: Examples, options: FitOptions): Promise<Trained> {
  checkExamples(net, examples);
  const run = new Run(net, examples, options);
  const optimiser = createOptimiser(options.optimiser);
  const step = await openSession(stepModel(net, options.loss, optimiser, (options.weightDecay ?? 0) > 0));
  const check = options.validation ? await openSession(validationModel(net, options.loss)) : null;
  try {
    for (run.begin(optimiser); run.goesOn(); ) await run.epoch(step, check, optimiser);
    return { weights: run.result(), scaling: run.scaling };
  } finally {
    await step.release();
    await check?.release();
  }
}

/** The state of one training. */
class Run {
  readonly scaling: Scaling | null;
  readonly #net: Net;
  readonly #examples: Examples;
  readonly #options: FitOptions;
  #epoch = 0;
  #step = 0;
  #orders: Random;
  #masks: Random;
  #state = new Map<string, Tensor>();
  #best: Best | null = null;

  constructor(net: Net, examples: Examples, options: FitOptions) {
    this.#net = net;
    this.#examples = examples;
    this.#options = options;
    this.scaling = scalingOf(examples.targets);
    this.#orders = createRandom(options.seed, STREAM.order);
    this.#masks = createRandom(options.seed, STREAM.masks);
  }

  /** Takes the start weights, or everything from the checkpoint. */
  begin(optimiser: Optimiser): void {
    const { checkpoint, seed } = this.#options;
    const saved = checkpoint ? decodeCheckpoint(checkpoint, this.#plan()) : null;
    if (saved !== null) {
      this.#epoch = saved.epoch;
      this.#step = saved.step;
      this.#orders = createRandom(saved.orders);
      this.#masks = createRandom(saved.masks);
      this.#best = saved.best;
    }
    const start = saved?.state ?? startWeights(this.#net, createRandom(seed, STREAM.weights));
    for (const { name, dims } of stateOf(this.#net, optimiser)) {
      this.#state.set(name, floats(start.get(name) ?? filled(this.#net, dims), dims));
    }
  }

  goesOn(): boolean {
    const { epochs, earlyStopping } = this.#options;
    const waited = earlyStopping && this.#best !== null && this.#epoch - this.#best.epoch >= earlyStopping.patience;
    return this.#epoch < epochs && !waited;
  }

  async epoch(step: Session, check: Session | null, optimiser: Optimiser): Promise<void> {
    const startMs = performance.now();
    const epoch = ++this.#epoch;
    const { schedule = null, epochs, validation, onEpoch } = this.#options;
    const learningRate = optimiser.learningRate * scheduleFactor(schedule, epoch, epochs);
    const loss = await this.#steps(step, optimiser, learningRate);
    if (!Number.isFinite(loss)) {
      throw new RangeError(
        `optimizer: the loss is no number in epoch ${epoch}; a smaller learning rate, or standardised features, would keep it one`,
      );
    }
    const found = check && validation ? await validate(check, this.#net, validation, this.scaling, this.#state) : null;
    if (found !== null) this.#compare(found);
    const checked = { validationLoss: found?.loss ?? null, validationMetric: found?.metric ?? null };
    const elapsedMs = performance.now() - startMs;
    await onEpoch?.({ epoch, loss, ...checked, learningRate, elapsedMs }, () => encodeCheckpoint(this.#checkpoint(), this.#plan()));
  }

  result(): Weights {
    return this.#best?.state ?? this.#weights();
  }

  /** Gives the mean loss over the rows. */
  async #steps(session: Session, optimiser: Optimiser, learningRate: number): Promise<number> {
    const { batchRows, weightDecay = 0 } = this.#options;
    const { rows } = this.#examples;
    const order = shuffled(rows, this.#orders);
    let loss = 0;
    for (let from = 0; from < rows; from += batchRows) {
      const chosen = order.subarray(from, from + batchRows);
      const result = await session.run({
        ...Object.fromEntries(this.#state),
        ...batchOf(this.#net, this.#examples, this.scaling, chosen),
        ...masksOf(this.#net, chosen.length, this.#masks),
        [RATE]: this.#scalar(optimiser.rate(++this.#step, learningRate)),
        ...(weightDecay > 0 ? { [DECAY]: this.#scalar(learningRate * weightDecay) } : {}),
      });
      for (const name of this.#state.keys()) this.#state.set(name, tensorOf(result, nextOf(name)));
      loss += Number(result[LOSS]?.data[0]) * chosen.length;
    }
    return loss / rows;
  }

  #scalar(number: number): Tensor {
    return floats(filled(this.#net, [1], number), []);
  }

  #compare({ loss }: Validation): void {
    const { earlyStopping } = this.#options;
    if (!earlyStopping) return;
    if (this.#best === null || loss < this.#best.loss - earlyStopping.minDelta) {
      this.#best = { epoch: this.#epoch, loss, state: this.#weights() };
    }
  }

  #weights(): Map<string, Floats> {
    const { parameters, carried } = this.#net;
    return new Map([...parameters, ...carried].map(({ name }) => [name, dataOf(this.#state.get(name))]));
  }

  #checkpoint(): Checkpoint {
    const state = new Map([...this.#state].map(([name, tensor]) => [name, dataOf(tensor)]));
    const random = { orders: this.#orders.state(), masks: this.#masks.state() };
    return { epoch: this.#epoch, step: this.#step, ...random, state, best: this.#best };
  }

  /** What the rest of a run follows from besides a checkpoint. */
  #plan(): string {
    const { onEpoch: _, checkpoint: __, validation, ...options } = this.#options;
    const { parameters, dims, precision } = this.#net;
    const rows = [this.#examples.rows, validation?.rows ?? 0];
    const shapes = parameters.map(({ name, dims: of }) => [name, of]);
    return createHash('sha256')
      .update(JSON.stringify([options, shapes, dims, precision, rows]))
      .digest('hex');
  }
}

function tensorOf(result: Awaited<ReturnType<Session['run']>>, name: string): Tensor {
  const next = result[name];
  if (!(next instanceof Tensor)) throw new Error(`the step answers no ${name}`);
  return next;
}

function dataOf(tensor: Tensor | undefined): Floats {
  const data = tensor?.data;
  if (!(data instanceof Float32Array || data instanceof Float64Array)) throw new Error('a state that is not of floats');
  return data;
}
