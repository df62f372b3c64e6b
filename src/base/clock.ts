/** Time for tokens and logs. Windows, expiries and periods are decided in SQL by `mercato_now()`, never here. */
export type Clock = {
  /** Milliseconds since 1970 UTC. */
  wallMs(): number;
  /** Milliseconds from an arbitrary origin; never goes back. */
  monotonicMs(): number;
};

export const systemClock: Clock = { wallMs: () => Date.now(), monotonicMs: () => performance.now() };
