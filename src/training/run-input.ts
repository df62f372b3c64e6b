import type {
  CreateTrainingRunInput,
  LayerInput,
  OptimizerInput,
  PreprocessingInput,
  ScheduleInput,
  Activation as SdlActivation,
} from '../generated/schema.ts';
import { mustBe, whole, within } from './bounds.ts';
import type { PreprocessingStep, Profile } from './data/data.ts';
import type { Activation, LayerSpec, OptimiserSpec, ScheduleSpec } from './net/net.ts';
import type { Rows, TrainingSpec } from './orders.ts';

const LAYERS_MAX = 64;
const STEPS_MAX = 32;
const COLUMNS_MAX = 4_096;
/** Of a classifier, as `net/export.ts` names them. */
const OUTPUTS = ['probabilities', 'label'];
const SEED_MAX = 2 ** 31 - 1;
const RATE: readonly [number, number] = [Number.MIN_VALUE, 100];
const SHARE: readonly [number, number] = [0, 0.9];

/**
 * What a run is asked for, as it is stored. Checks in the order: targets, features, layers, preprocessing, loss, optimizer, schedule, weightDecay, epochs,
 * batchRows, seed, earlyStopping; whether layers and steps fit the rows is seen when they are laid. @throws BAD_USER_INPUT
 */
export function parseSpec(input: CreateTrainingRunInput, profile: Profile): TrainingSpec {
  const rows = parseRows(input, profile);
  mustBe(input.layers.length >= 1 && input.layers.length <= LAYERS_MAX, 'layers', input.layers.length, `1 to ${LAYERS_MAX} layers`);
  const layers = input.layers.map((layer, index) => parseLayer(layer, `layers[${index}]`));
  const preprocessing = parseSteps(input.preprocessing ?? null);
  parseLoss(input);
  return {
    ...rows,
    layers,
    preprocessing,
    loss: input.loss,
    optimiser: parseOptimiser(input.optimizer),
    schedule: input.schedule ? parseSchedule(input.schedule) : null,
    weightDecay: within('weightDecay', input.weightDecay, [0, 1]),
    epochs: whole('epochs', input.epochs, [1, 10_000]),
    batchRows: whole('batchRows', input.batchRows, [1, 65_536]),
    earlyStopping: parseEarlyStopping(input),
  };
}

function parseRows(input: CreateTrainingRunInput, { columns }: Profile): Rows {
  const { task, targets } = input;
  const names = columns.map((column) => column.name);
  const known = (field: string, name: string) => mustBe(names.includes(name), field, name, `a column: ${names.slice(0, 20).join(', ')}`);
  const most = task === 'CLASSIFICATION' ? 1 : 64;
  mustBe(targets.length >= 1 && targets.length <= most, 'targets', targets, most === 1 ? 'one column' : `1 to ${most} columns`);
  for (const [index, name] of targets.entries()) known(`targets[${index}]`, name);
  const features = input.features ?? names.filter((name) => !targets.includes(name));
  mustBe(features.length >= 1 && features.length <= COLUMNS_MAX, 'features', features.length, `1 to ${COLUMNS_MAX} columns`);
  for (const [index, name] of features.entries()) {
    known(`features[${index}]`, name);
    const fresh = !targets.includes(name) && features.indexOf(name) === index;
    mustBe(fresh, `features[${index}]`, name, 'another column than the targets, once');
    const free = task === 'REGRESSION' || !OUTPUTS.includes(name);
    mustBe(free, `features[${index}]`, name, `a column of another name than the outputs, ${OUTPUTS.join(' and ')}`);
  }
  const testShare = input.testDatasetId ? 0 : within('testShare', input.testShare, [0.000_001, 0.9]);
  const validationShare = within('validationShare', input.validationShare, SHARE);
  mustBe(testShare + validationShare < 1, 'validationShare', validationShare, 'less than what testShare leaves');
  return { task, targets, features, seed: whole('seed', input.seed, [0, SEED_MAX]), validationShare, testShare };
}

function parseLayer(layer: LayerInput, at: string): LayerSpec {
  if (layer.dense) {
    return { kind: 'dense', units: whole(`${at}.dense.units`, layer.dense.units, [1, 16_384]), ...activated(layer.dense) };
  }
  if (layer.conv2d) {
    const { filters, kernel, stride, padding } = layer.conv2d;
    return {
      kind: 'conv2d',
      filters: whole(`${at}.conv2d.filters`, filters, [1, 1_024]),
      kernel: whole(`${at}.conv2d.kernel`, kernel, [1, 15]),
      stride: whole(`${at}.conv2d.stride`, stride, [1, 8]),
      padding,
      ...activated(layer.conv2d),
    };
  }
  if (layer.maxPool2d) return { kind: 'maxPool2d', size: whole(`${at}.maxPool2d.size`, layer.maxPool2d.size, [2, 8]) };
  if (layer.dropout) {
    const { rate } = layer.dropout;
    mustBe(rate >= 0 && rate < 1, `${at}.dropout.rate`, rate, 'from 0 up to but not 1');
    return { kind: 'dropout', rate };
  }
  if (layer.batchNorm) {
    const { momentum, epsilon } = layer.batchNorm;
    return {
      kind: 'batchNorm',
      momentum: within(`${at}.batchNorm.momentum`, momentum, [0, 1]),
      epsilon: within(`${at}.batchNorm.epsilon`, epsilon, [1e-12, 1]),
    };
  }
  if (layer.activation) return { kind: lower(layer.activation) };
  mustBe(layer.flatten === true, `${at}.flatten`, layer.flatten, 'true');
  return { kind: 'flatten' };
}

