/**
 * The door of `training/optimise/`: smaller and faster forms of a model, and what they cost. Loads ONNX Runtime: for worker processes and
 * commands.
 */
export type { Rows } from './batches.ts';
export { compareModels, type Report } from './compare.ts';
export { type Decision, decide, type Rule } from './decide.ts';
export { type OptimisationKind, optimiseModel } from './kinds.ts';
export { randomFeeds } from './random-feeds.ts';
