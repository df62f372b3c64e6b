import type { DatasetFormat, PreprocessingStep, Profile } from './data/data.ts';
import type { EpochReport, Evaluation, LayerSpec, LossKind, OptimiserSpec, ScheduleSpec } from './net/net.ts';
import type { Decision, OptimisationKind, Report, Rule } from './optimise/optimise.ts';
import type { WorkError } from './work.ts';

/** What is ordered from a worker process and what it answers: JSON. Bytes are files of its own folder, named here. */
export type Order = ProfileOrder | TrainOrder | EvaluateOrder | OptimiseOrder;

export type DatasetFile = { file: string; format: DatasetFormat; badRowsMax: number };

/** Which rows and columns are learnt from, and which rows are kept for the evaluation. */
export type Rows = {
  task: 'CLASSIFICATION' | 'REGRESSION';
  targets: string[];
  features: string[];
  seed: number;
  validationShare: number;
  testShare: number;
};

/** Everything that decides the result of a run, as it is stored. */
export type TrainingSpec = Rows & {
  /** Null: what data/ does by default. */
  preprocessing: PreprocessingStep[] | null;
  layers: LayerSpec[];
  loss: LossKind;
  optimiser: OptimiserSpec;
  schedule: ScheduleSpec | null;
  weightDecay: number;
  epochs: number;
  batchRows: number;
  earlyStopping: { patience: number; minDelta: number } | null;
};

export type ProfileOrder = { kind: 'PROFILE'; dataset: DatasetFile };
/** The rows of a run. `test` null: those for the evaluation are a share of the dataset's. */
export type RunData = { dataset: DatasetFile; test: DatasetFile | null; rows: Rows };
/** `checkpoint`: a file to go on from; null: from the start. */
export type TrainOrder = { kind: 'TRAIN'; data: RunData & { rows: TrainingSpec }; checkpoint: string | null };
/** How a model does on the test rows of a run. */
export type EvaluateOrder = { kind: 'EVALUATE'; data: RunData; model: string };
/** `data` null: no run has made the model; it is tried on random rows. */
export type OptimiseOrder = { kind: 'OPTIMISE'; model: string; to: OptimisationKind; rule: Rule; data: RunData | null };

/** Figures of `evaluate`, and the one that rules compare: accuracy, or R². */
export type Figures = Evaluation;

export type Answer = {
  PROFILE: Profile;
  TRAIN: { model: string; figures: Figures };
  EVALUATE: Figures;
  OPTIMISE: {
    model: string;
    report: Report;
    decision: Decision;
    notes: string[];
    source: Figures | null;
    figures: Figures | null;
  };
};

export type Progress = { report: EpochReport; checkpoint: string };

/** To the worker. `proceed` lets it go on after a progress. */
export type ToWorker = { order: Order } | { proceed: true };

/** From the worker. `cpuMicros` is its CPU time so far. */
export type FromWorker = { cpuMicros: number } & ({ progress: Progress } | { answer: Answer[Order['kind']] } | { refusal: WorkError });

/** Accuracy, or R². */
export function metricOf(figures: Figures): number {
  return figures.kind === 'CLASSES' ? figures.accuracy : figures.r2;
}
