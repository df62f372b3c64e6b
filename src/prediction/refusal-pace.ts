import { setTimeout as sleep } from 'node:timers/promises';

/** So many refusals of a moment, and so many a second, are handed to a tenant at once. */
const BURST = 20;
const GAP_MS = 50;
/** The longest wait: a tenant with more callers than that paces is refused more often, none of them much later. */
export const HOLD_MS_MAX = 500;
/** Of all tenants; each keeps its call's inputs. */
export const HELD_MAX = 256;
const TENANTS_MAX = 1_000;

/**
 * Holds back what callers are told who ask again long before they should: each refusal costs those who are served as much as most of a call, and a caller
 * that waits for it asks no more meanwhile. By the generic cell rate algorithm (ITU-T I.371), on this process's clock.
 */
export class RefusalPace {
  readonly #dueMs = new Map<string, number>();
  /** Refusals that wait now. */
  held = 0;

  /** Resolves when the tenant may be refused once more: at once within its pace, else after `mostMs` or HOLD_MS_MAX at most, or when `signal` aborts. */
  async hold(tenantId: string, mostMs: number, signal: AbortSignal): Promise<void> {
    const ms = Math.min(this.turnMs(tenantId, performance.now()), mostMs);
    if (ms <= 0 || this.held >= HELD_MAX) return;
    this.held++;
    await sleep(ms, undefined, { signal }).catch(() => {});
    this.held--;
  }

  /** How long the tenant's next refusal waits from `nowMs`, which it takes for refused then: 0 to HOLD_MS_MAX. */
  turnMs(tenantId: string, nowMs: number): number {
    if (this.#dueMs.size >= TENANTS_MAX) for (const [tenant, due] of this.#dueMs) if (due < nowMs) this.#dueMs.delete(tenant);
    const dueMs = Math.max(this.#dueMs.get(tenantId) ?? 0, nowMs - BURST * GAP_MS);
    this.#dueMs.set(tenantId, Math.min(dueMs + GAP_MS, nowMs + HOLD_MS_MAX));
    return Math.max(0, dueMs - nowMs);
  }
}
