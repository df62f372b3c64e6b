import { MercatoError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { type Runner, type RunnerSettings, startRunner } from './runner-process.ts';

/** A spare that ends by itself is replaced after this pause, so that a broken installation does not spawn in a loop. */
const REPLACE_AFTER_MS = 1_000;
const RETRY_AFTER_MS = 1_000;

/** Owns every runner of this process, and the spares among them: runners that wait for a model with ONNX Runtime in memory. */
export class Supervisor {
  readonly #settings: RunnerSettings;
  readonly #log: Log;
  readonly #spares: Runner[] = [];
  readonly #living = new Set<Runner>();
  readonly #starting = new Set<Promise<Runner>>();
  #missing: number;
  #ending = false;

  constructor(spares: number, settings: RunnerSettings, log: Log) {
    this.#missing = spares;
    this.#settings = settings;
    this.#log = log;
  }

  get spares(): number {
    return this.#spares.length;
  }

  /** A runner without a model: a spare if there is one. OVERLOADED when the server shuts down. */
  async take(): Promise<Runner> {
    const spare = this.#spares.shift();
    if (spare === undefined) return await this.#start();
    this.#missing++;
    return spare;
  }

  /** Starts the spares that are missing. That takes CPU time, so it is called after a load rather than while it runs. */
  refill(): void {
    for (; this.#missing > 0 && !this.#ending; this.#missing--) {
      this.#start().then(
        (runner) => this.#keep(runner),
        (error: unknown) => {
          this.#log.error({ err: error }, 'a spare runner did not start');
          this.#replaceLater();
        },
      );
    }
  }

  /** Kills every runner and waits until they are gone. */
  async end(): Promise<void> {
    this.#ending = true;
    await Promise.allSettled(this.#starting);
    for (const runner of this.#living) runner.kill();
    await Promise.all([...this.#living].map((runner) => runner.ended));
  }

  async #start(): Promise<Runner> {
    if (this.#ending)
      throw new MercatoError('OVERLOADED', 'The server is shutting down.', { rule: 'SHUTTING_DOWN', retryAfterMs: RETRY_AFTER_MS });
    const started = startRunner(this.#settings, this.#log).then((runner) => {
      this.#living.add(runner);
      void runner.ended.then(() => this.#living.delete(runner));
      return runner;
    });
    this.#starting.add(started);
    return await started.finally(() => this.#starting.delete(started));
  }

  #keep(runner: Runner): void {
    this.#spares.push(runner);
    runner.onLost(() => {
      const index = this.#spares.indexOf(runner);
      if (index < 0) return;
      this.#spares.splice(index, 1);
      this.#replaceLater();
    });
  }

  #replaceLater(): void {
    this.#missing++;
    if (!this.#ending) setTimeout(() => this.refill(), REPLACE_AFTER_MS).unref();
  }
}
