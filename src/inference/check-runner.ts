import { MercatoError } from '../base/errors.ts';
import { type CallResult, connectRunner, type RunnerConnection, RunnerLost, RunnerOverran } from './connection.ts';
import type { Lender } from './fleet-port.ts';
import { LoadTooSlow, loadInto } from './load.ts';
import type { RejectionRule } from './onnx/onnx.ts';
import type { Bench } from './profile.ts';
import { NO_MEMORY } from './runner-process.ts';
import type { Sample } from './samples.ts';
import type { LoadedModel } from './session-thread.ts';
import type { Tensor } from './tensor.ts';

/** `limitMs`: of the whole check, without the waits for a runner; 180 s. */
export type Gate = { runLimitMs: number; maxBatchRows: number; samples?: readonly Sample[]; limitMs?: number };

/** The whole of a check, but for the waits for a runner: less than its job may take, so that a slow model does not take the place of others. */
const GATE_MS = 180_000;

/** `longestMs`: of its runs so far. */
export type Loaded = Bench & LoadedModel & { loadMs: number; longestMs(): number };
/** Of a check, in all its runners: the time that is left, and what a run is expected to take besides the file, as far as that is known. */
type Shared = { leftMs: number; runBytes: number };
export type CheckOptions = Omit<Gate, 'samples'> & { threads: number; shared: Shared; limitMs: number };

export const boxed = ({ limitMs = GATE_MS, ...gate }: Gate, runBytes = 0): CheckOptions => ({
  ...gate,
  ...{ threads: 1, shared: { leftMs: limitMs, runBytes }, limitMs },
});

/** A model that had too little memory is tried with so much more. */
const MORE = 4;
const KILLED_RETRY_MS = 1_000;

export class TooSlow extends MercatoError {
  constructor({ limitMs }: CheckOptions) {
    const text = `The checks of the model took longer than ${limitMs / 1000} s; it has to load and run faster.`;
    super('MODEL_REJECTED', text, { rule: 'TIME_BOX' satisfies RejectionRule, limit: String(limitMs) });
  }
}

/** `moreBytes`: what a run may take in the next runner, since it had too little memory; null: it had enough, or all that there is. */
type Seen = { moreBytes: number | null };

/**
 * Does something with a runner that serves nothing else, and ends it. Where that had too little memory by what its file lets expect, it is done again with more, up to all that a model may have,
 * and the check goes on with that. What was done with less holds where there is no room or time for more. OVERLOADED where the runner was killed from outside.
 */
export async function inRunner<T>(
  model: Uint8Array,
  options: CheckOptions & { device: string },
  fleet: Lender,
  work: (loaded: Loaded) => Promise<T>,
): Promise<T> {
  const { shared } = options;
  let found: { done: T; runBytes: number } | null = null;
  for (;;) {
    const seen: Seen = { moreBytes: null };
    try {
      const done = await inOne(model, options, fleet, work, seen);
      if (seen.moreBytes === null) return done;
      found = { done, runBytes: shared.runBytes };
    } catch (error) {
      if (found !== null && (error instanceof TooSlow || (error instanceof MercatoError && error.code === 'OVERLOADED'))) {
        shared.runBytes = found.runBytes;
        return found.done;
      }
      if (seen.moreBytes === null) throw error;
    }
    shared.runBytes = seen.moreBytes;
  }
}

async function inOne<T>(
  model: Uint8Array,
  options: CheckOptions & { device: string },
  fleet: Lender,
  work: (loaded: Loaded) => Promise<T>,
  seen: Seen,
): Promise<T> {
  const loan = await fleet.borrow(model.length, options.device, options.shared.runBytes);
  const startedMs = performance.now();
  let late = false;
  let overran = false;
  let killed = false;
  const note = async (error: unknown): Promise<never> => {
    overran ||= error instanceof RunnerOverran;
    const refused = error instanceof MercatoError && error.code === 'MODEL_FAILED' && NO_MEMORY.test(error.message);
    const lost = error instanceof RunnerLost && !late && !overran;
    if (!loan.isMost && (refused || (lost && (await fleet.lackedMemory(loan.path))))) seen.moreBytes = MORE * loan.bytes;
    else if (lost) killed = killed || (await fleet.wasKilled(loan.path));
    throw error;
  };
  const overtime = setTimeout(() => {
    late = true;
    void fleet.giveBack(loan.id);
  }, options.shared.leftMs);
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
    if (killed) throw killedOutside();
    return done;
  } catch (error) {
    throw late ? new TooSlow(options) : killed ? killedOutside() : error;
  } finally {
    clearTimeout(overtime);
    options.shared.leftMs -= performance.now() - startedMs;
    await fleet.giveBack(loan.id);
  }
}

/** It says nothing of the model: the check is put off. */
function killedOutside(): MercatoError {
  const message = 'The runner of a check was killed from outside.';
  return new MercatoError('OVERLOADED', message, { rule: 'RUNNER_LOST', retryAfterMs: KILLED_RETRY_MS });
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