function activated({ activation }: { activation?: SdlActivation | null | undefined }): { activation?: Activation } {
  return activation ? { activation: lower(activation) } : {};
}

function lower(activation: SdlActivation): Activation {
  return activation.toLowerCase() as Activation;
}

function parseSteps(steps: readonly PreprocessingInput[] | null): PreprocessingStep[] | null {
  mustBe(steps === null || steps.length <= STEPS_MAX, 'preprocessing', steps?.length, `at most ${STEPS_MAX} steps`);
  return steps?.map((step, index) => parseStep(step, `preprocessing[${index}]`)) ?? null;
}

function parseStep(step: PreprocessingInput, at: string): PreprocessingStep {
  if (step.scale) {
    const factor = within(`${at}.scale.factor`, step.scale.factor, [-1e30, 1e30]);
    const offset = within(`${at}.scale.offset`, step.scale.offset, [-1e30, 1e30]);
    return { kind: 'SCALE', ...named(step.scale), factor, offset };
  }
  if (step.impute) return { kind: 'IMPUTE', ...named(step.impute), with: step.impute.with };
  if (step.standardise) return { kind: 'STANDARDISE', ...named(step.standardise) };
  if (step.oneHot) return { kind: 'ONE_HOT', ...named(step.oneHot) };
  if (step.resize) {
    const side = (name: 'height' | 'width') => whole(`${at}.resize.${name}`, step.resize?.[name] ?? 0, [1, 1_024]);
    return { kind: 'RESIZE', height: side('height'), width: side('width') };
  }
  mustBe(step.flatten === true, `${at}.flatten`, step.flatten, 'true');
  return { kind: 'FLATTEN' };
}

function named({ columns }: { columns?: string[] | null | undefined }): { columns?: string[] } {
  return columns ? { columns } : {};
}

function parseLoss({ loss, task }: CreateTrainingRunInput): void {
  const fits = task === 'REGRESSION' ? loss === 'MEAN_SQUARED_ERROR' : loss !== 'MEAN_SQUARED_ERROR';
  mustBe(fits, 'loss', loss, task === 'REGRESSION' ? 'MEAN_SQUARED_ERROR' : 'SPARSE_CROSS_ENTROPY or BINARY_CROSS_ENTROPY');
}

function parseOptimiser(input: OptimizerInput): OptimiserSpec {
  const rate = (kind: string, value: number) => within(`optimizer.${kind}.learningRate`, value, RATE);
  if (input.gradientDescent) {
    return { kind: 'GRADIENT_DESCENT', learningRate: rate('gradientDescent', input.gradientDescent.learningRate) };
  }
  if (input.momentum) {
    const { learningRate, momentum } = input.momentum;
    return {
      kind: 'MOMENTUM',
      learningRate: rate('momentum', learningRate),
      momentum: within('optimizer.momentum.momentum', momentum, [0, 0.999_999]),
    };
  }
  const { learningRate, beta1, beta2 } = input.adam;
  return {
    kind: 'ADAM',
    learningRate: rate('adam', learningRate),
    beta1: within('optimizer.adam.beta1', beta1, [0, 0.999_999]),
    beta2: within('optimizer.adam.beta2', beta2, [0, 0.999_999]),
  };
}

function parseSchedule(input: ScheduleInput): ScheduleSpec {
  if (input.step) {
    const everyEpochs = whole('schedule.step.everyEpochs', input.step.everyEpochs, [1, 10_000]);
    return { kind: 'STEP', everyEpochs, factor: within('schedule.step.factor', input.step.factor, [0, 1]) };
  }
  if (input.exponential) {
    return { kind: 'EXPONENTIAL', factor: within('schedule.exponential.factor', input.exponential.factor, [0, 1]) };
  }
  return { kind: 'COSINE', floor: within('schedule.cosine.floor', input.cosine.floor, [0, 1]) };
}

function parseEarlyStopping({ earlyStopping, validationShare }: CreateTrainingRunInput): TrainingSpec['earlyStopping'] {
  if (!earlyStopping) return null;
  mustBe(validationShare > 0, 'earlyStopping', earlyStopping, 'null where validationShare is 0');
  return {
    patience: whole('earlyStopping.patience', earlyStopping.patience, [1, 1_000]),
    minDelta: within('earlyStopping.minDelta', earlyStopping.minDelta, [0, 1e30]),
  };
}
