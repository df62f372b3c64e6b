import { gaveUp, MercatoError } from '../base/errors.ts';
import { type CallRequest, type CallResult, type Patience, RunnerLost, RunnerOverran } from './connection.ts';
import type { Hosts, RunnableVersion } from './hosts.ts';
import { joinResults, sliceInputs } from './slices.ts';
import { commonRows, rowsOf, type Tensor } from './tensor.ts';

/**
 * One call of a model. `inputs` satisfy the version's signature. `tenantKey`: an opaque key of who shares a queue and, unless the version is
 * `shared`, a batch. `priority`: higher first. `outputs`: names to compute, in order; null: all. `deadlineMs`: what remains of it.
 */
export type RunRequest = {
  version: RunnableVersion;
  tenantKey: string;
  priority: number;
  inputs: readonly Tensor[];
  outputs: readonly string[] | null;
  deadlineMs: number;
  signal?: AbortSignal;
  /** Told, after a rejection, that the run which the call had begun ended its process all the same. */
  onKilled?(killed: ModelKilled): void;
};

/**
 * `rows`: the leading dimension of the inputs where it is the batch dimension, else 1. `runs`: slices that were needed. Over all slices,
 * `queueMs` is the time between arrival at the runner and the start of the run, `computeMs` the run time, `computeMicros` the part of it that
 * is this call's by rows, `batchRows` the rows of the largest run that it shared. `device` is the one that ran.
 */
export type RunResult = CallResult & { rows: number; runs: number };

/** Lives of one call: it comes back when a runner ends before the call began. */
const ATTEMPTS_MAX = 3;
const RETRY_AFTER_MS = 100;
/** Beyond the run limit, for the load and the queue. */
const TRIAL_GRACE_MS = 5_000;

/** As `Inference.run` says. */
export async function runRequest(hosts: Hosts, request: RunRequest): Promise<RunResult> {
  const { version, inputs, outputs, tenantKey, priority, signal } = request;
  const patience = { expiresMs: performance.now() + request.deadlineMs, signal };
  const slices = version.joinable ? sliceInputs(inputs, version.maxBatchRows) : [inputs];
  const results: CallResult[] = [];
  // One after another: a call of many rows is one call in the queue, whatever its size.
  for (const slice of slices) {
    const rows = commonRows(slice) ?? 1;
    results.push(
      await call(hosts, version, { tenantKey, priority, outputs, alone: false, rows, inputs: slice }, patience, request.onKilled),
    );
  }
  return { ...joinResults(results), rows: rowsOf(version.signature, inputs), runs: slices.length };
}

/** A run of this call alone, or with calls of its own tenant, ended its runner: by a crash, or past the run limit. `runner` names that, once per run. */
export class ModelKilled extends MercatoError {
  readonly kind: 'CRASH' | 'OVERRUN';
  readonly runner: string;

  constructor(kind: 'CRASH' | 'OVERRUN', runner: string, message: string) {
    super('MODEL_FAILED', message);
    this.kind = kind;
    this.runner = runner;
  }
}

/**
 * A call whose runner ended before it began comes back. So does one that shared the run that ended it with other tenants' calls, alone: nobody fails by
 * another's input, and whose input it was shows.
 */
async function call(
  hosts: Hosts,
  version: RunnableVersion,
  given: CallRequest,
  patience: Patience,
  onKilled: RunRequest['onKilled'],
): Promise<CallResult> {
  let request = given;
  for (let attempt = 1; ; attempt++) {
    let path = '';
    const onLate = (ended: RunnerLost | RunnerOverran) => {
      const killed = killedBy(ended, path);
      if (killed !== null) onKilled?.(killed);
      else if (ended.mixed) void tryAlone(hosts, version, request, onKilled);
    };
    try {
      const entered = hosts.enter(version, request.tenantKey);
      const connection = entered instanceof Promise ? await within(entered, patience) : entered;
      path = connection.path;
      return await connection.call(request, { ...patience, onLate });
    } catch (error) {
      if (!(error instanceof RunnerLost || error instanceof RunnerOverran)) throw error;
      const killed = killedBy(error, path);
      if (killed !== null) throw killed;
      if (error.mixed) request = { ...request, alone: true };
      if (attempt === ATTEMPTS_MAX) throw new MercatoError('OVERLOADED', undefined, { retryAfterMs: RETRY_AFTER_MS });
    }
  }
}

/** What ended a runner; null where the call had not begun, or it cannot be told yet whose call it was. */
function killedBy(ended: RunnerLost | RunnerOverran, path: string): ModelKilled | null {
  if (ended.mixed) return null;
  if (ended instanceof RunnerOverran) return new ModelKilled('OVERRUN', path, ended.message);
  return ended.begun ? new ModelKilled('CRASH', path, 'The model crashed on this input.') : null;
}

/** Nobody waits for the call, but it may be the one that ended its runner: whoever gives up early would never be found. */
async function tryAlone(hosts: Hosts, version: RunnableVersion, given: CallRequest, onKilled: RunRequest['onKilled']): Promise<void> {
  const patience = { expiresMs: performance.now() + version.runLimitMs + TRIAL_GRACE_MS, signal: undefined };
  await call(hosts, version, { ...given, alone: true }, patience, onKilled).catch((error: unknown) => {
    if (error instanceof ModelKilled) onKilled?.(error);
  });
}

/** Waits for a load as long as the caller does; the load goes on without it. */
function within<T>(loading: Promise<T>, { expiresMs, signal }: Patience): Promise<T> {
  return new Promise((resolve, reject) => {
    const giveUp = () => {
      settle();
      reject(gaveUp(signal));
    };
    const timer = setTimeout(giveUp, expiresMs - performance.now());
    const settle = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', giveUp);
    };
    signal?.addEventListener('abort', giveUp);
    if (signal?.aborted === true) giveUp();
    loading.then(resolve, reject).finally(settle);
  });
}
