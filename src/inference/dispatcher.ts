import { type Joinable, joinInputs, splitOutputs } from './batch.ts';
import { hostMs, type Outcomes, type RunnerStats } from './frames.ts';
import { CallQueue, type Queued } from './queue.ts';
import { REFUSES_MS_MAX } from './refusals.ts';
import type { Tensor } from './tensor.ts';

/**
 * How a loaded version may be run. `maxBatchRows` ≥ 1 bounds the rows of joined calls; `fixedRows`: runs that calls may share have so many rows, where need be filled up,
 * null: as many as the calls bring; `runLimitMs` bounds one run.
 */
export type DispatchSettings = { joinable: boolean; shared: boolean; maxBatchRows: number; fixedRows: number | null; runLimitMs: number };

/** Measures of the run that answered a call; `computeMicros` is the call's part of the run time, by rows; that of rows which no call brought is nobody's. */
export type RunMeasures = { queueMs: number; computeMs: number; computeMicros: number; batchRows: number };

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
  /** MODEL_FAILED by more than the runtime's words: by a bound, which is `limit`. */
  rule?: 'OUTPUTS';
  limit?: string;
};

/**
 * A call as its connection brought it: `begin` is called when a run takes it, `mixed` where other tenants' calls share that (again when that has to be repeated), then exactly one of
 * `answer` and `refuse`. Times are of this process's monotonic clock.
 */
export type Call = Queued &
  Joinable & {
    /** Calls of equal keys may run as one; null: alone. */
    joinKey: string | null;
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

/** `filler`: rows that no call brought, beyond `rows`; `again`: of a call that failed with others. */
type Run = {
  batch: number;
  calls: readonly Call[];
  mixed: boolean;
  again: boolean;
  rows: number;
  filler: number;
  startedMs: number;
  limit: NodeJS.Timeout;
};

/** The weight of one call in the mean of queue times. */
const QUEUE_MEAN_CALLS = 32;
/** A call is let in where it is expected to be answered within this part of what is left to it: runs differ, and one that is late was in vain. */
const IN_TIME = 0.8;
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
  /** Whose outputs had other rows than a run that was filled up. */
  readonly #unfilled = new WeakSet<Call>();
  #current: Run | null = null;
  #dying = false;
  #batches = 0;
  #meanRunMs = 1;
  /** From the beginning of a run to that of the next, where calls waited: what is done between runs counts. */
  #meanTurnMs = 0;
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

  /** Queues a call, or refuses it at once: where the queue is full, or the call would still wait at its deadline. It begins with a later `dispatch`. */
  accept(call: Call): void {
    const waitMs = this.#expectedWaitMs(call);
    const leftMs = call.expiresMs - performance.now();
    const inTime = waitMs === 0 || waitMs < IN_TIME * leftMs;
    if (inTime && this.#queue.add(call)) return;
    const retryAfterMs = Math.min(RETRY_AFTER_MS.max, Math.max(RETRY_AFTER_MS.min, Math.ceil(inTime ? waitMs : waitMs - IN_TIME * leftMs)));
    const message = inTime ? 'Too many calls of this model wait.' : 'The calls that wait for this model take longer than the deadline.';
    // The half, so that the queue does not run empty meanwhile.
    call.refuse({ code: 'OVERLOADED', message, retryAfterMs, forMs: Math.min(waitMs / 2, REFUSES_MS_MAX) });
  }

  /**
   * The rest of the current run, those that are done again, the runs of what comes first, and its own. Of an unknown pace nothing is expected, so the first calls are never refused
   * for it; a mean of runs is no promise, so a call that is let in may be late all the same.
   */
  #expectedWaitMs(call: Call): number {
    if (this.#busyMs === 0 || this.#current === null) return 0;
    const turnMs = Math.max(this.#meanRunMs, this.#meanTurnMs);
    const restMs = Math.max(0, turnMs - (performance.now() - this.#current.startedMs));
    const parts = this.#queue.ahead(call);
    const { joinable, shared, maxBatchRows } = this.#settings;
    const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
    const runs = !joinable
      ? sum(parts.map(({ calls }) => calls))
      : shared
        ? Math.floor(sum(parts.map(({ rows }) => rows)) / maxBatchRows)
        : sum(parts.map(({ rows }, index) => (index === 0 ? Math.floor(rows / maxBatchRows) : Math.ceil(rows / maxBatchRows))));
    return restMs + (this.#alone.length + runs + 1) * turnMs;
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
    this.#current = { batch: ++this.#batches, calls, mixed, again, rows, filler, startedMs: performance.now(), limit };
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
    const run = this.#finish(this.#current, parts === null);
    if (run !== null && parts !== null) answer(run, parts, runMs);
  }

  /** The session thread's refusal of a run. */
  failed(batch: number, message: string): void {
    if (this.#current?.batch !== batch) return;
    if (this.#current.again) this.#setApart(this.#current.calls);
    const run = this.#finish(this.#current, this.#current.calls.length > 1);
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
    return this.#queue.takeWhile((call) => {
      if (rows >= maxBatchRows) return 'stop';
      const fits = call.joinKey === first.joinKey && rows + call.rows <= maxBatchRows && nowMs < call.expiresMs;
      if (!fits || (!shared && call.tenantKey !== first.tenantKey) || this.#isApart(call)) return 'skip';
      rows += call.rows;
      return 'take';
    });
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

  #overrun(): void {
    const message = `The model exceeded its run limit of ${this.#settings.runLimitMs} ms.`;
    const { calls = [], mixed = false } = this.#current ?? {};
    for (const call of calls) call.refuse({ code: 'MODEL_FAILED', message, fatal: true, mixed });
    this.#current = null;
    this.#dying = true;
    this.#port.die();
  }

  /** Ends the run and begins the next one; null where it has to be repeated call by call. */
  #finish(run: Run, repeat: boolean): Run | null {
    clearTimeout(run.limit);
    this.#current = null;
    this.#idleSinceMs = hostMs();
    this.#busyMs += performance.now() - run.startedMs;
    if (repeat) this.#alone.push(...run.calls);
    this.dispatch();
    const next = this.#current as Run | null;
    if (next !== null) this.#meanTurnMs += (next.startedMs - run.startedMs - this.#meanTurnMs) / 8;
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
