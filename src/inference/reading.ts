import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { MercatoError } from '../base/errors.ts';
import { type Contents, type RejectionRule, type RunEstimate, readContents } from './onnx/onnx.ts';
import type { Reading, ReadingOrder } from './reading-thread.ts';

const LIMIT_MS = { contents: 60_000, estimate: 10_000 };
const HEAP_MB = 512;
/** What the event loop can wait for: a thread takes a tenth of a second to start. */
const AT_ONCE_BYTES_MAX = 16 * 1024;
/** Out of time, and out of the heap above. */
const TOO_MUCH: ReadonlySet<unknown> = new Set(['ABORT_ERR', 'ERR_WORKER_OUT_OF_MEMORY']);

class TooMuch extends Error {
  override readonly name = 'TooMuch';
}

/**
 * As `readContents`, in a thread of its own where the file is larger than 16 KiB: a stranger's file may hold up or exhaust that, but no call of others.
 * @throws MODEL_REJECTED, also where it takes longer than a minute, or more than 512 MiB beside the model
 */
export async function readApart(model: Uint8Array, rowCounts: readonly number[]): Promise<Contents> {
  if (model.length <= AT_ONCE_BYTES_MAX) return readContents(model, rowCounts);
  try {
    return (await apart({ what: 'contents', model: model.slice(), rowCounts })) as Contents;
  } catch (error) {
    if (!(error instanceof TooMuch)) throw error;
    const most = `${LIMIT_MS.contents / 1_000} s and ${HEAP_MB} MiB`;
    throw new MercatoError(
      'MODEL_REJECTED',
      `The model's graph takes more than ${most} to read; a smaller one is needed (graph).`,
      { rule: 'READING_LIMIT' satisfies RejectionRule, place: 'graph' },
      { cause: error },
    );
  }
}

/**
 * As `estimateRun`, in a thread of its own: a file may have as many operators as the reader admits, and the event loop waits for nobody. `model` is
 * moved there. Where it takes longer than ten seconds, or more than 512 MiB beside the model, nothing is told, and `reason` says so.
 */
export async function estimateApart(model: Uint8Array, shapes: ReadonlyMap<string, readonly number[]>): Promise<Omit<RunEstimate, 'rows'>> {
  try {
    // What lies in a buffer with something else cannot be moved.
    const own = model.byteLength === model.buffer.byteLength ? model : new Uint8Array(model);
    return (await apart({ what: 'estimate', model: own, shapes })) as Omit<RunEstimate, 'rows'>;
  } catch (error) {
    if (!(error instanceof TooMuch)) throw error;
    const reason = `What a run takes cannot be told: to follow the graph takes more than ${LIMIT_MS.estimate / 1_000} s, or ${HEAP_MB} MiB.`;
    return { flops: null, activationBytes: null, weightBytes: null, reason };
  }
}

/** Moves the model to a thread. @throws TooMuch, and what the reader throws */
async function apart(order: ReadingOrder): Promise<unknown> {
  const worker = new Worker(new URL('./reading-thread.ts', import.meta.url), {
    workerData: order,
    transferList: [order.model.buffer as ArrayBuffer],
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB },
  });
  try {
    const [reading] = (await once(worker, 'message', { signal: AbortSignal.timeout(LIMIT_MS[order.what]) })) as [Reading];
    if ('rejected' in reading) throw new MercatoError('MODEL_REJECTED', reading.rejected.message, reading.rejected.data);
    return reading.read;
  } catch (error) {
    // A RangeError: a list longer than V8 makes them, or more calls within each other.
    const isTooMuch = error instanceof RangeError || (error instanceof Error && 'code' in error && TOO_MUCH.has(error.code));
    throw isTooMuch ? new TooMuch('the reader had not enough', { cause: error }) : error;
  } finally {
    await worker.terminate();
  }
}
