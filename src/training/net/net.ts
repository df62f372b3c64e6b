/** The door of `training/net/`: sequential nets, trained by ONNX Runtime. Loads it: for worker processes and commands, never for the server. */
export { type Evaluation, evaluate, type Feeds } from './evaluate.ts';
export { type Examples, pickTargets, type Targets } from './examples.ts';
export { exportModel, type Front } from './export.ts';
export { type EpochReport, type FitOptions, fitNet } from './fit.ts';
export { type Activation, type LayerSpec, sizeOf } from './layer.ts';
export type { LossKind } from './losses.ts';
export type { OptimiserSpec } from './optimisers.ts';
export { createRandom, type Random, shuffled } from './random.ts';
export type { ScheduleSpec } from './schedules.ts';
export { createNet, type Net } from './sequential.ts';
export { openSession, type Session, Tensor } from './session.ts';
export { INNER, ROWS, Tape } from './tape.ts';
