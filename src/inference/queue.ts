/** What the queue knows of a call. `priority`: higher first; `bytes`: of its inputs; `rows`: what it costs of a tenant's turn. */
export type Queued = { tenantKey: string; priority: number; bytes: number; rows: number };

/** Bounds of one queue. A tenant may fill half of each, so that one alone cannot keep the others out. */
export const QUEUE_CALLS_MAX = 4096;
export const QUEUE_BYTES_MAX = 512 * 1024 * 1024;

type Load = { calls: number; bytes: number };
type Verdict = 'take' | 'skip' | 'stop';
/** The calls of one tenant within one priority, the rows of these, and the rows that it may take before its next turn; below 0 what it took too early. */
type Lane<Call> = { calls: Call[]; rows: number; deficit: number };
/**
 * Lanes by tenant; the order of the keys is the order of turns. `fresh` are those of tenants that come back after a whole round without a call.
 * In `turns` a lane without calls keeps its place until its turn has come.
 */
type Level<Call> = { fresh: Map<string, Lane<Call>>; turns: Map<string, Lane<Call>>; calls: number };

/**
 * Waiting calls: the highest priority first; within one priority the tenants take turns, so that each gets as many rows as the others, whatever the
 * size of its calls; within one tenant the oldest first. By deficit round robin (Shreedhar and Varghese, 1995) with a quantum of one row. The first call of
 * a tenant that asks rarely does not wait for those that always ask (new flows, RFC 8290); what it takes is counted, so that nobody gets more by it.
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
    const level: Level<Call> = this.#levels.get(call.priority) ?? { fresh: new Map(), turns: new Map(), calls: 0 };
    this.#levels.set(call.priority, level);
    let lane = laneOf(level, call.tenantKey);
    if (lane === undefined) {
      lane = { calls: [], rows: 0, deficit: 0 };
      level.fresh.set(call.tenantKey, lane);
    }
    lane.calls.push(call);
    lane.rows += call.rows;
    level.calls++;
    this.#count(call, 1);
    return true;
  }

  /** False where the call no longer waits. */
  remove(call: Call): boolean {
    const level = this.#levels.get(call.priority);
    const lane = level && laneOf(level, call.tenantKey);
    if (level === undefined || lane?.calls.includes(call) !== true) return false;
    this.#extract(level, lane, call);
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
   * What runs before a call of this tenant and priority that is added now: all of higher priority, and of each other tenant of its own no more
   * than it has itself by then; before the first call of a fresh tenant only fresh ones. By tenant, in rows and in calls; its own are the first.
   */
  ahead({ tenantKey, priority, rows }: Queued): { rows: number; calls: number }[] {
    const same = this.#levels.get(priority);
    const own = same && laneOf(same, tenantKey);
    const mine = { rows: own?.rows ?? 0, calls: own?.calls.length ?? 0 };
    const parts = [mine];
    for (const [level, { fresh, turns }] of this.#levels) {
      if (level > priority)
        for (const lane of [...fresh.values(), ...turns.values()]) parts.push({ rows: lane.rows, calls: lane.calls.length });
    }
    const before = [...(same?.fresh ?? []), ...(own === undefined ? [] : (same?.turns ?? []))];
    for (const [tenant, lane] of before) {
      if (tenant === tenantKey) continue;
      parts.push({ rows: Math.min(lane.rows, mine.rows + rows), calls: Math.min(lane.calls.length, mine.calls + 1) });
    }
    return parts;
  }

  /** Gives the turn to the next tenant. */
  #serve(level: Level<Call>, lane: Lane<Call>, call: Call): Call {
    lane.deficit -= costOf(call);
    level.fresh.delete(call.tenantKey);
    level.turns.delete(call.tenantKey);
    level.turns.set(call.tenantKey, lane);
    this.#extract(level, lane, call);
    return call;
  }

  #extract(level: Level<Call>, lane: Lane<Call>, call: Call): void {
    lane.calls.splice(lane.calls.indexOf(call), 1);
    lane.rows -= call.rows;
    level.calls--;
    if (lane.calls.length === 0) level.fresh.delete(call.tenantKey);
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

const costOf = ({ rows }: Queued) => Math.max(1, rows);

function laneOf<Call>({ fresh, turns }: Level<Call>, tenantKey: string): Lane<Call> | undefined {
  return fresh.get(tenantKey) ?? turns.get(tenantKey);
}

/**
 * Of the lanes that are not skipped the first fresh one, else the first in turn that may afford its next call; where none can, all are given as many rounds
 * as the nearest needs.
 */
function nextLane<Call extends Queued>(level: Level<Call>, skipped: ReadonlySet<Lane<Call>>): Lane<Call> | undefined {
  for (const lane of level.fresh.values()) if (!skipped.has(lane)) return lane;
  dropIdle(level);
  let rounds = Number.POSITIVE_INFINITY;
  let nearest: Lane<Call> | undefined;
  for (const lane of level.turns.values()) {
    const [head] = lane.calls;
    if (head === undefined || skipped.has(lane)) continue;
    const lacking = costOf(head) - lane.deficit;
    if (lacking <= 0) return lane;
    if (lacking >= rounds) continue;
    rounds = lacking;
    nearest = lane;
  }
  if (nearest === undefined) return undefined;
  for (const lane of [...level.fresh.values(), ...level.turns.values()]) {
    lane.deficit += rounds;
    if (lane.calls.length === 0) lane.deficit = Math.min(0, lane.deficit);
  }
  return nearest;
}

/** Lanes without calls whose turn has come, and that owe nothing. */
function dropIdle<Call>({ turns }: Level<Call>): void {
  for (const [tenant, { calls, deficit }] of turns) {
    if (calls.length > 0 || deficit < 0) return;
    turns.delete(tenant);
  }
}

function fits(load: Load, call: Queued, share: number): boolean {
  return load.calls === 0 || (load.calls < QUEUE_CALLS_MAX / share && load.bytes + call.bytes <= QUEUE_BYTES_MAX / share);
}
