import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { MercatoError } from '../base/errors.ts';
import type { EstimateOrder } from './estimate-thread.ts';
import type { RunEstimate } from './onnx/onnx.ts';

const LIMIT_MS = 10_000;
const HEAP_MB = 512;
/** Out of time, and out of the heap above. */
const TOO_MUCH: ReadonlySet<unknown> = new Set(['ABORT_ERR', 'ERR_WORKER_OUT_OF_MEMORY']);

/**
 * As `estimateRun`, in a thread of its own: a file may have as many operators as the reader admits, and the event loop waits for nobody. `model` is
 * moved there. @throws OVERLOADED where it takes longer than ten seconds, or more than 512 MiB beside the model
 */
export async function estimateApart(model: Uint8Array, shapes: EstimateOrder['shapes']): Promise<Omit<RunEstimate, 'rows'>> {
  // What lies in a buffer with something else cannot be moved.
  const own = model.byteLength === model.buffer.byteLength ? model : new Uint8Array(model);
  const order: EstimateOrder = { model: own, shapes };
  const worker = new Worker(new URL('./estimate-thread.ts', import.meta.url), {
    workerData: order,
    transferList: [own.buffer as ArrayBuffer],
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB },
  });
  try {
    const [estimate] = await once(worker, 'message', { signal: AbortSignal.timeout(LIMIT_MS) });
    return estimate as Omit<RunEstimate, 'rows'>;
  } catch (error) {
    const isTooMuch = error instanceof Error && 'code' in error && TOO_MUCH.has(error.code);
    if (!isTooMuch) throw error;
    throw new MercatoError('OVERLOADED', 'The model is too large to be estimated now.', { retryAfterMs: LIMIT_MS }, { cause: error });
  } finally {
    await worker.terminate();
  }
}
