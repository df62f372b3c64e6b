import { MessageChannel } from 'node:worker_threads';
import type { MercatoError } from '../base/errors.ts';
import { apart, movable } from './apart.ts';
import type { Gate } from './check-runner.ts';
import { errorOf } from './failures.ts';
import { serveLender } from './fleet-ipc.ts';
import type { Lender } from './fleet-port.ts';
import type { GateOrder, ToldVerified } from './gate-thread.ts';
import type { Inspection } from './inspect.ts';
import type { Contents } from './onnx/onnx.ts';
import { readApart } from './reading.ts';
import type { Verified } from './verify.ts';

/** Of the thread of a check; the tensors of its runs, whose sizes the file chooses, lie beside it. */
const HEAP_MB = 512;

/** Told what the file says before a runtime sees it. */
export type OnRead = (contents: Contents) => Promise<void>;
type What = { what: 'inspect'; contents: Contents } | { what: 'verify' };

/** Where models are tried: each check in a thread of its own, which may be held up or exhausted by a stranger's file as no call of others. Dispose of it: it ends them all. */
export class Gates implements AsyncDisposable {
  readonly #lender: Lender;
  readonly #ended = new AbortController();
  readonly #running = new Set<Promise<unknown>>();

  constructor(lender: Lender) {
    this.#lender = lender;
  }

  /** As `Inference.inspect` says. */
  async inspect(model: Uint8Array, gate: Gate, onRead?: OnRead): Promise<Inspection> {
    const read = await readApart(model, gate.maxBatchRows > 1 ? [1, gate.maxBatchRows] : [1]);
    await onRead?.(read.contents);
    return this.#inThread<Inspection>(read.model, gate, { what: 'inspect', contents: read.contents });
  }

  /** As `Inference.verify` says. */
  async verify(model: Uint8Array, gate: Gate): Promise<Verified> {
    const verified = await this.#inThread<ToldVerified>(model, gate, { what: 'verify' });
    return { ...verified, fault: verified.fault && (errorOf(verified.fault) as MercatoError) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    await Promise.allSettled(this.#running);
  }

  async #inThread<Done>(given: Uint8Array, gate: Gate, what: What): Promise<Done> {
    const { port1, port2 } = new MessageChannel();
    serveLender(this.#lender, port1);
    const model = movable(given);
    const order: GateOrder = { ...what, model, gate, port: port2 };
    const thread = { moved: [model.buffer, port2], heapMb: HEAP_MB, signal: this.#ended.signal };
    const running = apart<Done>(new URL('./gate-thread.ts', import.meta.url), order, thread);
    this.#running.add(running);
    try {
      return await running;
    } finally {
      this.#running.delete(running);
      port1.close();
    }
  }
}
