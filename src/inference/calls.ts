import { MercatoError } from '../base/errors.ts';
import { type CallRequest, type CallResult, gaveUp, type Patience, RunnerLost, RunnerOverran } from './connection.ts';
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

/** As `Inference.run` says. */
export async function runRequest(hosts: Hosts, request: RunRequest): Promise<RunResult> {
  const { version, inputs, outputs, tenantKey, priority, signal } = request;
  const patience = { expiresMs: performance.now() + request.deadlineMs, signal };
  const slices = version.joinable ? sliceInputs(inputs, version.maxBatchRows) : [inputs];
  const results: CallResult[] = [];
  // One after another: a call of many rows is one call in the queue, whatever its size.
  for (const slice of slices) {
    const rows = commonRows(slice) ?? 1;
    results.push(await call(hosts, version, { tenantKey, priority, outputs, alone: false, rows, inputs: slice }, patience));
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
async function call(hosts: Hosts, version: RunnableVersion, given: CallRequest, patience: Patience): Promise<CallResult> {
  let request = given;
  for (let attempt = 1; ; attempt++) {
    let path = '';
    try {
      const entered = hosts.enter(version, request.tenantKey);
      const connection = entered instanceof Promise ? await within(entered, patience) : entered;
      path = connection.path;
      return await connection.call(request, patience);
    } catch (error) {
      const ended = error instanceof RunnerLost || error instanceof RunnerOverran;
      if (!ended) throw error;
      if (error.mixed) request = { ...request, alone: true };
      else if (error instanceof RunnerOverran) throw new ModelKilled('OVERRUN', path, error.message);
      else if (error.begun) throw new ModelKilled('CRASH', path, 'The model crashed on this input.');
      if (attempt === ATTEMPTS_MAX) throw new MercatoError('OVERLOADED', undefined, { retryAfterMs: RETRY_AFTER_MS });
    }
  }
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
