/** What the queue knows of a call. `priority`: higher first; `bytes`: of its inputs. */
export type Queued = { tenantKey: string; priority: number; bytes: number };

/** Bounds of one queue. A tenant may fill half of each, so that one alone cannot keep the others out. */
export const QUEUE_CALLS_MAX = 4096;
export const QUEUE_BYTES_MAX = 512 * 1024 * 1024;

type Load = { calls: number; bytes: number };
type Verdict = 'take' | 'skip' | 'stop';

/**
 * Waiting calls: the highest priority first; within one priority the tenants take turns, call by call; within one tenant the oldest first.
 */
export class CallQueue<Call extends Queued> {
  /** Priority → tenant → calls; the order of a level's keys is the order of turns. No list is empty. */
  readonly #levels = new Map<number, Map<string, Call[]>>();
  readonly #total: Load = { calls: 0, bytes: 0 };
  readonly #tenants = new Map<string, Load>();

  get size(): number {
    return this.#total.calls;
  }

  /** False where the queue, or this tenant's half of it, is full. An empty queue takes a call of any size. */
  add(call: Call): boolean {
    const tenant = this.#tenants.get(call.tenantKey) ?? { calls: 0, bytes: 0 };
    if (!fits(this.#total, call, 1) || !fits(tenant, call, 2)) return false;
    const level = this.#levels.get(call.priority) ?? new Map<string, Call[]>();
    this.#levels.set(call.priority, level);
    const calls = level.get(call.tenantKey) ?? [];
    level.set(call.tenantKey, calls);
    calls.push(call);
    this.#count(call, 1);
    return true;
  }

  /** False where the call no longer waits. */
  remove(call: Call): boolean {
    const level = this.#levels.get(call.priority);
    const calls = level?.get(call.tenantKey);
    if (level === undefined || calls?.includes(call) !== true) return false;
    this.#extract(level, calls, call, false);
    return true;
  }

  /** The next call, or null. */
  take(): Call | null {
    let turns = 1;
    return this.takeWhile(() => (turns-- > 0 ? 'take' : 'stop'))[0] ?? null;
  }

  /**
   * Takes calls in the queue's order as long as `accept` says 'take'; 'skip' leaves this tenant's remaining calls of that priority where they
   * are, 'stop' ends the walk.
   */
  takeWhile(accept: (call: Call) => Verdict): Call[] {
    const taken: Call[] = [];
    for (const level of [...this.#levels.keys()].sort((a, b) => b - a).map((priority) => this.#levels.get(priority))) {
      // A tenant that rotates to the end of the map is met again by this same loop; one that is skipped is not.
      for (const calls of level?.values() ?? []) {
        const [head] = calls;
        const verdict = head === undefined ? 'skip' : accept(head);
        if (level === undefined || head === undefined || verdict === 'stop') return taken;
        if (verdict === 'take') taken.push(this.#extract(level, calls, head, true));
      }
    }
    return taken;
  }

  /** Takes a call out of its tenant's list; `rotate` gives the turn to the next tenant. */
  #extract(level: Map<string, Call[]>, calls: Call[], call: Call, rotate: boolean): Call {
    calls.splice(calls.indexOf(call), 1);
    if (rotate || calls.length === 0) level.delete(call.tenantKey);
    if (rotate && calls.length > 0) level.set(call.tenantKey, calls);
    if (level.size === 0) this.#levels.delete(call.priority);
    this.#count(call, -1);
    return call;
  }

  #count(call: Call, sign: 1 | -1): void {
    const tenant = this.#tenants.get(call.tenantKey) ?? { calls: 0, bytes: 0 };
    for (const load of [this.#total, tenant]) {
      load.calls += sign;
      load.bytes += sign * call.bytes;
    }
    if (tenant.calls === 0) this.#tenants.delete(call.tenantKey);
    else this.#tenants.set(call.tenantKey, tenant);
  }
}

function fits(load: Load, call: Queued, share: number): boolean {
  return load.calls === 0 || (load.calls < QUEUE_CALLS_MAX / share && load.bytes + call.bytes <= QUEUE_BYTES_MAX / share);
}
