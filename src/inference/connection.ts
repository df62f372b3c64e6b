import { connect, type Socket } from 'node:net';
import { gaveUp, MercatoError } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import { OVERLOAD_RULES, type Refusal } from './dispatcher.ts';
import {
  type CallHead,
  FRAME,
  type Frame,
  frameReader,
  type LoadHead,
  packTensors,
  type RunnerStats,
  type StartedHead,
  unpackTensors,
  writeFrame,
  writeSoon,
} from './frames.ts';
import { type Asking, Refusals } from './refusals.ts';
import type { LoadedModel } from './session-thread.ts';
import type { Tensor } from './tensor.ts';

/** The connection or its runner ended before the answer. `begun`: the call was in the run that may have ended it, which `mixed` tenants' calls. */
export class RunnerLost extends Error {
  override readonly name = 'RunnerLost';
  readonly begun: boolean;
  readonly mixed: boolean;

  constructor(begun: boolean, mixed = false) {
    super(begun ? 'The runner ended during the call.' : 'The runner ended before the call began.');
    this.begun = begun;
    this.mixed = mixed;
  }
}

/** The run took longer than the version may; its runner has ended. As for `RunnerLost`, `mixed`. */
export class RunnerOverran extends MercatoError {
  readonly mixed: boolean;

  constructor(message: string, mixed: boolean) {
    super('MODEL_FAILED', message);
    this.mixed = mixed;
  }
}

export type CallRequest = Omit<CallHead, 'tensors' | 'deadlineMs'> & { inputs: readonly Tensor[] };
export type CallResult = {
  outputs: Tensor[];
  queueMs: number;
  computeMs: number;
  computeMicros: bigint;
  batchRows: number;
  device: string;
};
/**
 * When to stop waiting: at `expiresMs` of the monotonic clock, or when the signal is aborted. `onLate` is told where the run that the call is in, by
 * then or later, ends its runner.
 */
export type Patience = { expiresMs: number; signal: AbortSignal | undefined; onLate?(ended: RunnerLost | RunnerOverran): void };

/** `settle` stops the waiting for one call; `resolve` or `reject` follows. `givenUp`: nobody waits, and what becomes of its run is still told. */
type Pending = {
  givenUp: boolean;
  asking: Asking;
  begun: boolean;
  mixed: boolean;
  settle(): void;
  resolve(result: CallResult): void;
  reject(error: Error): void;
};

/** What an answer may have, and what describes it. */
const ANSWER_FRAME_BYTES_MAX = LIMITS.answerBytes + 8 * 1024 * 1024;

const REFUSALS: ReadonlySet<unknown> = new Set<Refusal['code']>(['OVERLOADED', 'DEADLINE_EXCEEDED', 'MODEL_FAILED']);

/** A runner's socket, and what its model runs on; null: it has none yet. */
export type Place = { path: string; device: string | null };

/** Connects to a runner that listens. `onLost` is called once, when no further call can be sent. */
export function connectRunner(place: Place, onLost: () => void): Promise<RunnerConnection> {
  const socket = connect(place.path);
  return new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(new RunnerConnection(place, socket, onLost));
    });
  });
}

/** A server process's connection to one runner. Any number of calls may be under way. */
export class RunnerConnection {
  readonly path: string;
  readonly device: string | null;
  readonly #socket: Socket;
  readonly #onLost: () => void;
  readonly #pending = new Map<number, Pending>();
  readonly #refusals = new Refusals();
  #loading: { resolve(loaded: LoadedModel): void; reject(error: Error): void } | null = null;
  readonly #asking: { resolve(stats: RunnerStats): void; reject(error: Error): void }[] = [];
  #usable = true;
  #leaving = false;
  #calls = 0;

