/** Seeded random numbers (mulberry32): the same seed, the same numbers. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

type Task = { at: number; order: number; run(): void };

/**
 * One line of time for everything that is simulated: whatever waits, waits here, and what comes due at the same instant comes in an order that the seed decides.
 * Real time does not exist: between two tasks all promises that can go on do.
 */
export class World {
  now = 0;
  readonly random: () => number;
  private tasks: Task[] = [];

  constructor(seed: number) {
    this.random = randomOf(seed);
  }

  /** A whole number of 0 to `count` − 1. */
  below(count: number): number {
    return Math.floor(this.random() * count);
  }

  at(ms: number, run: () => void): void {
    this.tasks.push({ at: ms, order: this.random(), run });
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.at(this.now + Math.max(0, ms), resolve));
  }

  /** Runs what is due until `until`; what is left over stays. */
  async runUntil(until: number): Promise<void> {
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      const next = this.take(until);
      if (next === null) break;
      this.now = Math.max(this.now, next.at);
      next.run();
    }
    this.now = Math.max(this.now, until);
  }

  private take(until: number): Task | null {
    let best = -1;
    for (const [index, task] of this.tasks.entries()) {
      const known = this.tasks[best];
      if (task.at <= until && (!known || task.at < known.at || (task.at === known.at && task.order < known.order))) best = index;
    }
    return best < 0 ? null : (this.tasks.splice(best, 1)[0] ?? null);
  }
}

/** What runs in one process: it can stand still and go on, or end for good; then nothing that it waits for ever comes. */
export class SimProcess {
  readonly id: string;
  readonly world: World;
  alive = true;
  pausedUntil = 0;

  constructor(id: string, world: World) {
    this.id = id;
    this.world = world;
  }

  nowMs = (): number => this.world.now;
  sleep = (ms: number): Promise<void> => this.after(this.world.sleep(ms));

  /** What arrives for this process: when it runs again, or never. */
  after<T>(promise: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const arrive = (deliver: () => void) => {
        if (!this.alive) return;
        if (this.world.now < this.pausedUntil) this.world.at(this.pausedUntil, () => arrive(deliver));
        else deliver();
      };
      promise.then(
        (value) => arrive(() => resolve(value)),
        (error: unknown) => arrive(() => reject(error)),
      );
    });
  }
}
