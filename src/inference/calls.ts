import { type ErrorData, MercatoError } from '../base/errors.ts';
import { refusalOfSize } from './answer-size.ts';
import { type CallRequest, type CallResult, type Patience, type RunnerConnection, RunnerLost, RunnerOverran } from './connection.ts';
import type { FleetPort } from './fleet-port.ts';
import { type Hosts, loadable, type RunnableVersion } from './hosts.ts';
import { runLimitOn } from './load.ts';
import { joinResults, sliceInputs } from './slices.ts';
import { bytesOf, commonRows, rowsOf, type Tensor } from './tensor.ts';
import type { Trials, Verdict } from './trials.ts';
import { within } from './within.ts';

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
/** Runners of one call that may be killed: what ends a second one need not stop at it. */
const KILLS_MAX = 2;
/** Beyond the run limit, for the load and the queue. */
const TRIAL_GRACE_MS = 5_000;

/** The version's runners, what tells whether a device fails, and what tells how a runner ended. */
type Ways = { hosts: Hosts; trials: Trials; fleet: Pick<FleetPort, 'wasKilled'> };

/** As `Inference.run` says. */
export async function runRequest(ways: Ways, request: RunRequest): Promise<RunResult> {
  const { version, inputs, outputs, tenantKey, priority, signal } = request;
  const patience = { expiresMs: performance.now() + request.deadlineMs, signal };
  const rowsMax = Math.min(version.maxBatchRows, version.fixedRows?.rows ?? version.maxBatchRows);
  const slices = version.joinable ? sliceInputs(inputs, rowsMax) : [inputs];
  const results: CallResult[] = [];
  let bytes = 0;
  // One after another: a call of many rows is one call in the queue, whatever its size.
  for (const slice of slices) {
    const rows = commonRows(slice) ?? 1;
    const result = await call(
      ways,
      version,
      { tenantKey, priority, outputs, alone: false, rows, inputs: slice },
      patience,
      request.onKilled,
    );
    bytes += bytesOf(result.outputs);
    const tooLarge = refusalOfSize(bytes);
    if (tooLarge !== null) throw new MercatoError(tooLarge.code, tooLarge.message, { rule: tooLarge.rule, limit: tooLarge.limit });
    results.push(result);
  }
  return { ...joinResults(results), rows: rowsOf(version.signature, inputs), runs: slices.length };
}

/** A run of this call alone, or with calls of its own tenant, ended its runner: by a crash, or past the run limit. `runner` names that, once per run. */
export class ModelKilled extends MercatoError {
  readonly kind: 'CRASH' | 'OVERRUN';
  readonly runner: string;

  constructor(kind: 'CRASH' | 'OVERRUN', runner: string, message: string, facts: Pick<ErrorData, 'limit'> = {}) {
    super('MODEL_FAILED', message, { rule: kind, ...facts });
    this.kind = kind;
    this.runner = runner;
  }
}

/**
 * A call whose runner ended before it began comes back. So does one that shared the run that ended it with other tenants' calls, alone: nobody fails by
 * another's input, and whose input it was shows; and, once, one whose runner was killed from outside. What fails on another device than the CPU is asked of the next, and is the model's fault where it fails there too.
 */
async function call(
  ways: Ways,
  version: RunnableVersion,
  given: CallRequest,
  patience: Patience,
  onKilled: RunRequest['onKilled'],
): Promise<CallResult> {
  let request = given;
  let kills = 0;
  for (let attempt = 1; ; attempt++) {
    let connection: RunnerConnection | null = null;
    const onLate = async (ended: RunnerLost | RunnerOverran) => {
      if (await wasKilled(ways, ended, connection)) return;
      const killed = killedBy(ended, connection, version);
      if (ended.mixed) void tryAlone(ways, version, request, onKilled);
      else if (killed !== null) void tryLate(ways, version, request, { killed, device: connection?.device ?? 'cpu', onKilled });
    };
    try {
      const entered = ways.hosts.enter(version, request.tenantKey);
      connection = entered instanceof Promise ? await within(entered, patience) : entered;
      return await connection.call(request, { ...patience, onLate });
    } catch (failure) {
      const error = await unlessKilled(ways, failure, { connection, patience, onLate });
      if (error !== failure && ++kills === KILLS_MAX) throw lost();
      const tried = await tryNext(ways, version, request, { error, connection, patience, onKilled });
      if (typeof tried === 'object') return tried;
      if (!(error instanceof RunnerLost || error instanceof RunnerOverran)) throw error;
      const killed = killedBy(error, connection, version);
      // Nobody is struck for what may be the device's fault.
      if (killed !== null)
        throw isModels(killed, tried) ? killed : new MercatoError('MODEL_FAILED', killed.message, killed.data, { cause: killed });
      if (error.mixed) request = { ...request, alone: true };
      if (attempt === ATTEMPTS_MAX) throw lost();
    }
  }
}

