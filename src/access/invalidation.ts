import { AsyncLocalStorage } from 'node:async_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock } from '../base/clock.ts';
import { asSystem, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { newId } from '../base/ids.ts';
import { LIMITS } from '../base/limits.ts';
import type { Log } from '../base/log.ts';
import { beatHeart, invalidationsAfter, isAwaited, lastInvalidation, type Notice, prune, register, signOff } from './process-rows.ts';

export type InvalidationKind = 'api_key' | 'listing' | 'subscription' | 'usage_limit' | 'pin';

/** What server processes remember of the database, and how a writer makes all of them forget it. */
export type Invalidations = {
  /**
   * Inside the writer's transaction and as its last statement (a lock keeps other writers waiting until the commit): tells every process to
   * forget the subjects. Returns the last sequence number; 0 for no subject.
   */
  publish(tx: Tx, kind: InvalidationKind, subjectIds: readonly string[]): Promise<bigint>;
  /**
   * After the commit: resolves when every live process has forgotten up to `seq`. One without a heartbeat for a lease is not waited for.
   * @throws OVERLOADED where one is alive and holds an answer for longer than any call may take
   */
  confirmed(seq: bigint): Promise<void>;
  /** As `confirmed`, for all that was committed before: who has read a change in the database may rely on every process to know it. */
  caughtUp(): Promise<void>;
  /**
   * `forget` is called for each subject, must drop what is remembered before it first awaits, and may then take its time: this process confirms
   * only when it has resolved. One that throws is called again.
   */
  on(kind: InvalidationKind, forget: (subjectId: string) => void | Promise<void>): void;
  /**
   * Whether memory may be trusted: this process heard from the database within a lease, and whatever others no longer wait for is forgotten.
   * From it follows: while this is true, every change whose `confirmed` has resolved anywhere is forgotten here.
   */
  isFresh(): boolean;
  /** Asks the database now instead of at the next heartbeat; resolves within a lease, whatever comes of it. */
  refresh(): Promise<void>;
};

type Options = { db: Database; log: Log; clock: Clock; manual: boolean };

/** Finds within this time what a lost NOTIFY did not tell, four times in a lease. */
const BEAT_MS = 500;
const PRUNE_MS = 60_000;
/** The longest deadline, and what its settlement may take. */
const CONFIRM_MS_MAX = LIMITS.deadlineMsMax + 30_000;
const POLL_MS_MIN = 5;
const POLL_MS_MAX = 20;

/** Registers this process and starts its heartbeat; disposing signs it off. */
export async function openInvalidations(options: Options): Promise<Heart> {
  const processId = newId();
  const heart = new Heart(options, processId, await asSystem(options.db, (tx) => register(tx, processId)));
  await heart.beat();
  if (!options.manual) await heart.start();
  return heart;
}

export class Heart implements Invalidations, AsyncDisposable {
  readonly processId: string;
  private readonly db: Database;
  private readonly log: Log;
  private readonly clock: Clock;
  private readonly handlers = new Map<string, ((subjectId: string) => void | Promise<void>)[]>();
  /** PGlite hears a NOTIFY in the context of whoever committed, where a transaction may count as open. */
  private readonly outside = AsyncLocalStorage.snapshot();
  private seen: bigint;
  private applied: bigint;
  private applying = 0;
  private lastApplied: Promise<unknown> = Promise.resolve();
  private freshFromMs = Number.NEGATIVE_INFINITY;
  private prunedMs = Number.NEGATIVE_INFINITY;
  private running: Promise<unknown> = Promise.resolve();
  private queued: Promise<void> | null = null;
  private timer: NodeJS.Timeout | null = null;
  private failing = false;
  private forgotten = false;
  private closed = false;

  constructor({ db, log, clock }: Options, processId: string, seq: bigint) {
    this.db = db;
    this.log = log;
    this.clock = clock;
    this.processId = processId;
    this.seen = seq;
    this.applied = seq;
  }

  async start(): Promise<void> {
    this.schedule();
    await this.db.listen('mercato_invalidation', () => this.nudge());
  }

  async publish(tx: Tx, kind: InvalidationKind, subjectIds: readonly string[]): Promise<bigint> {
    if (subjectIds.length === 0) return 0n;
    const [row] = await tx.$queryRaw<{ seq: bigint }[]>`select mercato_invalidate(${kind}, ${[...subjectIds]}::uuid[]) as seq`;
    return row?.seq ?? 0n;
  }

  async confirmed(seq: bigint): Promise<void> {
    this.nudge();
    const giveUpMs = this.clock.monotonicMs() + CONFIRM_MS_MAX;
    for (let waitMs = POLL_MS_MIN; await asSystem(this.db, (tx) => isAwaited(tx, seq)); waitMs = Math.min(waitMs * 2, POLL_MS_MAX)) {
      if (this.clock.monotonicMs() > giveUpMs) {
        throw new MercatoError('OVERLOADED', 'It is done, but a server has not confirmed it yet; ask again to be sure.', {
          retryAfterMs: 1_000,
        });
      }
      await sleep(waitMs);
    }
  }

  async caughtUp(): Promise<void> {
    await this.confirmed(await asSystem(this.db, lastInvalidation));
  }

  async refresh(): Promise<void> {
    const limit = sleep(LIMITS.leaseMs, undefined, { ref: false });
    await Promise.race([this.beat().catch(() => undefined), limit]);
  }

  on(kind: InvalidationKind, forget: (subjectId: string) => void | Promise<void>): void {
    this.handlers.set(kind, [...(this.handlers.get(kind) ?? []), forget]);
  }

  isFresh(): boolean {
    return this.clock.monotonicMs() - this.freshFromMs < LIMITS.leaseMs;
  }

  /** One heartbeat that starts after this call: joins the one that waits for its turn, else queues one. */
  beat(): Promise<void> {
    return this.outside(() => {
      this.queued ??= this.running.then(() => {
        this.queued = null;
        return this.closed || this.forgotten ? undefined : this.beatOnce();
      });
      this.running = this.queued.catch(() => undefined);
      return this.queued;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.closed = true;
    if (this.timer) clearTimeout(this.timer);
    await this.running;
    this.freshFromMs = Number.NEGATIVE_INFINITY;
    await asSystem(this.db, (tx) => signOff(tx, this.processId)).catch((error: unknown) => this.report(error));
  }

  /**
   * Two transactions, not one: whoever saw this process as dead did so before the first committed, so its invalidation was committed before
   * the second began, which reads it. In one transaction it could commit between the two and be missed.
   */
  private async beatOnce(): Promise<void> {
    const startMs = this.clock.monotonicMs();
    if (!(await asSystem(this.db, (tx) => beatHeart(tx, this.processId, this.applied)))) return this.stopTrusting();
    const notices = await asSystem(this.db, (tx) => invalidationsAfter(tx, this.seen));
    this.apply(notices);
    // After a lapse others did not wait for the handlers that still run, so memory is trusted again only behind them.
    if (this.isFresh() || this.applying === 0) this.freshFromMs = startMs;
    if (this.failing) this.log.info('the database answers heartbeats again');
    this.failing = false;
    if (startMs - this.prunedMs < PRUNE_MS) return;
    await asSystem(this.db, prune);
    this.prunedMs = startMs;
  }

  /** Handlers drop their memory before this returns; the process confirms when all have resolved, in order. */
  private apply(notices: readonly Notice[]): void {
    const last = notices.at(-1);
    if (!last) return;
    this.seen = last.seq;
    this.applying++;
    const forgotten = notices.map((notice) => this.forget(notice));
    this.lastApplied = Promise.all([this.lastApplied, ...forgotten]).then(() => {
      this.applied = last.seq;
      this.applying--;
      this.nudge();
    });
  }
  private async forget({ kind, subjectId }: Notice): Promise<void> {
    while (!this.closed) {
      try {
        await Promise.all((this.handlers.get(kind) ?? []).map((forget) => forget(subjectId)));
        return;
      } catch (error) {
        this.log.error({ err: error, kind, subjectId }, 'could not forget; trying again');
        await sleep(BEAT_MS, undefined, { ref: false });
      }
    }
  }

  /** This process was silent for so long that others removed it, and perhaps what it should have heard: it reads the database from now on. */
  private stopTrusting(): void {
    this.forgotten = true;
    this.freshFromMs = Number.NEGATIVE_INFINITY;
    this.log.error({ processId: this.processId }, 'was cut off for too long: memory is not trusted any more; restart this process');
  }

  private nudge(): void {
    if (!this.closed) this.beat().catch((error: unknown) => this.report(error));
  }

  private schedule(): void {
    this.timer = setTimeout(() => {
      this.beat()
        .catch((error: unknown) => this.report(error))
        .finally(() => {
          if (!this.closed) this.schedule();
        });
    }, BEAT_MS);
  }

  private report(error: unknown): void {
    if (!this.failing) this.log.warn({ err: error }, 'a heartbeat failed; trying on');
    this.failing = true;
  }
}
