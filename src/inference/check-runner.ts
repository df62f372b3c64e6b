import { MercatoError } from '../base/errors.ts';
import { type CallResult, connectRunner, type RunnerConnection, RunnerLost, RunnerOverran } from './connection.ts';
import type { Lender } from './fleet-port.ts';
import { LoadTooSlow, loadInto } from './load.ts';
import type { RejectionRule } from './onnx/onnx.ts';
import type { Bench } from './profile.ts';
import { modelBytes } from './runner-process.ts';
import type { Sample } from './samples.ts';
import type { LoadedModel } from './session-thread.ts';
import type { Tensor } from './tensor.ts';

/** `limitMs`: of the whole check, without the waits for a runner; 180 s. */
export type Gate = { runLimitMs: number; maxBatchRows: number; samples?: readonly Sample[]; limitMs?: number };

/** The whole of a check, but for the waits for a runner: less than its job may take, so that a slow model does not take the place of others. */
const GATE_MS = 180_000;

/** `longestMs`: of its runs so far. */
export type Loaded = Bench & LoadedModel & { loadMs: number; longestMs(): number };
/** `time`: what is left of the check's, in all its runners; `runBytes`: what a run is expected to take besides the file, as far as that is known. */
export type CheckOptions = Omit<Gate, 'samples'> & { threads: number; time: { leftMs: number }; limitMs: number; runBytes: number };

export const boxed = ({ limitMs = GATE_MS, ...gate }: Gate, runBytes = 0): CheckOptions => ({
  ...gate,
  ...{ threads: 1, time: { leftMs: limitMs }, limitMs, runBytes },
});

/** More than any model may have. */
const ALL_BYTES = Number.MAX_SAFE_INTEGER;
/** How ONNX Runtime and V8 say that memory was refused. */
const NO_MEMORY = /bad_alloc|alloc|out of memory/i;

export class TooSlow extends MercatoError {
  constructor({ limitMs }: CheckOptions) {
    const text = `The checks of the model took longer than ${limitMs / 1000} s; it has to load and run faster.`;
    super('MODEL_REJECTED', text, { rule: 'TIME_BOX' satisfies RejectionRule, limit: String(limitMs) });
  }
}

/**
 * Does something with a runner that serves nothing else, and ends it. Where that ended, or was refused memory, by what its file lets expect, it is done again with all that a model may have,
 * and the time that it took is not counted.
 */
export async function inRunner<T>(
  model: Uint8Array,
  options: CheckOptions & { device: string },
  fleet: Lender,
  work: (loaded: Loaded) => Promise<T>,
): Promise<T> {
  const { leftMs } = options.time;
  const first = { wantsMore: false };
  try {
    const done = await inOne(model, options, fleet, work, first);
    if (!first.wantsMore) return done;
  } catch (error) {
    if (!first.wantsMore) throw error;
  }
  options.time.leftMs = leftMs;
  return inOne(model, { ...options, runBytes: ALL_BYTES }, fleet, work, { wantsMore: false });
}

async function inOne<T>(
  model: Uint8Array,
  options: CheckOptions & { device: string },
  fleet: Lender,
  work: (loaded: Loaded) => Promise<T>,
  seen: { wantsMore: boolean },
): Promise<T> {
  const loan = await fleet.borrow(model.length, options.device, options.runBytes);
  const startedMs = performance.now();
  let late = false;
  let overran = false;
  const note = (error: unknown): never => {
    overran ||= error instanceof RunnerOverran;
    const refused = error instanceof MercatoError && error.code === 'MODEL_FAILED' && NO_MEMORY.test(error.message);
    if (refused || (error instanceof RunnerLost && !late && !overran)) seen.wantsMore = options.runBytes < modelBytes();
    throw error;
  };
  const overtime = setTimeout(() => {
    late = true;
    void fleet.giveBack(loan.id);
  }, options.time.leftMs);
  try {
    const connection = await connectRunner({ path: loan.path, device: options.device }, () => {});
    const runner = { connection, kill: () => void fleet.giveBack(loan.id) };
    const { device, threads, maxBatchRows, runLimitMs } = options;
    const load = { device, threads, maxBatchRows, runLimitMs, joinable: false, shared: false, fixedRows: null };
    const described = await loadInto(runner, load, model).catch(note);
    const loadMs = performance.now() - startedMs;
    let longestMs = 0;
    const run = async (inputs: readonly Tensor[], rows: number) => {
      const result = await runAlone(connection, inputs, rows, options.runLimitMs).catch(note);
      longestMs = Math.max(longestMs, result.computeMs);
      return result;
    };
    let seenBytes = 0;
    const peakBytes = async () => {
      const stats = await connection.stats().catch(() => null);
      seenBytes = Math.max(seenBytes, stats?.peakBytes ?? 0);
      return seenBytes;
    };
    const done = await work({
      ...described,
      loadMs,
      run,
      peakBytes,
      longestMs: () => longestMs,
      deviceBytes: () => fleet.deviceBytesOf(loan.id),
    });
    if (late) throw new TooSlow(options);
    return done;
  } catch (error) {
    throw late ? new TooSlow(options) : error;
  } finally {
    clearTimeout(overtime);
    options.time.leftMs -= performance.now() - startedMs;
    await fleet.giveBack(loan.id);
  }
}

/** The runner ends itself at the run limit; the deadline is only there for one that cannot. */
function runAlone(connection: RunnerConnection, inputs: readonly Tensor[], rows: number, runLimitMs: number): Promise<CallResult> {
  const request = { tenantKey: '', priority: 0, outputs: null, alone: true, rows, inputs };
  return connection.call(request, { expiresMs: performance.now() + 2 * runLimitMs + 1_000, signal: undefined });
}

/** Whether another device might do it. */
export function mayBeDevices(error: unknown): boolean {
  return error instanceof RunnerLost || (error instanceof MercatoError && ['MODEL_FAILED', 'MODEL_REJECTED'].includes(error.code));
}

/** What is told of a model that failed a check. */
export function rejected(error: unknown): unknown {
  const by = (rule: RejectionRule, text: string) => new MercatoError('MODEL_REJECTED', text, { rule });
  if (error instanceof RunnerLost) return by('LOAD_CRASHED', 'The model crashed while it was loaded.');
  if (error instanceof LoadTooSlow)
    return new MercatoError('MODEL_REJECTED', error.message, { ...error.data, rule: 'LOAD_LIMIT' satisfies RejectionRule });
  if (!(error instanceof MercatoError && error.code === 'MODEL_FAILED')) return error;
  return by('LOAD_FAILED', `The model cannot be loaded: ${error.message}`);
}
