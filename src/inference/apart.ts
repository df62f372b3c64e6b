import { once } from 'node:events';
import { parentPort, type Transferable, Worker } from 'node:worker_threads';
import { MercatoError } from '../base/errors.ts';
import { errorOf, type Failure, failureOf } from './failures.ts';

/** What a thread says at its end. Anything but a MercatoError ends it, and is told by Node. */
type Told = { done: unknown } | { failure: Failure };

/** The signal was aborted, or the heap was not enough. */
const TOO_MUCH: ReadonlySet<unknown> = new Set(['ABORT_ERR', 'ERR_WORKER_OUT_OF_MEMORY']);

/** Whether a thread of `apart` ended for want of time or heap. A RangeError: a list longer than V8 makes them, or more calls within each other. */
export function isTooMuch(error: unknown): boolean {
  return error instanceof RangeError || (error instanceof Error && 'code' in error && TOO_MUCH.has(error.code));
}

/** The model in a buffer of its own, which can be moved: what lies in one with something else cannot. */
export function movable(model: Uint8Array): Uint8Array<ArrayBuffer> {
  const { buffer } = model;
  return buffer instanceof ArrayBuffer && model.byteLength === buffer.byteLength ? new Uint8Array(buffer) : new Uint8Array(model);
}

/**
 * What a program of `tellDone` makes of `order`, in a thread with a heap of `heapMb` MiB, of which buffers are no part; `moved` goes there without a copy.
 * @throws what the program throws, and where it ended, what `isTooMuch` tells
 */
export async function apart<Done>(
  program: URL,
  order: object,
  { moved, heapMb, signal }: { moved: readonly Transferable[]; heapMb: number; signal: AbortSignal },
): Promise<Done> {
  const worker = new Worker(program, { workerData: order, transferList: [...moved], resourceLimits: { maxOldGenerationSizeMb: heapMb } });
  try {
    const [told] = (await once(worker, 'message', { signal })) as [Told];
    if ('failure' in told) throw errorOf(told.failure);
    return told.done as Done;
  } finally {
    await worker.terminate();
  }
}

/** Does the work of a thread and tells it; `moving`: what of it goes without a copy. */
export async function tellDone<Done>(
  work: () => Done | Promise<Done>,
  moving: (done: Done) => readonly Transferable[] = () => [],
): Promise<void> {
  try {
    const done = await work();
    parentPort?.postMessage({ done } satisfies Told, moving(done));
  } catch (error) {
    if (!(error instanceof MercatoError)) throw error;
    parentPort?.postMessage({ failure: failureOf(error) } satisfies Told);
  }
}
