import { ERRORS, MercatoError } from '../base/errors.ts';
import { kindOf } from './budget.ts';
import { limitMemory, lowerPriority } from './confinement.ts';
import type { LoadableVersion, LoadFailure } from './fleet-port.ts';
import type { LoadHead } from './frames.ts';
import { modelBytes, type Runner } from './runner-process.ts';
import type { LoadedModel } from './session-thread.ts';

const LOAD_LIMIT_MS = 60_000;
/** A caller's rows may be larger than those that were measured. */
const PEAK_FACTOR = 3;
const PEAK_BYTES_MORE = 1024 ** 3;

export type LoadOptions = Omit<LoadHead, 'size'>;
/** What loads a model: a runner, or somebody's own connection to one. */
type Loads = Pick<Runner, 'kill'> & { connection: Pick<Runner['connection'], 'loadModel'> };

export class LoadTooSlow extends MercatoError {
  constructor(limitMs: number) {
    super('MODEL_FAILED', `The model was not loaded within ${limitMs / 1000} s.`, { rule: 'LOAD', limit: String(limitMs) });
  }
}

/** Loads a model into an empty runner. MODEL_FAILED, after `limitMs` LoadTooSlow, or RunnerLost; the runner is dead then. */
export async function loadInto(runner: Loads, options: LoadOptions, model: Uint8Array, limitMs = LOAD_LIMIT_MS): Promise<LoadedModel> {
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    runner.kill();
  }, limitMs);
  try {
    return await runner.connection.loadModel(options, model);
  } catch (error) {
    runner.kill();
    throw late ? new LoadTooSlow(limitMs) : error;
  } finally {
    clearTimeout(timer);
  }
}

/**
 * As `loadInto`: a version that is not trusted at a low priority, since the load runs what it says too; afterwards its runner's memory is bounded by what it was
 * seen to need.
 */
export async function loadVersion(runner: Runner, version: LoadableVersion, device: string, model: Uint8Array): Promise<LoadedModel> {
  const { trusted, peakMemoryBytes } = version;
  if (!trusted) lowerPriority(runner.pid);
  const loaded = await loadInto(runner, loadOptionsOf(version, device), model);
  if (peakMemoryBytes !== null) await limitMemory(runner.pid, Math.min(modelBytes(), mostBytes(peakMemoryBytes)));
  return loaded;
}

/** How a version is loaded on a device. */
export function loadOptionsOf(version: LoadableVersion, device: string): LoadOptions {
  const { threads, joinable, shared, maxBatchRows, fixedRows } = version;
  const rows = fixedRows !== null && kindOf(fixedRows.device) === kindOf(device) ? fixedRows.rows : null;
  const runLimitMs = runLimitOn(device, version);
  return { device, threads, joinable, shared, maxBatchRows: Math.min(maxBatchRows, rows ?? maxBatchRows), runLimitMs, fixedRows: rows };
}

/** What a run of a version may take on a device. */
export function runLimitOn(device: string, { runLimitMs, measuredLimit }: Pick<LoadableVersion, 'runLimitMs' | 'measuredLimit'>): number {
  return measuredLimit !== null && kindOf(measuredLimit.device) === kindOf(device) ? measuredLimit.runLimitMs : runLimitMs;
}

/** As whoever the version belongs to may see it. */
export function failureOf(error: unknown): LoadFailure {
  if (error instanceof MercatoError) return { code: error.code, message: error.message };
  return { code: 'INTERNAL', message: ERRORS.INTERNAL.text };
}

/** What a process may take that was seen to need `peakBytes`. */
export function mostBytes(peakBytes: number): number {
  return Math.max(PEAK_FACTOR * peakBytes, peakBytes + PEAK_BYTES_MORE);
}
