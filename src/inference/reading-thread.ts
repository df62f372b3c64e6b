import { workerData } from 'node:worker_threads';
import { tellDone } from './apart.ts';
import { type Contents, estimateRun, type RunEstimate, readContents } from './onnx/onnx.ts';

/** What `readApart` and `estimateApart` ask for. */
export type ReadingOrder = { model: Uint8Array<ArrayBuffer> } & (
  | { what: 'contents'; rowCounts: readonly number[] }
  | { what: 'estimate'; shapes: ReadonlyMap<string, readonly number[]> }
);
/** The model comes back with what was read of it. */
export type Reading = { read: Contents | Omit<RunEstimate, 'rows'>; model: Uint8Array<ArrayBuffer> };

function read(order: ReadingOrder): Reading {
  const { model } = order;
  return { read: order.what === 'contents' ? readContents(model, order.rowCounts) : estimateRun(model, order.shapes), model };
}

await tellDone(
  () => read(workerData as ReadingOrder),
  ({ model }) => [model.buffer],
);