function lost(): MercatoError {
  return new MercatoError('OVERLOADED', undefined, { rule: 'RUNNER_LOST', retryAfterMs: RETRY_AFTER_MS });
}

type Ended = { connection: RunnerConnection | null; patience: Patience; onLate(ended: RunnerLost): unknown };

/** The failure of a call; where its runner was killed from outside, as if its run had not begun. Rejects where the caller gives up. */
async function unlessKilled(ways: Ways, failure: unknown, { connection, patience, onLate }: Ended): Promise<unknown> {
  if (!(failure instanceof RunnerLost)) return failure;
  const isKilled = await within(wasKilled(ways, failure, connection), patience).catch((gaveUp: unknown) => {
    void onLate(failure);
    throw gaveUp;
  });
  return isKilled ? new RunnerLost(false, failure.mixed) : failure;
}

/** Whether a runner was killed from outside during a run; where nobody can tell, nobody is to blame. */
async function wasKilled({ fleet }: Ways, ended: RunnerLost | RunnerOverran, connection: RunnerConnection | null): Promise<boolean> {
  if (ended instanceof RunnerOverran || !ended.begun || connection === null) return false;
  return await fleet.wasKilled(connection.path).catch(() => true);
}

/** Whether a run of this call alone failed, took too long, or ended its runner: a device may be at fault. */
function isRuns(error: unknown): boolean {
  if (error instanceof RunnerLost) return error.begun && !error.mixed;
  if (error instanceof RunnerOverran) return !error.mixed;
  return error instanceof MercatoError && error.code === 'MODEL_FAILED' && error.data.rule !== 'OUTPUTS';
}

type Failed = { error: unknown; connection: RunnerConnection | null; patience: Patience; onKilled: RunRequest['onKilled'] };

/** What the next device says to a call that failed on this one; 'fails' where there is nothing to ask. Rejects where the caller gives up. */
async function tryNext(
  { trials }: Ways,
  version: RunnableVersion,
  request: CallRequest,
  { error, connection, patience, onKilled }: Failed,
): Promise<Verdict> {
  const device = connection?.device ?? 'cpu';
  if (device === 'cpu' || !isRuns(error)) return 'fails';
  const ended = error instanceof RunnerLost || error instanceof RunnerOverran;
  const killed = ended ? killedBy(error, connection, version) : null;
  const trial = trials.run(loadable(version), request, device, killed);
  return within(trial, patience).catch((gaveUp: unknown) => {
    // Whoever gives up early would never be found to crash the model on every device.
    if (killed) void trial.then((tried) => isModels(killed, tried) && onKilled?.(killed));
    throw gaveUp;
  });
}

/** Whether the model is to blame: the next device fails too; or, of what never ends, there is no room to ask it, which may not be the way to never be blamed. */
function isModels({ kind }: ModelKilled, tried: Verdict): boolean {
  return tried === 'fails' || (tried === 'unasked' && kind === 'OVERRUN');
}

/** What ended a runner; null where the call had not begun, or it cannot be told yet whose call it was. */
function killedBy(ended: RunnerLost | RunnerOverran, connection: RunnerConnection | null, version: RunnableVersion): ModelKilled | null {
  if (ended.mixed || connection === null) return null;
  const { path, device } = connection;
  const limit = String(runLimitOn(device ?? 'cpu', version));
  if (ended instanceof RunnerOverran) return new ModelKilled('OVERRUN', path, ended.message, { limit });
  return ended.begun ? new ModelKilled('CRASH', path, 'The model crashed on this input.') : null;
}

type Late = { killed: ModelKilled; device: string; onKilled: RunRequest['onKilled'] };

/** Nobody waits for the call, which ended its runner: the next device is asked all the same, since whoever gives up early would never be found. */
async function tryLate(
  { trials }: Ways,
  version: RunnableVersion,
  request: CallRequest,
  { killed, device, onKilled }: Late,
): Promise<void> {
  const tried = device === 'cpu' ? 'fails' : await trials.run(loadable(version), request, device, killed);
  if (isModels(killed, tried)) onKilled?.(killed);
}

/** Nobody waits for the call, but it may be the one that ended its runner: whoever gives up early would never be found. */
async function tryAlone(ways: Ways, version: RunnableVersion, given: CallRequest, onKilled: RunRequest['onKilled']): Promise<void> {
  const patience = { expiresMs: performance.now() + version.runLimitMs + TRIAL_GRACE_MS, signal: undefined };
  await call(ways, version, { ...given, alone: true }, patience, onKilled).catch((error: unknown) => {
    if (error instanceof ModelKilled) onKilled?.(error);
  });
}
