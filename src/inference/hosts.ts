import { MercatoError } from '../base/errors.ts';
import { RunnerLost } from './connection.ts';
import type { Runner } from './runner-process.ts';
import type { Supervisor } from './supervisor.ts';
import type { Signature } from './tensor.ts';

/** A version as it can be loaded. `joinable`: its rows may share a run; `shared`: also those of different tenants. */
export type RunnableVersion = {
  id: string;
  readModel: () => Promise<Uint8Array>;
  signature: Signature;
  joinable: boolean;
  shared: boolean;
  maxBatchRows: number;
  runLimitMs: number;
  threads: number;
};

/** The place of one loaded, or loading, version. */
export type Host = { readonly versionId: string; readonly runner: Promise<Runner>; loaded: Runner | null; users: number; lastUse: number };

const LOAD_LIMIT_MS = 60_000;
const RETRY_AFTER_MS = 1_000;

/** The loaded versions, at most `maxLoaded`. */
export class Hosts {
  readonly #maxLoaded: number;
  readonly #device: string;
  readonly #supervisor: Supervisor;
  readonly #hosts = new Map<string, Host>();
  #uses = 0;

  constructor(maxLoaded: number, device: string, supervisor: Supervisor) {
    this.#maxLoaded = maxLoaded;
    this.#device = device;
    this.#supervisor = supervisor;
  }

  /** The version's place, which stays until `leave`. The first to enter loads it. OVERLOADED where every place is busy. */
  enter(version: RunnableVersion): Host {
    const host = this.#hosts.get(version.id) ?? this.#open(version);
    host.users++;
    host.lastUse = ++this.#uses;
    return host;
  }

  leave(host: Host): void {
    host.users--;
  }

  /** Loads a version, or waits until it is. */
  async load(version: RunnableVersion): Promise<void> {
    const host = this.enter(version);
    try {
      await host.runner;
    } finally {
      this.leave(host);
    }
  }

  /** Ends the version's process; whoever waits for it comes back as if it had crashed. */
  async unload(versionId: string): Promise<void> {
    const host = this.#hosts.get(versionId);
    if (host === undefined) return;
    this.#forget(host);
    const runner = await host.runner.catch(() => null);
    runner?.kill();
    await runner?.ended;
  }

  all(): Iterable<Host> {
    return this.#hosts.values();
  }

  #open(version: RunnableVersion): Host {
    if (this.#hosts.size >= this.#maxLoaded) this.#evict();
    const host: Host = { versionId: version.id, runner: this.#start(version), loaded: null, users: 0, lastUse: 0 };
    this.#hosts.set(version.id, host);
    host.runner.then(
      (runner) => {
        host.loaded = runner;
        runner.onLost(() => this.#forget(host));
        if (this.#hosts.get(version.id) !== host) runner.kill();
        else if (!runner.connection.usable) this.#forget(host);
      },
      () => this.#forget(host),
    );
    return host;
  }

  /** Makes room by ending the idle version whose last use is the longest ago. */
  #evict(): void {
    const [oldest] = [...this.#hosts.values()].filter((host) => host.users === 0).sort((a, b) => a.lastUse - b.lastUse);
    if (oldest === undefined) {
      throw new MercatoError('OVERLOADED', 'Every place for a model is busy.', { retryAfterMs: RETRY_AFTER_MS });
    }
    this.#forget(oldest);
    oldest.loaded?.kill();
  }

  #forget(host: Host): void {
    if (this.#hosts.get(host.versionId) === host) this.#hosts.delete(host.versionId);
  }

  async #start(version: RunnableVersion): Promise<Runner> {
    const model = await version.readModel();
    try {
      const runner = await this.#supervisor.take();
      await loadInto(runner, { ...version, device: this.#device }, model);
      return runner;
    } catch (error) {
      if (error instanceof RunnerLost) throw new MercatoError('MODEL_FAILED', 'The model could not be loaded.', {}, { cause: error });
      throw error;
    } finally {
      this.#supervisor.refill();
    }
  }
}

type LoadOptions = Pick<RunnableVersion, 'joinable' | 'shared' | 'maxBatchRows' | 'runLimitMs' | 'threads'> & { device: string };

/** Loads a model into an empty runner, within a minute. MODEL_FAILED or RunnerLost; the runner is dead then. */
export async function loadInto(runner: Runner, options: LoadOptions, model: Uint8Array): Promise<Signature> {
  const { device, threads, joinable, shared, maxBatchRows, runLimitMs } = options;
  const limit = setTimeout(() => runner.kill(), LOAD_LIMIT_MS);
  try {
    const head = { device, threads, joinable, shared, maxBatchRows, runLimitMs };
    return await runner.connection.loadModel(head, model);
  } catch (error) {
    runner.kill();
    throw error;
  } finally {
    clearTimeout(limit);
  }
}
