import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { confined } from '../../src/inference/inference.ts';

const VICTIM = new URL('./victim.ts', import.meta.url).pathname;
const BYTES = 2 * 1024 ** 3;

/** `leaks`: the secret is in an output. `lateMs`: beyond the time that it had; below 0, before. */
export type Met = { outcome: 'NOT_LOADED' | 'NOT_RUN' | 'RAN' | 'CRASHED' | 'OVERRAN'; leaks: boolean; lateMs: number };
type Victim = ChildProcessByStdio<Writable, Readable, null>;

/** A victim that is replaced when it dies, and killed when it takes longer than `limitMs`. Its working directory is `cwd`, where it could read `secret`. */
export class Victims implements AsyncDisposable {
  readonly #cwd: string;
  readonly #limitMs: number;
  readonly #secret: Buffer;
  #victim: Promise<{ child: Victim; lines: AsyncIterator<string> }> | null = null;
  #count = 0;
  /** How many were started. */
  started = 0;

  constructor(cwd: string, limitMs: number, secret: Buffer) {
    this.#cwd = cwd;
    this.#limitMs = limitMs;
    this.#secret = secret;
  }

  async meet(model: Uint8Array): Promise<Met> {
    this.#victim ??= this.#start();
    const { child, lines } = await this.#victim;
    let late = false;
    const startedMs = performance.now();
    const limit = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, this.#limitMs);
    child.stdin.write(`${JSON.stringify({ id: ++this.#count, model: Buffer.from(model).toString('base64') })}\n`);
    const line = await lines.next();
    clearTimeout(limit);
    const lateMs = performance.now() - startedMs - this.#limitMs;
    if (!line.done) return { ...(JSON.parse(line.value) as Omit<Met, 'lateMs'>), lateMs };
    this.#victim = null;
    return { outcome: late ? 'OVERRAN' : 'CRASHED', leaks: false, lateMs };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const victim = await this.#victim;
    if (!victim || victim.child.exitCode !== null) return;
    const ended = once(victim.child, 'exit');
    victim.child.kill('SIGKILL');
    await ended;
  }

  async #start(): Promise<{ child: Victim; lines: AsyncIterator<string> }> {
    this.started++;
    const [command, ...args] = confined([process.execPath, '--disable-warning=ExperimentalWarning', VICTIM, this.#secret.toString('hex')], {
      bytes: BYTES,
      writes: false,
    });
    const child = spawn(command, args, { cwd: this.#cwd, env: {}, stdio: ['pipe', 'pipe', 'ignore'] });
    child.stdin.on('error', () => {});
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    await lines.next();
    return { child, lines };
  }
}
