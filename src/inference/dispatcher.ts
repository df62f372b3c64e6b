import { type Joinable, joinInputs, splitOutputs } from './batch.ts';
import { hostMs, type Outcomes, type RunnerStats } from './frames.ts';
import { Pace } from './pace.ts';
import { CallQueue, type Lane, type Queued } from './queue.ts';
import { REFUSES_MS_MAX } from './refusals.ts';
import type { Tensor } from './tensor.ts';

/**
 * How a loaded version may be run. `maxBatchRows` ≥ 1 bounds the rows of joined calls; `fixedRows`: runs that calls may share have so many rows, where need be filled up,
 * null: as many as the calls bring; `runLimitMs` bounds one run.
 */
export type DispatchSettings = { joinable: boolean; shared: boolean; maxBatchRows: number; fixedRows: number | null; runLimitMs: number };

/** Measures of the run that answered a call; `computeMicros` is the call's part of the run time, by rows; that of rows which no call brought is nobody's. */
export type RunMeasures = { queueMs: number; computeMs: number; computeMicros: number; batchRows: number };

/** The queue, or the tenant's half of it, is full; the call would not be answered by its deadline. */
export const OVERLOAD_RULES = ['QUEUE_FULL', 'DEADLINE'] as const;
type OverloadRule = (typeof OVERLOAD_RULES)[number];

/**
 * `forMs`: so long calls of this tenant that ask for no less, with no more priority and time, are refused too; `fatal`: the runner ends itself after this answer, and what still
 * waits has to go elsewhere; `mixed`: calls of several tenants shared the run.
 */
export type Refusal = {
  code: 'OVERLOADED' | 'DEADLINE_EXCEEDED' | 'MODEL_FAILED';
  message: string;
  retryAfterMs?: number;
  forMs?: number;
  fatal?: boolean;
  mixed?: boolean;
  /** Of OVERLOADED, and of MODEL_FAILED by more than the runtime's words: by a bound, which is `limit`. */
  rule?: OverloadRule | 'OUTPUTS';
  limit?: string;
};

/**
 * A call as its connection brought it: `begin` is called when a run takes it, `mixed` where other tenants' calls share that (again when that has to be repeated), then exactly one of
 * `answer` and `refuse`. Times are of this process's monotonic clock.
 */
export type Call = Queued &
  Joinable & {
    arrivedMs: number;
    expiresMs: number;
    begin(mixed: boolean): void;
    answer(outputs: readonly Tensor[], measures: RunMeasures): void;
    refuse(refusal: Refusal): void;
  };

/** The way to the session thread and out of the process. */
export type DispatchPort = {
  /** Starts a run, after the peers were told which calls have begun. Takes over the bytes of `inputs`. */
  run(batch: number, inputs: readonly Tensor[], outputs: readonly string[] | null): void;
  /** Ends this process once the refusals have left it. */
  die(): void;
};

/** `filler`: rows that no call brought, beyond `rows`; `paidMs`: what its tenants paid for it so far; `again`: of a call that failed with others. */
type Run = {
  batch: number;
  calls: readonly Call[];
  mixed: boolean;
  again: boolean;
  rows: number;
  filler: number;
  paidMs: number;
  startedMs: number;
  limit: NodeJS.Timeout;
};

/** Runs, and the rows in all of them. */
type Work = { runs: number; rows: number };

/** The weight of one call in the mean of queue times. */
const QUEUE_MEAN_CALLS = 32;
/** A call is let in where it is expected to be answered within this part of what is left to it: runs differ, and one that is late was in vain. */
const IN_TIME = 0.8;
/**
 * The pace may be wrong by now, so a call that an idle device is not expected to answer in time runs all the same. After one that was late, which nobody pays, its tenant has no other for
 * so long, and for so many times what it took.
 */
const PROBE_AGAIN = { ms: 5_000, runs: 10 };
/** Parts of runs add up to whole ones, but for this. */
const ROUNDING = 1e-6;
const RETRY_AFTER_MS = { min: 10, max: 5_000 };
/** For so long each call of a tenant runs by itself, after one that made the run of others fail. */
const APART_MS = 10_000;

/**
 * Decides what the session thread runs next. An idle session takes a call at once; while it is busy calls gather, and the next run takes as
 * many of them as fit together. A run that fails with several calls is done again call by call, so that nobody fails by another's input; whose input it was
 * shares no run for a while, so that nobody waits for it again and again.
 */
