import { readFile, writeFile } from 'node:fs/promises';
import { MercatoError } from '../base/errors.ts';
import { checkModel, encodeModel } from '../inference/onnx/onnx.ts';
import {
  featuresOf,
  feedsOf,
  fitPreprocessing,
  frontOf,
  type Preprocessing,
  readTable,
  splitRows,
  type Table,
  targetsOf,
} from './data/data.ts';
import { createNet, type Examples, evaluate, exportModel, type Feeds, fitNet, pickTargets, type Targets } from './net/net.ts';
import { compareModels, decide, optimiseModel, randomFeeds } from './optimise/optimise.ts';
import type { Answer, DatasetFile, EvaluateOrder, Figures, OptimiseOrder, Progress, RunData, TrainOrder } from './orders.ts';
import { metricOf } from './orders.ts';

/** Rows of a table with their targets. */
type Part = { table: Table; rows: Uint32Array; targets: Targets };

const CALIBRATION_ROWS_MAX = 512;
const COMPARED_ROWS_MAX = 1_000;
/** Rows of a run whose latency a report says. */
const BATCHES = [1, 8, 64];

/** Trains on the training rows, exports, and evaluates the exported file on the test rows. `progress` is waited for after each epoch. */
export async function train({ data, checkpoint }: TrainOrder, progress: (progress: Progress) => Promise<void>): Promise<Answer['TRAIN']> {
  const { rows: spec } = data;
  const parts = await readParts(data);
  const { train: learnt, validation } = parts;
  const preprocessing = fitPreprocessing(learnt.table, spec.features, spec.preprocessing, learnt.rows);
  const examples = await examplesOf(preprocessing, learnt);
  const net = createNet({ dims: examples.dims, layers: spec.layers });
  const trained = await fitNet(net, examples, {
    ...spec,
    validation: validation.rows.length > 0 ? await examplesOf(preprocessing, validation) : null,
    checkpoint: checkpoint === null ? null : await readFile(checkpoint),
    async onEpoch(report, save) {
      const file = 'checkpoint.new';
      await writeFile(file, save());
      await progress({ report, checkpoint: file });
    },
  });
  const bytes = encodeModel(exportModel(frontOf(preprocessing), net, trained, learnt.targets));
  await writeFile('model.onnx', bytes);
  return { model: 'model.onnx', figures: await evaluatePart(bytes, parts.test) };
}

/** MODEL_FAILED where the model does not take the run's columns, or does not answer its targets. */
export async function evaluateModel({ data, model }: EvaluateOrder): Promise<Figures> {
  const bytes = await readFile(model);
  const { test } = await readParts(data);
  try {
    return await evaluatePart(bytes, test);
  } catch (error) {
    throw new MercatoError('MODEL_FAILED', `The model does not take these rows: ${error instanceof Error ? error.message : 'unknown'}.`);
  }
}

/** Makes the other version, and compares the two: on the run's rows where there is one. */
export async function optimise({ model, to, rule, data }: OptimiseOrder): Promise<Answer['OPTIMISE']> {
  const bytes = await readFile(model);
  const parts = data && (await readParts(data));
  const calibration = parts && feedsOfPart(bytes, { ...parts.train, rows: parts.train.rows.subarray(0, CALIBRATION_ROWS_MAX) });
  const made = await optimiseModel(bytes, to, { calibration });
  await writeFile('optimised.onnx', made.bytes);
  const compared = parts ? feedsOfPart(bytes, { ...parts.test, rows: parts.test.rows.subarray(0, COMPARED_ROWS_MAX) }) : randomFeeds(bytes);
  const report = await compareModels(bytes, made.bytes, { ...compared, batches: BATCHES });
  const source = parts && (await evaluatePart(bytes, parts.test));
  const figures = parts && (await evaluatePart(made.bytes, parts.test));
  const metrics = { sourceMetric: source && metricOf(source), optimisedMetric: figures && metricOf(figures) };
  return { model: 'optimised.onnx', report, decision: decide(report, metrics, rule), notes: made.notes, source, figures };
}

async function readParts({ dataset, test, rows: spec }: RunData): Promise<Record<'train' | 'validation' | 'test', Part>> {
  const table = await read(dataset);
  const targets = targetsOf(table, spec.targets, spec.task);
  const split = splitRows(table.rows, { ...spec, testShare: test === null ? spec.testShare : 0 });
  const part = (rows: Uint32Array): Part => ({ table, rows, targets: pickTargets(targets, rows) });
  const parts = { train: part(split.train), validation: part(split.validation) };
  if (test === null) return { ...parts, test: part(split.test) };
  const other = await read(test);
  const rows = Uint32Array.from({ length: other.rows }, (_, row) => row);
  const classes = targets.kind === 'CLASSES' ? targets.classes : null;
  return { ...parts, test: { table: other, rows, targets: targetsOf(other, spec.targets, spec.task, classes) } };
}

function read({ file, format, badRowsMax }: DatasetFile): Promise<Table> {
  return readTable(file, format, { badRowsMax });
}

async function examplesOf(preprocessing: Preprocessing, { table, rows, targets }: Part): Promise<Examples> {
  return { rows: rows.length, ...(await featuresOf(preprocessing, table, rows)), targets };
}

/** What a model is fed with is what its inputs are named. */
function feedsOfPart(model: Uint8Array, { table, rows }: Part): { rows: number; feeds: Feeds } {
  const names = checkModel(model).inputs.map(({ name }) => name);
  return { rows: rows.length, feeds: feedsOf(names, table, rows) };
}

function evaluatePart(model: Uint8Array, part: Part): Promise<Figures> {
  return evaluate(model, feedsOfPart(model, part).feeds, part.targets);
}
