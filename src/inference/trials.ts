import { type CallRequest, type CallResult, connectRunner } from './connection.ts';
import type { FleetPort, LoadableVersion } from './fleet-port.ts';

/** Beyond the run limit, for the queue. */
const GRACE_MS = 5_000;
/** Whose failures were seen to be the model's is not tried again for so long: a trial costs a load, and anybody can send a wrong input. */
const PAUSE_MS = 60_000;

/**
 * Finds out whether a run failed by its device or by its model: the next device of the chain is asked the same, once, in a runner of its own. Where that answers,
 * the version leaves the device that failed.
 */
export class Trials {
  readonly #fleet: FleetPort;
  readonly #running = new Map<string, Promise<CallResult | null>>();
  readonly #pausedUntilMs = new Map<string, number>();

  constructor(fleet: FleetPort) {
    this.#fleet = fleet;
  }

  /** What the next device answers; 'again' where another call's trial has made the version leave; null: the fault is the model's, or it cannot be told. */
  async run(version: LoadableVersion, request: CallRequest, device: string): Promise<CallResult | 'again' | null> {
    const other = this.#running.get(version.id);
    if (other !== undefined) return (await other) === null ? null : 'again';
    if (performance.now() < (this.#pausedUntilMs.get(version.id) ?? 0)) return null;
    const trial = this.#try(version, request, device).finally(() => this.#running.delete(version.id));
    this.#running.set(version.id, trial);
    return trial;
  }

  async #try(version: LoadableVersion, request: CallRequest, device: string): Promise<CallResult | null> {
    const { id } = version;
    this.#pausedUntilMs.set(id, performance.now() + PAUSE_MS);
    try {
      const loan = await this.#fleet.lend(version, device);
      if (loan === null) return null;
      try {
        const connection = await connectRunner(loan, () => {});
        const patience = { expiresMs: performance.now() + version.runLimitMs + GRACE_MS, signal: undefined };
        const result = await connection.call({ ...request, alone: true }, patience);
        await this.#fleet.fallBack(id, device);
        this.#pausedUntilMs.delete(id);
        return result;
      } finally {
        await this.#fleet.giveBack(loan.id);
      }
    } catch {
      // It fails there too, or could not be tried: the caller is told what happened on its device.
      return null;
    }
  }
}
