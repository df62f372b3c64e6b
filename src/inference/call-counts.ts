import { MercatoError } from '../base/errors.ts';
import type { FleetPort } from './fleet-port.ts';
import { NO_OUTCOMES, OUTCOME, type Outcomes } from './frames.ts';

const TELL_AFTER_MS = 1_000;

/** Counts by version how this process's calls ended for their callers, and tells the fleet within a second. */
export class CallCounts {
  readonly #fleet: Pick<FleetPort, 'count'>;
  #counts = new Map<string, Outcomes>();
  #timer: NodeJS.Timeout | null = null;

  constructor(fleet: Pick<FleetPort, 'count'>) {
    this.#fleet = fleet;
  }

  /** Counts a call when it ends; one that its caller cancels is none of these. */
  async follow<T>(versionId: string, call: Promise<T>): Promise<T> {
    try {
      const result = await call;
      this.#add(versionId, 'answered');
      return result;
    } catch (error) {
      const code = error instanceof MercatoError ? error.code : 'INTERNAL';
      if (code in OUTCOME) this.#add(versionId, OUTCOME[code as keyof typeof OUTCOME]);
      throw error;
    }
  }

  /** Tells now; what does not reach the fleet is lost. */
  async tell(): Promise<void> {
    clearTimeout(this.#timer ?? undefined);
    this.#timer = null;
    const counts = this.#counts;
    this.#counts = new Map();
    await Promise.allSettled([...counts].map(([versionId, calls]) => this.#fleet.count(versionId, calls)));
  }

  #add(versionId: string, outcome: keyof Outcomes): void {
    const calls = this.#counts.get(versionId) ?? { ...NO_OUTCOMES };
    calls[outcome]++;
    this.#counts.set(versionId, calls);
    this.#timer ??= setTimeout(() => void this.tell(), TELL_AFTER_MS).unref();
  }
}
