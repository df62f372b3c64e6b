import { MercatoError } from '../base/errors.ts';
import { mostBytes } from './load.ts';
import type { Holder } from './room.ts';
import type { Runner } from './runner-process.ts';

type Ended = Pick<Holder, 'stats' | 'footprint' | 'deviceBytes' | 'deviceBytesMax'> & {
  runner: Pick<Runner, 'killed' | 'path' | 'refusedMemory'>;
};

/** A version is loaded again after so many kills of its runners within this time at most: each costs a load, and may be of a host without memory. */
const KILLS = { max: 3, withinMs: 60_000 };
/** Whose calls were in a runner asks at once. */
const REMEMBERED_MAX = 1_000;

/** Why runners have ended: by SIGKILL, which none sends itself, or for memory. */
export class Kills {
  readonly #blameless = new Set<string>();
  readonly #short = new Set<string>();
  /** Of the monotonic clock. */
  readonly #ofVersion = new Map<string, number[]>();

  /** A runner has ended. `versionId`: whose kill that would be; null: nobody's, as of one that was lent, or told to end. Where it held more than it may, by what it last told, what it ran is to blame. */
  add(versionId: string | null, { runner, stats, footprint, deviceBytes, deviceBytesMax }: Ended): void {
    const heldMore = stats.memoryBytes > footprint.bytes || (deviceBytes ?? 0) > deviceBytesMax;
    if (runner.refusedMemory || heldMore) remember(this.#short, runner.path);
    if (!runner.killed) return;
    if (versionId !== null) this.#count(versionId);
    if (stats.memoryBytes > mostBytes(footprint.bytes)) return;
    remember(this.#blameless, runner.path);
  }

  #count(versionId: string): void {
    const nowMs = performance.now();
    for (const [id, kills] of this.#ofVersion) if (kills.every((atMs) => atMs <= nowMs - KILLS.withinMs)) this.#ofVersion.delete(id);
    this.#ofVersion.set(versionId, [...(this.#ofVersion.get(versionId) ?? []), nowMs].slice(-KILLS.max));
  }

  /** Whether that was nobody's fault: the kernel had no memory, the runner was silent, or an operator wanted it. */
  isBlameless(path: string): boolean {
    return this.#blameless.has(path);
  }

  /** Whether more memory may have kept it alive: it said that it was refused some, or held more than it was expected to. */
  lackedMemory(path: string): boolean {
    return this.#short.has(path);
  }

  /** @throws OVERLOADED where too many runners of the version were killed of late */
  admit(versionId: string): void {
    const kills = this.#ofVersion.get(versionId) ?? [];
    const [first = 0] = kills;
    const leftMs = first + KILLS.withinMs - performance.now();
    if (kills.length < KILLS.max || leftMs <= 0) return;
    const message = 'Runners of this model were killed again and again; it is loaded again in a while.';
    throw new MercatoError('OVERLOADED', message, { rule: 'RUNNER_LOST', retryAfterMs: Math.ceil(leftMs) });
  }
}

function remember(paths: Set<string>, path: string): void {
  if (paths.size >= REMEMBERED_MAX) paths.clear();
  paths.add(path);
}
