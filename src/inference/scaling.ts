import type { RunnerStats } from './frames.ts';

/** How many runners a version has: at least `min`, which stay loaded, and at most `max`; null: as many as the host allows. */
export type ReplicaBounds = { min: number; max: number | null };

/** A replica more where calls wait longer than this and than two runs, seen in so many ticks one after the other; one less after so many calm ones. */
const CROWDED_QUEUE_MS = 20;
const CROWDED_TICKS = 2;
const CALM_TICKS = 10;
const CALM_BUSY_SHARE = 0.5;

/** The bounds of a version on a host that gives it `hostMax` runners at most; its `max` goes before its `min`. */
export function withinHost({ min, max }: ReplicaBounds, hostMax: number): { min: number; max: number } {
  const most = Math.max(1, Math.min(max ?? hostMax, hostMax));
  return { min: Math.min(min, most), max: most };
}

/** Follows how long the calls of one version wait. */
export class Scaler {
  #crowdedTicks = 0;
  #calmTicks = 0;

  /** Whether there should be a replica more (1) or less (-1). `busyShare`: run time of all since the last tick, in ticks. */
  step(replicas: readonly RunnerStats[], busyShare: number, { min, max }: { min: number; max: number }): -1 | 0 | 1 {
    const count = replicas.length;
    if (count > max) return -1;
    if (count < min) return 1;
    this.#crowdedTicks = count > 0 && replicas.every(isCrowded) ? this.#crowdedTicks + 1 : 0;
    this.#calmTicks = count > Math.max(1, min) && busyShare < (count - 1) * CALM_BUSY_SHARE ? this.#calmTicks + 1 : 0;
    if (this.#crowdedTicks >= CROWDED_TICKS && count < max) {
      this.#crowdedTicks = 0;
      return 1;
    }
    if (this.#calmTicks < CALM_TICKS) return 0;
    this.#calmTicks = 0;
    return -1;
  }
}

function isCrowded({ queued, queueMs, runMs }: RunnerStats): boolean {
  return queued > 0 && queueMs > Math.max(CROWDED_QUEUE_MS, 2 * runMs);
}
