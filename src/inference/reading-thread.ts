import { parentPort, workerData } from 'node:worker_threads';
import { type ErrorData, MercatoError } from '../base/errors.ts';
import { type Contents, estimateRun, type RunEstimate, readContents } from './onnx/onnx.ts';

/** What `readApart` and `estimateApart` ask for. */
export type ReadingOrder = { model: Uint8Array } & (
  | { what: 'contents'; rowCounts: readonly number[] }
  | { what: 'estimate'; shapes: ReadonlyMap<string, readonly number[]> }
);
/** `rejected`: a MODEL_REJECTED, of which a thread's error would lose the data. */
export type Reading = { read: Contents | Omit<RunEstimate, 'rows'> } | { rejected: { message: string; data: ErrorData } };

function read(order: ReadingOrder): Reading {
  try {
    return { read: order.what === 'contents' ? readContents(order.model, order.rowCounts) : estimateRun(order.model, order.shapes) };
  } catch (error) {
    if (error instanceof MercatoError && error.code === 'MODEL_REJECTED') return { rejected: { message: error.message, data: error.data } };
    throw error;
  }
}

parentPort?.postMessage(read(workerData as ReadingOrder));