  constructor({ path, device }: Place, socket: Socket, onLost: () => void) {
    this.path = path;
    this.device = device;
    this.#socket = socket;
    this.#onLost = onLost;
    const read = frameReader((frame) => this.#handle(frame), ANSWER_FRAME_BYTES_MAX);
    socket.on('data', (chunk) => {
      try {
        read(chunk);
      } catch {
        // What a runner says is not trusted: one that leaves the format is as good as lost.
        socket.destroy();
      }
    });
    socket.on('error', () => {});
    socket.on('close', () => this.#closed());
  }

  /** False once the runner is gone or has said that it ends. */
  get usable(): boolean {
    return this.#usable;
  }

  /** The runner ends as soon as its calls are answered. */
  get leaving(): boolean {
    return this.#leaving;
  }

  /** Calls of this connection that are not answered. */
  get pending(): number {
    return this.#pending.size;
  }

  /** Whether the runner refused the tenant a call a moment ago. */
  refused(tenantKey: string): boolean {
    return this.#refusals.has(tenantKey);
  }

  /** Loads the runner's one model. MODEL_FAILED with the runtime's words, or RunnerLost. */
  loadModel(head: Omit<LoadHead, 'size'>, model: Uint8Array): Promise<LoadedModel> {
    if (!this.#usable) return Promise.reject(new RunnerLost(false));
    return new Promise((resolve, reject) => {
      this.#loading = { resolve, reject };
      writeFrame(this.#socket, FRAME.load, 0, { ...head, size: model.length } satisfies LoadHead, [model]);
    });
  }

  /** DEADLINE_EXCEEDED, CANCELLED, OVERLOADED, MODEL_FAILED, or RunnerLost. After a rejection a late answer is ignored. */
  call({ inputs, ...request }: CallRequest, { expiresMs, signal, onLate }: Patience): Promise<CallResult> {
    if (!this.#usable) return Promise.reject(new RunnerLost(false));
    const deadlineMs = expiresMs - performance.now();
    if (deadlineMs <= 0 || signal?.aborted === true) return Promise.reject(gaveUp(signal));
    const { tenantKey, priority, rows } = request;
    const asking: Asking = { tenantKey, priority, deadlineMs, rows, bytes: inputs.reduce((sum, { data }) => sum + data.length, 0) };
    const refusal = this.#refusals.of(asking);
    if (refusal !== null) return Promise.reject(refusal);
    this.#calls = (this.#calls % 0xffff_ffff) + 1;
    const id = this.#calls;
    return new Promise((resolve, reject) => {
      const giveUp = () => {
        writeFrame(this.#socket, FRAME.cancel, id, {});
        stopWaiting();
        // Its run may have begun, though the news of it has not come: what becomes of it is the caller's doing all the same.
        this.#pending.set(id, { ...pending, givenUp: true, settle: forget, resolve() {}, reject: late });
        reject(gaveUp(signal));
      };
      const timer = setTimeout(giveUp, deadlineMs);
      signal?.addEventListener('abort', giveUp);
      const forget = () => {
        this.#pending.delete(id);
        this.#closeWhenDone();
      };
      const stopWaiting = () => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', giveUp);
      };
      const settle = () => {
        stopWaiting();
        forget();
      };
      const late = (error: Error) => {
        if (error instanceof RunnerOverran || (error instanceof RunnerLost && error.begun)) onLate?.(error);
      };
      const pending: Pending = { givenUp: false, asking, begun: false, mixed: false, settle, resolve, reject };
      this.#pending.set(id, pending);
      const packed = packTensors(inputs);
      writeSoon(this.#socket, FRAME.call, id, { ...request, deadlineMs, tensors: packed.head } satisfies CallHead, packed.chunks);
    });
  }

  /** Asks the runner how it is; rejects with RunnerLost. */
  stats(): Promise<RunnerStats> {
    if (this.#socket.destroyed) return Promise.reject(new RunnerLost(false));
    return new Promise((resolve, reject) => {
      this.#asking.push({ resolve, reject });
      writeFrame(this.#socket, FRAME.ping, 0, {});
    });
  }

  /** Lets the runner end as soon as every other peer has its answers; no further call can be sent. */
  retire(): void {
    this.#retire();
    writeFrame(this.#socket, FRAME.retire, 0, {});
  }

  /** Leaves the runner; calls under way are lost. */
  close(): void {
    for (const [id, { givenUp }] of this.#pending) if (givenUp) this.#pending.delete(id);
    this.#socket.destroy();
  }

  #handle(frame: Frame): void {
    if (frame.kind === FRAME.result) {
      // Read first: a malformed result ends the connection, and with it the call.
      const result = readResult(frame);
      this.#settle(frame.call)?.resolve(result);
    } else if (frame.kind === FRAME.started) this.#begin(frame.head as StartedHead);
    else if (frame.kind === FRAME.failed) this.#fail(frame);
    else if (frame.kind === FRAME.forgotten) this.#forget(frame.call);
    else if (frame.kind === FRAME.loaded) this.#loading?.resolve(frame.head as LoadedModel);
    else if (frame.kind === FRAME.pong) this.#asking.shift()?.resolve(frame.head as RunnerStats);
    else if (frame.kind === FRAME.leaving) this.#leave();
    else throw new RangeError(`a frame of kind ${frame.kind}`);
  }

  #begin({ calls, mixed }: StartedHead): void {
    for (const id of calls) {
      const call = this.#pending.get(id);
      if (call !== undefined) Object.assign(call, { begun: true, mixed: mixed === true });
    }
  }

  #forget(id: number): void {
    if (this.#pending.get(id)?.givenUp !== true) throw new RangeError('a call that nobody gave up is forgotten');
    this.#settle(id);
  }

  #fail({ call: id, head }: Frame): void {
    const { code, message, retryAfterMs, forMs, fatal, mixed, rule, limit } = head as Refusal;
    if (!REFUSALS.has(code)) throw new RangeError('a refusal without a known code');
    if (fatal === true) this.#retire();
    const overload = OVERLOAD_RULES.find((one) => one === rule);
    const data = {
      ...(retryAfterMs === undefined ? {} : { retryAfterMs: Number(retryAfterMs) }),
      ...(overload !== undefined && { rule: overload }),
    };
    const asking = this.#pending.get(id)?.asking;
    if (code === 'OVERLOADED' && asking !== undefined) this.#refusals.add(asking, { message: String(message), data }, Number(forMs));
    const failed = rule === 'OUTPUTS' ? { rule, limit: String(limit) } : { rule: id === 0 ? 'LOAD' : 'RUN' };
    const facts = code === 'MODEL_FAILED' ? { ...data, ...failed } : data;
    const error = fatal === true ? new RunnerOverran(String(message), mixed === true) : new MercatoError(code, String(message), facts);
    (id === 0 ? this.#loading : this.#settle(id))?.reject(error);
  }

  /** The call's promise, which is to be settled now; undefined where nobody waits any longer. */
  #settle(id: number): Pending | undefined {
    const call = this.#pending.get(id);
    call?.settle();
    return call;
  }

  /** The runner ends when this side closes, which it does when it has all answers. */
  #leave(): void {
    this.#leaving = true;
    this.#retire();
    this.#closeWhenDone();
  }

  #closeWhenDone(): void {
    if (this.#leaving && this.#pending.size === 0) this.#socket.end();
  }

  #retire(): void {
    if (!this.#usable) return;
    this.#usable = false;
    this.#onLost();
  }

  #closed(): void {
    this.#retire();
    this.#loading?.reject(new RunnerLost(true));
    for (const asking of this.#asking.splice(0)) asking.reject(new RunnerLost(false));
    for (const [id, call] of [...this.#pending]) {
      this.#settle(id);
      // One that was told to end may have been made to: what it had begun comes back, and shows elsewhere if it ends its runner.
      call.reject(new RunnerLost(call.begun && !this.#leaving, call.mixed));
    }
  }
}

function readResult({ head, data }: Frame): CallResult {
  const { queueMs, computeMs, computeMicros, batchRows, device, tensors } = head as Record<string, unknown>;
  return {
    outputs: unpackTensors(tensors, data),
    queueMs: Number(queueMs),
    computeMs: Number(computeMs),
    computeMicros: BigInt(Number(computeMicros)),
    batchRows: Number(batchRows),
    device: String(device),
  };
}
