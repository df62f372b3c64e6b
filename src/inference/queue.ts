/**
 * What the queue knows of a call. `priority`: higher first; `bytes`: of its inputs; `rows`: what it costs of a tenant's turn, until its run has shown more. Calls of
 * equal `joinKey` may run as one; null: alone.
 */
export type Queued = { tenantKey: string; priority: number; bytes: number; rows: number; joinKey: string | null };

/** Bounds of one queue. A tenant may fill half of each, so that one alone cannot keep the others out. */
export const QUEUE_CALLS_MAX = 4096;
export const QUEUE_BYTES_MAX = 512 * 1024 * 1024;

type Load = { calls: number; bytes: number };
type Verdict = 'take' | 'skip' | 'stop';
/**
 * The calls of one tenant within one priority, and the rows of these; `breaks`: of them that cannot run with the one before; `hadMs`: the time that the tenant
 * has had, which `givenMs` less that is its deficit; `turn`: after whom it comes.
 */
export type Lane<Call> = { readonly tenantKey: string; readonly calls: Call[]; rows: number; breaks: number; hadMs: number; turn: number };
/** Lanes by tenant, and the time that each was given so far. A lane without calls stays until it has saved all that it may. */
type Level<Call> = { lanes: Map<string, Lane<Call>>; calls: number; givenMs: number; turns: number };

/**
 * Rows that a tenant may have saved of its turns, and all of them together: one that asks for less than its share does not wait for those that always ask, and
 * those wait no longer for many such ones than for a few.
 */
const CREDIT_ROWS = { each: 8, all: 64 };

/** Sums that are equal but for their rounding. */
const SAME = 1 - 1e-6;

/**
 * Waiting calls: the highest priority first; within one priority the tenants take turns, so that each gets as much of the device as the others, whatever its
 * calls look like, and those first that had the least of late; within one tenant the oldest first. By deficit round robin (Shreedhar and Varghese, 1995)
 * over time, with some savings, and the largest deficit first. A call is paid for by its rows when it is taken, and by `charge` for what its run took beyond
 * these: one of few rows takes longer than they would in a full one.
 */
export class CallQueue<Call extends Queued> {
  readonly #levels = new Map<number, Level<Call>>();
  readonly #total: Load = { calls: 0, bytes: 0 };
  readonly #tenants = new Map<string, Load>();
  /** What a row is expected to take in a full run. */
  rowMs = 1;

  get size(): number {
    return this.#total.calls;
  }

