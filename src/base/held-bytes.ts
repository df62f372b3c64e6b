import { MercatoError } from './errors.ts';

/** Part of what is held, of one caller. */
export type Hold = {
  /** Adds to it; released, it holds nothing. @throws OVERLOADED: there is no room, and nothing is added */
  grow(bytes: number): void;
  /** Makes it another caller's. @throws OVERLOADED: that one has no room for it, and it stays as it was */
  moveTo(holder: string): void;
  /** Gives back its room; again: nothing. */
  release(): void;
};

const RETRY_AFTER_MS = 1_000;

type Refusal = { rule: string; message: string };

/** What one process holds in memory for its callers: `bytesMax` in all, half of that for one of them. `refusal`: what one is told for whom there is no room. */
export class HeldBytes {
  readonly #bytesMax: number;
  readonly #refusal: Refusal;
  readonly #byHolder = new Map<string, number>();
  #bytes = 0;

  constructor(bytesMax: number, refusal: Refusal) {
    this.#bytesMax = bytesMax;
    this.#refusal = refusal;
  }

  hold(first: string): Hold {
    let holder = first;
    let held = 0;
    let released = false;
    return {
      grow: (bytes) => {
        if (released) return;
        if (this.#bytes + bytes > this.#bytesMax) throw this.#full();
        this.#add(holder, bytes);
        held += bytes;
      },
      moveTo: (next) => {
        if (next === holder) return;
        this.#add(next, held);
        this.#add(holder, -held);
        holder = next;
      },
      release: () => {
        released = true;
        this.#add(holder, -held);
        held = 0;
      },
    };
  }

  #add(holder: string, bytes: number): void {
    const left = (this.#byHolder.get(holder) ?? 0) + bytes;
    if (bytes > 0 && left > this.#bytesMax / 2) throw this.#full();
    if (left > 0) this.#byHolder.set(holder, left);
    else this.#byHolder.delete(holder);
    this.#bytes += bytes;
  }

  #full(): MercatoError {
    const { rule, message } = this.#refusal;
    return new MercatoError('OVERLOADED', message, { rule, retryAfterMs: RETRY_AFTER_MS });
  }
}
