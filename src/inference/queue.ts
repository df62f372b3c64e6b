/** What the queue knows of a call. `priority`: higher first; `bytes`: of its inputs; `rows`: what it costs of a tenant's turn. */
export type Queued = { tenantKey: string; priority: number; bytes: number; rows: number };

/** Bounds of one queue. A tenant may fill half of each, so that one alone cannot keep the others out. */
export const QUEUE_CALLS_MAX = 4096;
export const QUEUE_BYTES_MAX = 512 * 1024 * 1024;

type Load = { calls: number; bytes: number };
type Verdict = 'take' | 'skip' | 'stop';
/** The calls of one tenant within one priority, the rows of these, and the rows that it may take before its next turn. */
type Lane<Call> = { calls: Call[]; rows: number; deficit: number };
/** Lanes by tenant; the order of the keys is the order of turns. A lane without calls stays until it has saved all that it may. */
type Level<Call> = { lanes: Map<string, Lane<Call>>; calls: number };

/**
 * Rows that a tenant may have saved of its turns, and all of them together: one that asks for less than its share does not wait for those that always ask, and
 * those wait no longer for many such ones than for a few.
 */
const CREDIT_ROWS = { each: 8, all: 64 };

/**
 * Waiting calls: the highest priority first; within one priority the tenants take turns, so that each gets as many rows as the others, whatever the
 * size of its calls, and those first that had the least of late; within one tenant the oldest first. By deficit round robin (Shreedhar and
 * Varghese, 1995) with a quantum of one row, some savings, and the largest deficit first.
 */
export class CallQueue<Call extends Queued> {
  readonly #levels = new Map<number, Level<Call>>();
  readonly #total: Load = { calls: 0, bytes: 0 };
  readonly #tenants = new Map<string, Load>();

  get size(): number {
    return this.#total.calls;
  }

  /** False where the queue, or this tenant's half of it, is full. An empty queue takes a call of any size. */
  add(call: Call): boolean {
    const tenant = this.#tenants.get(call.tenantKey) ?? { calls: 0, bytes: 0 };
    if (!fits(this.#total, call, 1) || !fits(tenant, call, 2)) return false;
    const level: Level<Call> = this.#levels.get(call.priority) ?? { lanes: new Map(), calls: 0 };
    this.#levels.set(call.priority, level);
    const lane = level.lanes.get(call.tenantKey) ?? { calls: [], rows: 0, deficit: creditOf(level) };
    level.lanes.set(call.tenantKey, lane);
    lane.calls.push(call);
    lane.rows += costOf(call);
    level.calls++;
    this.#count(call, 1);
    return true;
  }

  /** False where the call no longer waits. */
  remove(call: Call): boolean {
    const level = this.#levels.get(call.priority);
    const lane = level?.lanes.get(call.tenantKey);
    if (level === undefined || lane?.calls.includes(call) !== true) return false;
    this.#extract(level, lane, call);
    // What was saved for a call that goes is not saved for the next.
    const [head] = lane.calls;
    lane.deficit = Math.min(lane.deficit, Math.max(creditOf(level), head === undefined ? 0 : costOf(head)));
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
    for (const priority of [...this.#levels.keys()].sort((a, b) => b - a)) {
      const level = this.#levels.get(priority);
      const skipped = new Set<Lane<Call>>();
      for (let lane = level && nextLane(level, skipped); level && lane; lane = nextLane(level, skipped)) {
        const [head] = lane.calls;
        const verdict = head === undefined ? 'skip' : accept(head);
        if (head === undefined || verdict === 'skip') skipped.add(lane);
        else if (verdict === 'stop') return taken;
        else taken.push(this.#serve(level, lane, head));
      }
    }
    return taken;
  }

  /**
   * What runs before a call of this tenant and priority that is added now: all of higher priority, and of each other tenant of its own what it may take
   * until this one may. By tenant, in rows and in calls; its own are the first.
   */
  ahead({ tenantKey, priority, rows }: Queued): { rows: number; calls: number }[] {
    const same = this.#levels.get(priority);
    const own = same?.lanes.get(tenantKey) ?? { calls: [], rows: 0, deficit: same === undefined ? CREDIT_ROWS.each : creditOf(same) };
    const lacking = own.rows + Math.max(1, rows) - own.deficit;
    const parts = [{ rows: own.rows, calls: own.calls.length }];
    for (const [level, { lanes }] of this.#levels) {
      if (level < priority) continue;
      for (const [tenant, lane] of lanes) {
        if (level === priority && tenant === tenantKey) continue;
        const first = level > priority ? lane.rows : Math.min(lane.rows, Math.max(0, lacking + lane.deficit));
        const calls = Math.ceil((first / Math.max(1, lane.rows)) * lane.calls.length);
        if (calls > 0) parts.push({ rows: first, calls });
      }
    }
    return parts;
  }

  /** Gives the turn to the next tenant. */
  #serve(level: Level<Call>, lane: Lane<Call>, call: Call): Call {
    lane.deficit -= costOf(call);
    level.lanes.delete(call.tenantKey);
    level.lanes.set(call.tenantKey, lane);
    this.#extract(level, lane, call);
    return call;
  }

  #extract(level: Level<Call>, lane: Lane<Call>, call: Call): void {
    lane.calls.splice(lane.calls.indexOf(call), 1);
    lane.rows -= costOf(call);
    level.calls--;
    if (level.calls === 0) this.#levels.delete(call.priority);
    this.#count(call, -1);
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

const creditOf = ({ lanes }: Level<Queued>) =>
  Math.max(1, Math.min(CREDIT_ROWS.each, Math.floor(CREDIT_ROWS.all / Math.max(1, lanes.size))));

const costOf = ({ rows }: Queued) => Math.max(1, rows);

/**
 * Of the lanes that may afford their next call and are not skipped the one with the largest deficit, the first in turn; where none may, all are given as
 * many rounds as the nearest needs.
 */
function nextLane<Call extends Queued>(level: Level<Call>, skipped: ReadonlySet<Lane<Call>>): Lane<Call> | undefined {
  const { lanes } = level;
  let best: Lane<Call> | undefined;
  let nearest: Lane<Call> | undefined;
  let rounds = Number.POSITIVE_INFINITY;
  for (const lane of lanes.values()) {
    const [head] = lane.calls;
    if (head === undefined || skipped.has(lane)) continue;
    const lacking = costOf(head) - lane.deficit;
    if (lacking <= 0 && lane.deficit > (best?.deficit ?? 0)) best = lane;
    if (lacking >= rounds) continue;
    rounds = lacking;
    nearest = lane;
  }
  if (best !== undefined || nearest === undefined) return best;
  const credit = creditOf(level);
  for (const [tenant, lane] of lanes) {
    lane.deficit += rounds;
    if (lane.calls.length === 0 && lane.deficit >= credit) lanes.delete(tenant);
  }
  return nearest;
}

function fits(load: Load, call: Queued, share: number): boolean {
  return load.calls === 0 || (load.calls < QUEUE_CALLS_MAX / share && load.bytes + call.bytes <= QUEUE_BYTES_MAX / share);
}