export class Dispatcher {
  readonly #settings: DispatchSettings;
  readonly #port: DispatchPort;
  readonly #queue = new CallQueue<Call>();
  /** Calls of a joined run that failed; each runs again by itself, before all others. */
  #alone: Call[] = [];
  /** Tenants whose calls run by themselves, of the monotonic clock. */
  readonly #apartUntilMs = new Map<string, number>();
  /** By tenant: the last call that was let in against the pace, and when the next one is, of the monotonic clock. */
  readonly #probes = new Map<string, { call: Call; againMs: number }>();
  /** Whose outputs had other rows than a run that was filled up. */
  readonly #unfilled = new WeakSet<Call>();
  #current: Run | null = null;
  #dying = false;
  #batches = 0;
  #meanRunMs = 1;
  /** Of runs from their beginning to their end here: what the threads say to each other counts. */
  readonly #pace = new Pace();
  #meanQueueMs = 0;
  #busyMs = 0;
  #idleSinceMs = hostMs();

  constructor(settings: DispatchSettings, port: DispatchPort) {
    this.#settings = settings;
    this.#port = port;
  }

  /** What it has to do, and how it went of late. */
  get load(): Omit<RunnerStats, keyof Outcomes | 'memoryBytes' | 'peakBytes'> {
    const running = this.#current?.calls.length ?? 0;
    const queued = this.#queue.size + this.#alone.length;
    const idleSinceMs = queued + running > 0 ? null : this.#idleSinceMs;
    return { queued, running, idleSinceMs, busyMs: this.#busyMs, queueMs: this.#meanQueueMs, runMs: this.#meanRunMs };
  }

  /**
   * Queues a call, or refuses it at once: where the queue is full, or the call would not be answered by its deadline; one that nothing runs before is let in against that now and then.
   * It begins with a later `dispatch`.
   */
  accept(call: Call): void {
    const waitMs = this.#expectedWaitMs(call);
    const leftMs = call.expiresMs - performance.now();
    const isFirst = this.#current === null && this.#queue.size === 0;
    // Nobody waits for one that is late on an idle device, so that it has all of its time.
    const spareMs = (isFirst ? 1 : IN_TIME) * leftMs - waitMs;
    const inTime = waitMs === 0 || spareMs > 0;
    const probeInMs = !inTime && isFirst ? this.#probeIn(call) : null;
    if ((inTime || probeInMs === 0) && this.#queue.add(call)) return;
    const retryAfterMs = Math.ceil(probeInMs ?? (inTime ? waitMs : -spareMs));
    const late = isFirst
      ? 'A run of this model takes longer than the deadline.'
      : 'The calls that wait for this model take longer than the deadline.';
    call.refuse({
      code: 'OVERLOADED',
      rule: inTime ? 'QUEUE_FULL' : 'DEADLINE',
      message: inTime ? 'Too many calls of this model wait.' : late,
      retryAfterMs: Math.min(RETRY_AFTER_MS.max, Math.max(RETRY_AFTER_MS.min, retryAfterMs)),
      // The half, so that the queue does not run empty meanwhile.
      forMs: Math.min(waitMs / 2, REFUSES_MS_MAX),
    });
  }

  /** In how many milliseconds a call of this tenant may run against the pace; 0: this one does. */
  #probeIn(call: Call): number {
    const nowMs = performance.now();
    for (const [tenantKey, { againMs }] of this.#probes) if (againMs <= nowMs) this.#probes.delete(tenantKey);
    const last = this.#probes.get(call.tenantKey);
    if (last !== undefined) return last.againMs - nowMs;
    this.#probes.set(call.tenantKey, { call, againMs: nowMs + PROBE_AGAIN.ms });
    return 0;
  }

  /**
   * The rest of the current run, those that are done again, the runs of what comes first, and its own. Of an unknown pace nothing is expected, so the first calls are never refused
   * for it; a mean of runs is no promise, so a call that is let in may be late all the same.
   */
  #expectedWaitMs(call: Call): number {
    if (this.#pace.rowMs === 0) return 0;
    const restMs = this.#current === null ? 0 : this.#restMs(this.#current);
    const againMs = this.#alone.reduce((sum, again) => sum + this.#runsMs({ runs: 1, rows: again.rows }), 0);
    let waitMs = restMs + againMs;
    const joined = new Map<string, Work>();
    const join = (key: string, { runs, rows }: Work) => {
      const work = joined.get(key) ?? { runs: 0, rows: 0 };
      joined.set(key, { runs: work.runs + runs, rows: work.rows + rows });
    };
    for (const { lane, part } of this.#queue.ahead(call, (other) => this.#laneMs(other))) {
      const { runs, rows, key } = this.#workOf(lane);
      // Those that come later fill these runs up.
      if (key !== null && (this.#settings.shared || lane.tenantKey === call.tenantKey)) join(key, { runs: part * runs, rows });
      else waitMs += this.#runsMs({ runs: part * runs, rows: part * rows });
    }
    const { rows } = call;
    if (call.joinKey === null || this.#isApart(call)) waitMs += this.#runsMs({ runs: 1, rows });
    else join(call.joinKey, { runs: 1 / this.#callsOfRun(rows), rows });
    for (const work of joined.values()) {
      const most = Math.ceil(work.runs) * this.#settings.maxBatchRows;
      waitMs += this.#runsMs({ runs: work.runs, rows: Math.min(work.rows, most) });
    }
    return waitMs;
  }

  #restMs({ rows, filler, startedMs }: Run): number {
    return Math.max(0, this.#pace.runMs(rows + filler) - (performance.now() - startedMs));
  }

  /** What the calls of a tenant take that wait: by themselves, unless those of others that may be joined with them bear their parts of it. */
  #laneMs(lane: Lane<Call>): number {
    const { runs, rows, key } = this.#workOf(lane);
    if (!this.#settings.shared || key === null) return this.#runsMs({ runs, rows });
    return runs * this.#pace.runMs(this.#rowsOfRun(rows / runs));
  }

  /** What is begun of a run is run to its end. */
  #runsMs({ runs, rows }: Work): number {
    const whole = Math.max(1, Math.ceil(runs - ROUNDING));
    return runs === 0 ? 0 : whole * this.#pace.runMs(this.#rowsOfRun(rows / whole));
  }

  /** Runs that the calls of a tenant need, as parts of full ones where all may be joined, which is by `key`. */
  #workOf({ calls, rows, breaks }: Lane<Call>): Work & { key: string | null } {
    const [first] = calls;
    if (first === undefined || this.#isApart(first)) return { runs: calls.length, rows, key: null };
    const full = calls.length / this.#callsOfRun(rows / calls.length);
    return breaks === 0 ? { runs: full, rows, key: first.joinKey } : { runs: Math.max(breaks + 1, full), rows, key: null };
  }

  #callsOfRun(rowsOfCall: number): number {
    return Math.max(1, Math.floor(this.#settings.maxBatchRows / Math.max(1, rowsOfCall)));
  }

  #rowsOfRun(rows: number): number {
    return Math.max(rows, this.#settings.fixedRows ?? 0);
  }

  /** Forgets a call that waits, and whether it did; one that runs goes on, because others may share the run. */
  cancel(call: Call): boolean {
    if (this.#queue.remove(call)) return true;
    const others = this.#alone.filter((other) => other !== call);
    const waited = others.length < this.#alone.length;
    this.#alone = others;
    return waited;
  }

  /** Begins the next run if none is under way. */
  dispatch(): void {
    if (this.#current !== null || this.#dying) return;
    const chosen = this.#next();
    if (chosen === null) return;
    const calls = chosen.mayJoin ? [chosen.call, ...this.#companions(chosen.call)] : [chosen.call];
    const rows = calls.reduce((sum, call) => sum + call.rows, 0);
    const isFilled = chosen.call.joinKey !== null && !this.#unfilled.has(chosen.call);
    const filler = isFilled ? Math.max(0, (this.#settings.fixedRows ?? 0) - rows) : 0;
    const limit = setTimeout(() => this.#overrun(), this.#settings.runLimitMs);
    const mixed = calls.some(({ tenantKey }) => tenantKey !== chosen.call.tenantKey);
    const { again } = chosen;
    // What is done again was paid for the first time.
    const paidMs = again ? 0 : calls.reduce((sum, call) => sum + this.#queue.costMs(call), 0);
    this.#current = { batch: ++this.#batches, calls, mixed, again, rows, filler, paidMs, startedMs: performance.now(), limit };
    for (const call of calls) {
      this.#meanQueueMs += (this.#current.startedMs - call.arrivedMs - this.#meanQueueMs) / QUEUE_MEAN_CALLS;
      call.begin(mixed);
    }
    this.#port.run(this.#batches, joinInputs(calls, filler), chosen.call.outputs);
  }

  /** The session thread's outputs of a run. */
  ran(batch: number, outputs: readonly Tensor[], runMs: number): void {
    if (this.#current?.batch !== batch) return;
    this.#meanRunMs += (runMs - this.#meanRunMs) / 8;
    const { calls, filler } = this.#current;
    const parts = splitOutputs(calls, outputs, filler);
    if (parts === null) for (const call of calls) this.#unfilled.add(call);
    // The next run begins before these outputs are sent: the session thread is what callers wait for.
    const run = this.#finish(this.#current, { repeat: parts === null, answered: true });
    if (run !== null && parts !== null) answer(run, parts, runMs);
  }

  /** The session thread's refusal of a run. */
  failed(batch: number, message: string): void {
    if (this.#current?.batch !== batch) return;
    if (this.#current.again) this.#setApart(this.#current.calls);
    const run = this.#finish(this.#current, { repeat: this.#current.calls.length > 1, answered: false });
    for (const call of run?.calls ?? []) call.refuse({ code: 'MODEL_FAILED', message });
  }

  /** The next call that is still in time. */
  #next(): { call: Call; mayJoin: boolean; again: boolean } | null {
    for (;;) {
      const again = this.#alone.shift();
      const call = again ?? this.#queue.take();
      if (call === null) return null;
      const mayJoin = again === undefined && call.joinKey !== null && !this.#isApart(call);
      if (performance.now() < call.expiresMs) return { call, mayJoin, again: again !== undefined };
      call.refuse({ code: 'DEADLINE_EXCEEDED', message: 'The deadline passed while the call waited.' });
    }
  }

  /** Calls that run with `first`, up to the batch limit. */
  #companions(first: Call): Call[] {
    const { shared, maxBatchRows } = this.#settings;
    const nowMs = performance.now();
    let rows = first.rows;
    if (rows >= maxBatchRows) return [];
    return this.#queue.takeWhile(
      (call) => {
        if (rows >= maxBatchRows) return 'stop';
        const fits = call.joinKey === first.joinKey && rows + call.rows <= maxBatchRows && nowMs < call.expiresMs;
        if (!fits || this.#isApart(call)) return 'skip';
        rows += call.rows;
        return 'take';
      },
      shared ? undefined : first.tenantKey,
    );
  }

  #setApart(calls: readonly Call[]): void {
    const nowMs = performance.now();
    for (const [tenantKey, untilMs] of this.#apartUntilMs) if (untilMs <= nowMs) this.#apartUntilMs.delete(tenantKey);
    for (const { tenantKey } of calls) this.#apartUntilMs.set(tenantKey, nowMs + APART_MS);
  }

  #isApart({ tenantKey }: Call): boolean {
    const untilMs = this.#apartUntilMs.get(tenantKey);
    return untilMs !== undefined && performance.now() < untilMs;
  }

  /** Calls of a tenant go on to be let in against the pace until one is late. */
  #endProbes(calls: readonly Call[], tookMs: number): void {
    const nowMs = performance.now();
    for (const call of calls) {
      if (this.#probes.get(call.tenantKey)?.call !== call) continue;
      if (nowMs < call.expiresMs) this.#probes.delete(call.tenantKey);
      else this.#probes.set(call.tenantKey, { call, againMs: nowMs + Math.max(PROBE_AGAIN.ms, PROBE_AGAIN.runs * tookMs) });
    }
  }

  #overrun(): void {
    const message = `The model exceeded its run limit of ${this.#settings.runLimitMs} ms.`;
    const { calls = [], mixed = false } = this.#current ?? {};
    for (const call of calls) call.refuse({ code: 'MODEL_FAILED', message, fatal: true, mixed });
    this.#current = null;
    this.#dying = true;
    this.#port.die();
  }

  /** Ends the run and begins the next one; null where it has to be repeated call by call. */
  #finish(run: Run, { repeat, answered }: { repeat: boolean; answered: boolean }): Run | null {
    clearTimeout(run.limit);
    this.#current = null;
    this.#idleSinceMs = hostMs();
    const tookMs = performance.now() - run.startedMs;
    this.#busyMs += tookMs;
    const sizeRows = run.rows + run.filler;
    // A run that fails soon says nothing of those that answer.
    if (answered || tookMs > this.#pace.runMs(sizeRows)) this.#pace.add(sizeRows, tookMs);
    this.#queue.charge(run.calls, tookMs - run.paidMs);
    if (this.#probes.size > 0) this.#endProbes(run.calls, tookMs);
    if (this.#pace.rowMs > 0) this.#queue.rowMs = this.#pace.rowMs;
    if (repeat) this.#alone.push(...run.calls);
    this.dispatch();
    return repeat ? null : run;
  }
}

function answer({ calls, rows, filler, startedMs }: Run, parts: readonly (readonly Tensor[])[], runMs: number): void {
  calls.forEach((call, index) => {
    const share = rows === 0 ? 1 : call.rows / (rows + filler);
    const computeMicros = Math.round(runMs * 1000 * share);
    call.answer(parts[index] ?? [], { queueMs: startedMs - call.arrivedMs, computeMs: runMs, computeMicros, batchRows: rows });
  });
}
