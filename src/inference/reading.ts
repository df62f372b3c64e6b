import { MercatoError } from '../base/errors.ts';
import { apart, isTooMuch, movable } from './apart.ts';
import { type Contents, type RejectionRule, type RunEstimate, readContents } from './onnx/onnx.ts';
import type { Reading, ReadingOrder } from './reading-thread.ts';

const LIMIT_MS = { contents: 60_000, estimate: 10_000 };
const HEAP_MB = 512;
/** What the event loop can wait for: a thread takes a tenth of a second to start. */
const AT_ONCE_BYTES_MAX = 16 * 1024;

/**
 * As `readContents`, in a thread of its own where the file is larger than 16 KiB: a stranger's file may hold up or exhaust that, but no call of others. `model` is
 * moved there and back.
 * @throws MODEL_REJECTED, also where it takes longer than a minute, or more than 512 MiB beside the model
 */
export async function readApart(model: Uint8Array, rowCounts: readonly number[]): Promise<{ contents: Contents; model: Uint8Array }> {
  if (model.length <= AT_ONCE_BYTES_MAX) return { contents: readContents(model, rowCounts), model };
  try {
    const reading = await inThread({ what: 'contents', model: movable(model), rowCounts });
    return { contents: reading.read as Contents, model: reading.model };
  } catch (error) {
    if (!isTooMuch(error)) throw error;
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
    return (await inThread({ what: 'estimate', model: movable(model), shapes })).read as Omit<RunEstimate, 'rows'>;
  } catch (error) {
    if (!isTooMuch(error)) throw error;
    const reason = `What a run takes cannot be told: to follow the graph takes more than ${LIMIT_MS.estimate / 1_000} s, or ${HEAP_MB} MiB.`;
    return { flops: null, activationBytes: null, weightBytes: null, reason };
  }
}

function inThread(order: ReadingOrder): Promise<Reading> {
  const signal = AbortSignal.timeout(LIMIT_MS[order.what]);
  return apart(new URL('./reading-thread.ts', import.meta.url), order, { moved: [order.model.buffer], heapMb: HEAP_MB, signal });
}