  /** False where the queue, or this tenant's half of it, is full. An empty queue takes a call of any size. */
  add(call: Call): boolean {
    const tenant = this.#tenants.get(call.tenantKey) ?? { calls: 0, bytes: 0 };
    if (!fits(this.#total, call, 1) || !fits(tenant, call, 2)) return false;
    const level = this.#levels.get(call.priority) ?? newLevel<Call>();
    this.#levels.set(call.priority, level);
    const lane = this.#laneOf(level, call.tenantKey);
    lane.breaks += breakBetween(lane.calls.at(-1), call);
    lane.calls.push(call);
    lane.rows += rowsOf(call);
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
    const savedMs = Math.max(this.#creditMs(level), head === undefined ? 0 : this.costMs(head));
    lane.hadMs = Math.max(lane.hadMs, level.givenMs - savedMs);
    return true;
  }

  /** The next call, or null. */
  take(): Call | null {
    const level = this.#levels.get(Math.max(...this.#levels.keys()));
    if (level === undefined) return null;
    const creditMs = this.#creditMs(level);
    let next: Lane<Call> | undefined;
    for (const [tenantKey, lane] of level.lanes) {
      if (lane.calls.length > 0) next = next === undefined || this.#order(level, lane, next) < 0 ? lane : next;
      else if (level.givenMs - lane.hadMs >= creditMs) level.lanes.delete(tenantKey);
    }
    const [head] = next?.calls ?? [];
    return next === undefined || head === undefined ? null : this.#serve(level, next, head);
  }

  /**
   * Takes calls in the queue's order, where given of one tenant, as long as `accept` says 'take'; 'skip' leaves this tenant's remaining calls of that priority
   * where they are, 'stop' ends the walk. Of tenants that wait each is sorted once, and found again by its place.
   */
  takeWhile(accept: (call: Call) => Verdict, tenantKey?: string): Call[] {
    const taken: Call[] = [];
    for (const [, level] of [...this.#levels].sort(([a], [b]) => b - a)) {
      // The next is the last, since to take that moves no other.
      const waiting = lanesOf(level, tenantKey).sort((a, b) => this.#order(level, b, a));
      for (let lane = waiting.pop(); lane !== undefined; lane = waiting.pop()) {
        const [head] = lane.calls;
        const verdict = head === undefined ? 'skip' : accept(head);
        if (verdict === 'stop') return taken;
        if (head === undefined || verdict === 'skip') continue;
        taken.push(this.#serve(level, lane, head));
        if (lane.calls.length > 0) waiting.splice(this.#placeOf(level, waiting, lane), 0, lane);
      }
    }
    return taken;
  }

  /**
   * Has the tenants of calls that ran pay `ms` more than was taken for them, each by its own rows; less than nothing is given back. Where nobody waits there is nobody to whom
   * that would matter.
   */
  charge(calls: readonly Call[], ms: number): void {
    const rowMs = ms / calls.reduce((sum, call) => sum + rowsOf(call), 0);
    for (const call of calls) {
      const level = this.#levels.get(call.priority);
      if (level !== undefined) this.#laneOf(level, call.tenantKey).hadMs += rowMs * rowsOf(call);
    }
  }

  /**
   * What runs before a call of this tenant and priority that is added now: all of its tenant and of higher priority, and of each other tenant of its own what it
   * may take until this one may. `part`: of each lane that waits; `laneMs`: what the calls of a lane are expected to take.
   */
  ahead(call: Queued, laneMs: (lane: Lane<Call>) => number): { lane: Lane<Call>; part: number }[] {
    const same = this.#levels.get(call.priority) ?? newLevel<Call>();
    const own = same.lanes.get(call.tenantKey);
    const waits = own !== undefined && own.calls.length > 0;
    const savedMs = same.givenMs - (own?.hadMs ?? Number.NEGATIVE_INFINITY);
    const deficitMs = waits ? savedMs : Math.min(savedMs, this.#creditMs(same));
    const lackingMs = (waits ? laneMs(own) : 0) + this.costMs(call) - deficitMs;
    const parts = waits ? [{ lane: own, part: 1 }] : [];
    for (const [priority, level] of this.#levels) {
      if (priority < call.priority) continue;
      for (const lane of level.lanes.values()) {
        const [head] = lane.calls;
        if (lane === own || head === undefined) continue;
        const firstMs = priority > call.priority ? Number.POSITIVE_INFINITY : lackingMs + level.givenMs - lane.hadMs;
        parts.push({ lane, part: firstMs < this.costMs(head) * SAME ? 0 : Math.min(1, firstMs / laneMs(lane)) });
      }
    }
    return parts;
  }

  /** What a call pays when it is taken. */
  costMs(call: Queued): number {
    return rowsOf(call) * this.rowMs;
  }

  #creditMs({ lanes }: Level<Call>): number {
    return this.rowMs * Math.max(1, Math.min(CREDIT_ROWS.each, Math.floor(CREDIT_ROWS.all / Math.max(1, lanes.size))));
  }

  /** A tenant's lane, which has saved no more than it may if it has no calls. */
  #laneOf(level: Level<Call>, tenantKey: string): Lane<Call> {
    const hadMs = level.givenMs - this.#creditMs(level);
    const known = level.lanes.get(tenantKey);
    const lane = known ?? { tenantKey, calls: [], rows: 0, breaks: 0, hadMs, turn: level.turns++ };
    if (known === undefined) level.lanes.set(tenantKey, lane);
    else if (known.calls.length === 0) known.hadMs = Math.max(known.hadMs, hadMs);
    return lane;
  }

  /**
   * Negative where the first lane is before the second: those that may afford their next call by the largest deficit, then the others by what they lack for it; of
   * equal ones the first in turn.
   */
  #order(level: Level<Call>, one: Lane<Call>, other: Lane<Call>): number {
    return this.#dueMs(level, one) - this.#dueMs(level, other) || one.hadMs - other.hadMs || one.turn - other.turn;
  }

  /** What all have been given when the lane may afford its next call. */
  #dueMs({ givenMs }: Level<Call>, { calls: [head], hadMs }: Lane<Call>): number {
    return head === undefined ? givenMs : Math.max(givenMs, hadMs + this.costMs(head));
  }

  /** Where a lane belongs among others, of which the next is the last. */
  #placeOf(level: Level<Call>, waiting: readonly Lane<Call>[], lane: Lane<Call>): number {
    let low = 0;
    let high = waiting.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const other = waiting[middle];
      if (other !== undefined && this.#order(level, other, lane) > 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Gives the turn to the next tenant; what this one lacks for its call all are given. */
  #serve(level: Level<Call>, lane: Lane<Call>, call: Call): Call {
    lane.hadMs += this.costMs(call);
    lane.turn = level.turns++;
    level.givenMs = Math.max(level.givenMs, lane.hadMs);
    this.#extract(level, lane, call);
    return call;
  }

  #extract(level: Level<Call>, lane: Lane<Call>, call: Call): void {
    const at = lane.calls.indexOf(call);
    const [before, after] = [lane.calls[at - 1], lane.calls[at + 1]];
    lane.breaks += breakBetween(before, after) - breakBetween(before, call) - breakBetween(call, after);
    lane.calls.splice(at, 1);
    lane.rows -= rowsOf(call);
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

const rowsOf = ({ rows }: Queued) => Math.max(1, rows);

function newLevel<Call>(): Level<Call> {
  return { lanes: new Map(), calls: 0, givenMs: 0, turns: 0 };
}

/** Lanes with calls: of one tenant, or all. */
function lanesOf<Call>({ lanes }: Level<Call>, tenantKey: string | undefined): Lane<Call>[] {
  if (tenantKey === undefined) return [...lanes.values()].filter(({ calls }) => calls.length > 0);
  const lane = lanes.get(tenantKey);
  return lane === undefined || lane.calls.length === 0 ? [] : [lane];
}

function breakBetween(one: Queued | undefined, next: Queued | undefined): 0 | 1 {
  if (one === undefined || next === undefined) return 0;
  return one.joinKey !== null && one.joinKey === next.joinKey ? 0 : 1;
}

function fits(load: Load, call: Queued, share: number): boolean {
  return load.calls === 0 || (load.calls < QUEUE_CALLS_MAX / share && load.bytes + call.bytes <= QUEUE_BYTES_MAX / share);
}
