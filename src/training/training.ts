/** The door of `training/`. Loads ONNX Runtime into the process that imports it: for commands and runners, never for the server. */
export { type CardText, classifierCard } from './card.ts';
export { classify } from './classify.ts';
export type { Dataset } from './dataset.ts';
export { drawStrokes, SEVEN } from './draw.ts';
export { evaluate } from './evaluate.ts';
export { exportModel } from './export.ts';
export { type EpochReport, fitNet } from './fit.ts';
export { readIdxDataset } from './idx.ts';
export { createNet } from './net.ts';
export { adam } from './optimiser.ts';
export { signatureOf } from './signature.ts';
