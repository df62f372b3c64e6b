import { parentPort, workerData } from 'node:worker_threads';
import { estimateRun } from './onnx/onnx.ts';

/** What `estimateApart` asks for. */
export type EstimateOrder = { model: Uint8Array; shapes: ReadonlyMap<string, readonly number[]> };

const { model, shapes } = workerData as EstimateOrder;
parentPort?.postMessage(estimateRun(model, shapes));
