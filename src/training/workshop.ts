import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import { constants, setPriority } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MercatoError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { confined } from '../inference/inference.ts';
import type { Answer, FromWorker, Order, Progress, ToWorker } from './orders.ts';
import type { Claim } from './work.ts';

const WORKER = fileURLToPath(new URL('./worker.ts', import.meta.url));
const MIB = 1024 ** 2;
const STDERR_CHARS_MAX = 4_000;
/** What Node, V8 and ONNX Runtime say when memory ends. */
const OUT_OF_MEMORY = /bad_alloc|out of memory|allocation failed|failed to allocate|cannot allocate/i;

/** One order at work. `onProgress` is waited for before the worker goes on; it gets the CPU time since the last. */
export type Handling = { claim: Claim; onProgress?(progress: Progress, micros: number): Promise<void> };

export type Workshop = {
  /** An empty folder for the files of a claim; whoever took it removes it. */
  folder(claim: Claim): Promise<WorkFolder>;
  /**
   * Carries out an order in a process of its own, with no environment, in its own folder, at low priority, ended with this process. `micros` is the CPU
   * time since the last progress. Rejects with the claim's reason when its signal is aborted, DEADLINE_EXCEEDED at its time limit, BAD_USER_INPUT
   * (`memoryLimitMib`) where memory ends, what the worker refused, and an error of ours for anything else.
   */
  perform<O extends Order>(order: O, folder: WorkFolder, handling: Handling): Promise<{ answer: Answer[O['kind']]; micros: number }>;
};

export type WorkFolder = AsyncDisposable & { path(name: string): string; directory: string };

export function createWorkshop(dataDir: string, log: Log): Workshop {
  return {
    async folder({ id, attempt }) {
      const directory = join(dataDir, 'work', `${id}-${attempt}`);
      await rm(directory, { recursive: true, force: true });
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const remove = () => rm(directory, { recursive: true, force: true });
      return { directory, path: (name) => join(directory, name), [Symbol.asyncDispose]: remove };
    },
    async perform(order, folder, handling) {
      handling.claim.signal.throwIfAborted();
      const worker = new Worker(folder.directory, handling, log);
      return (await worker.carryOut(order)) as { answer: Answer[(typeof order)['kind']]; micros: number };
    },
  };
}

/** One child process and the one order that it gets. */
class Worker {
  readonly #handling: Handling;
  readonly #child: ChildProcess;
  readonly #log: Log;
  readonly #done = Promise.withResolvers<{ answer: Answer[Order['kind']]; micros: number }>();
  #stderr = '';
  #spentMicros = 0;
  #hearing: Promise<void> = Promise.resolve();

  constructor(directory: string, handling: Handling, log: Log) {
    this.#handling = handling;
    this.#log = log;
    const [command, ...args] = confined([process.execPath, WORKER], { bytes: handling.claim.limits.memoryLimitMib * MIB, writes: true });
    this.#child = spawn(command, args, { cwd: directory, env: { TMPDIR: directory }, stdio: ['ignore', 'ignore', 'pipe', 'ipc'] });
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-STDERR_CHARS_MAX);
    });
    this.#child.on('message', (message: FromWorker) => {
      this.#hearing = this.#hearing.then(() => this.#hear(message)).catch((error: unknown) => this.#done.reject(error));
    });
    this.#child.on('error', (error) => this.#done.reject(error));
    this.#child.on('close', (code, signal) => void this.#hearing.then(() => this.#done.reject(this.#death(code, signal))));
    if (this.#child.pid !== undefined) lowerPriority(this.#child.pid);
  }

  async carryOut(order: Order): Promise<{ answer: Answer[Order['kind']]; micros: number }> {
    const { signal, limits, computeMicros } = this.#handling.claim;
    const leftMs = limits.timeLimitMs - Number(computeMicros) / 1_000;
    const late = setTimeout(() => this.#done.reject(tooLate(limits.timeLimitMs)), Math.max(0, leftMs));
    const stop = () => this.#done.reject(signal.reason);
    signal.addEventListener('abort', stop);
    try {
      this.#send({ order });
      return await this.#done.promise;
    } finally {
      clearTimeout(late);
      signal.removeEventListener('abort', stop);
      await this.#end();
    }
  }

  async #hear(message: FromWorker): Promise<void> {
    const micros = message.cpuMicros - this.#spentMicros;
    this.#spentMicros = message.cpuMicros;
    if ('answer' in message) return this.#done.resolve({ answer: message.answer, micros });
    if ('refusal' in message) {
      const { code, message: text, field } = message.refusal;
      return this.#done.reject(new MercatoError(code, text, field === null ? {} : { field }));
    }
    await this.#handling.onProgress?.(message.progress, micros);
    this.#send({ proceed: true });
  }

  #send(message: ToWorker): void {
    if (this.#child.connected) this.#child.send(message, () => {});
  }

  #death(code: number | null, signal: NodeJS.Signals | null): Error {
    if (OUT_OF_MEMORY.test(this.#stderr)) {
      const { memoryLimitMib } = this.#handling.claim.limits;
      return new MercatoError('BAD_USER_INPUT', `This needs more memory than ${memoryLimitMib} MiB.`, {
        field: 'memoryLimitMib',
        given: String(memoryLimitMib),
        expected: 'more, or less data at once',
      });
    }
    this.#log.warn({ code, signal, stderr: this.#stderr }, 'a worker process ended by itself');
    return new Error(`a worker process ended with ${signal ?? code}`);
  }

  async #end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null || this.#child.pid === undefined) return;
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await gone;
  }
}

function tooLate(timeLimitMs: number): MercatoError {
  return new MercatoError('DEADLINE_EXCEEDED', `This took longer than its time limit of ${timeLimitMs} ms.`, {
    limit: String(timeLimitMs),
  });
}

/** Predictions go first. The process may be gone already. */
function lowerPriority(pid: number): void {
  try {
    setPriority(pid, constants.priority.PRIORITY_BELOW_NORMAL);
  } catch {}
}
