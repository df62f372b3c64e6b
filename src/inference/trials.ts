import { MercatoError } from '../base/errors.ts';
import { type CallRequest, type CallResult, connectRunner, type RunnerConnection, RunnerLost } from './connection.ts';
import type { FleetPort, LoadableVersion } from './fleet-port.ts';

/** Beyond the run limit, for the queue. */
const GRACE_MS = 5_000;
/** A tenant whose failure was not the device's is not tried again for so long: a trial costs a load, and anybody can send a wrong input. */
const PAUSE_MS = 60_000;

/**
 * What `Trials` finds: the answer of the next device; 'fails': it fails there too, or cannot be loaded, so that the fault is the model's; 'unasked': there is no room to ask; 'unknown': that
 * cannot be told.
 */
export type Verdict = CallResult | 'fails' | 'unasked' | 'unknown';

/** How a run ended its runner, and which. */
export type End = { kind: 'CRASH' | 'OVERRUN'; runner: string };

/** A version in a runner of its own on the next device; null: there is none. `calls`: that ask it now. */
type Trial = { connection: Promise<RunnerConnection | null>; calls: number; end(): Promise<void> };

/** Finds out whether a run failed by its device or by its model: the next device of the chain is asked the same, once, in a runner that serves nothing else. */
export class Trials {
  readonly #fleet: FleetPort;
  /** By version and device. */
  readonly #open = new Map<string, Trial>();
  /** By version and tenant, of the monotonic clock. */
  readonly #pausedUntilMs = new Map<string, number>();

  constructor(fleet: FleetPort) {
    this.#fleet = fleet;
  }

  /** Of a run of the version that failed on `device`; `end`: it ended its runner. That is tried each time: the version is loaded again anyway. */
  async run(version: LoadableVersion, request: CallRequest, device: string, end: End | null): Promise<Verdict> {
    const pause = `${version.id} ${request.tenantKey}`;
    if (end === null && performance.now() < (this.#pausedUntilMs.get(pause) ?? 0)) return 'unknown';
    const verdict = await this.#ask(version, request, device);
    // All calls of a run that was late are one failure, and those of another runner a second, whoever called.
    const who = end === null ? request.tenantKey : end.kind === 'CRASH' ? null : end.runner;
    // The answer is there, whatever becomes of the version.
    if (typeof verdict === 'object') await this.#fleet.fallBack(version.id, device, who).catch(() => {});
    else if (end === null) this.#pause(pause);
    return verdict;
  }

  async #ask(version: LoadableVersion, request: CallRequest, device: string): Promise<Verdict> {
    const key = `${version.id} ${device}`;
    const trial = this.#open.get(key) ?? this.#begin(version, device);
    this.#open.set(key, trial);
    trial.calls++;
    try {
      const connection = await trial.connection.catch(unlent);
      if (connection === null) return 'fails';
      if (typeof connection === 'string') return connection;
      const patience = { expiresMs: performance.now() + version.runLimitMs + GRACE_MS, signal: undefined };
      return await connection.call({ ...request, alone: true }, patience);
    } catch (error) {
      return isRuns(error) && !(await this.#wasKilled(error, trial)) ? 'fails' : 'unknown';
    } finally {
      if (--trial.calls === 0) {
        this.#open.delete(key);
        await trial.end();
      }
    }
  }

  async #wasKilled(error: unknown, trial: Trial): Promise<boolean> {
    if (!(error instanceof RunnerLost)) return false;
    const connection = await trial.connection;
    return connection !== null && (await this.#fleet.wasKilled(connection.path));
  }

  #begin(version: LoadableVersion, device: string): Trial {
    const lent = this.#fleet.lend(version, device);
    const connection = lent.then((loan) => (loan === null ? null : connectRunner(loan, () => {})));
    const end = () => lent.then((loan) => (loan === null ? undefined : this.#fleet.giveBack(loan.id))).catch(() => {});
    return { connection, calls: 0, end };
  }

  #pause(key: string): void {
    const nowMs = performance.now();
    for (const [other, untilMs] of this.#pausedUntilMs) if (untilMs <= nowMs) this.#pausedUntilMs.delete(other);
    this.#pausedUntilMs.set(key, nowMs + PAUSE_MS);
  }
}

/** What it says of a model that the next device did not load it. */
function unlent(error: unknown): 'fails' | 'unasked' | 'unknown' {
  const code = error instanceof MercatoError ? error.code : null;
  return code === 'MODEL_FAILED' ? 'fails' : code === 'OVERLOADED' ? 'unasked' : 'unknown';
}

/** Whether a run failed by itself, rather than that it was not run. */
function isRuns(error: unknown): boolean {
  return error instanceof RunnerLost ? error.begun : error instanceof MercatoError && error.code === 'MODEL_FAILED';
}
