/** Lets so many works of a name run at once, and so many in all. The others wait: names in turn, the works of each in their order. */
export class Turns {
  readonly #most: { each: number; all: number };
  readonly #running = new Map<string, number>();
  #all = 0;
  readonly #waiting = new Map<string, (() => void)[]>();

  constructor(most: { each: number; all: number }) {
    this.#most = most;
  }

  /** How many wait. */
  waiting = 0;

  /** Runs `work` in its turn, before all others of its name where it is `next`; as it ends, so does this. */
  async run<T>(name: string, work: () => Promise<T>, next = false): Promise<T> {
    if (this.#hasRoom(name)) this.#enter(name);
    else await new Promise<void>((resolve) => this.#wait(name, resolve, next));
    try {
      return await work();
    } finally {
      this.#leave(name);
    }
  }

  #hasRoom(name: string): boolean {
    return this.#all < this.#most.all && (this.#running.get(name) ?? 0) < this.#most.each;
  }

  #wait(name: string, begin: () => void, next: boolean): void {
    const others = this.#waiting.get(name) ?? [];
    this.#waiting.set(name, next ? [begin, ...others] : [...others, begin]);
    this.waiting++;
  }

  #enter(name: string): void {
    this.#running.set(name, (this.#running.get(name) ?? 0) + 1);
    this.#all++;
  }

  #leave(name: string): void {
    const left = (this.#running.get(name) ?? 0) - 1;
    if (left > 0) this.#running.set(name, left);
    else this.#running.delete(name);
    this.#all--;
    for (const [next, [first, ...others]] of this.#waiting) {
      if (!this.#hasRoom(next)) continue;
      this.#waiting.delete(next);
      if (others.length > 0) this.#waiting.set(next, others);
      this.waiting--;
      this.#enter(next);
      first?.();
      return;
    }
  }
}
