import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { MercatoError } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import { type DeviceMemory, type Footprint, kindOf, type MemoryBudget, sumOf } from './budget.ts';
import { hostMs, type RunnerStats } from './frames.ts';
import type { Runner } from './runner-process.ts';

/**
 * A runner that takes memory: `footprint` is what it is expected to take, `stats` what its process tells, `deviceBytes` what its device does, null where that is
 * not known; `deviceBytesMax`: a replica that holds more ends where its device is full.
 */
export type Holder = { runner: Runner; footprint: Footprint; stats: RunnerStats; deviceBytes: number | null; deviceBytesMax: number };
/** `owner`: whose version it is. */
export type Replica = Holder & { partlyOnCpu: boolean; owner: string };

/** Who has room now. */
type Occupants = {
  replicas(): readonly Replica[];
  /** Those of checks. */
  loans(): readonly Holder[];
  /** Asks all how they are. */
  ask(): Promise<void>;
  /** Those beyond what stays, by what they last told: the idle first, of these the one that was called the longest ago. */
  mayEnd(): readonly Replica[];
  /** Ends it when it has answered what it was asked, or after `limitMs` all the same. */
  retire(replica: Replica, limitMs?: number): Promise<void>;
};

/** `kinds`: where it may be, in order; of a kind of device on the first with room. `owner`: of a replica's version; null: nobody's, as of one that the operator keeps loaded; `isReplica`: it takes one of the host's places for those. */
type Wish = {
  kinds: readonly (readonly Footprint[])[];
  owner: string | null;
  isReplica: boolean;
  waitMs: number;
  mayEvict(): boolean;
  refusal: string;
};
type Choice = { footprint: Footprint; ends: readonly Replica[] };
/** Who may be ended for it; `busyToo`: not the idle alone. */
type Means = { mayEnd: readonly Replica[]; busyToo: boolean };
/** How much of something these take. */
type Measure = (taken: readonly Footprint[]) => number;

const countOf: Measure = (taken) => taken.length;

const WAIT_MS = 2_000;
/** Who waits for loads of its own owner waits longer: as for a call, where nothing else is said. */
const OWN_WAIT_MS = LIMITS.deadlineMsDefault;
/** Loans at once, which have half of the host's memory, or one alone; of each is a processor busy. */
const LOANS_MAX = Math.max(2, availableParallelism());
/** Room is taken from a busy replica where so long none was idle; its runs may take as long to end. */
const BUSY_WAIT_MS = 500;
const BUSY_END_MS = 1_000;
/** A replica that was called so lately ends for no check, and for none of an owner that has more. */
const IN_USE_MS = 10_000;
/** A check of a model has more patience than a call. */
const LOAN_WAIT_MS = 30_000;
/** While it waits for other checks alone: with the time of a check less than its job may take. */
const TURN_WAIT_MS = 100_000;
const LOOK_MS = 50;
const RETRY_AFTER_MS = 1_000;

/**
 * Makes room for what is to be loaded, where need be by ending replicas; those only where that is enough. Nobody waits for who finds no room.
 *
 * First end the idle. Busy ones end for a version of another owner, where theirs holds more, of the places or the memory that it takes, than that owner would; so who asks as much as another comes to
 * have as much, and nobody takes back what was taken from it. Loads cannot be ended, so one owner's have half of the places at most.
 */
export class Room {
  readonly #budget: MemoryBudget;
  readonly #replicasMax: number;
  readonly #occupants: Occupants;
  /** Told to end for somebody who has the promise of their room. */
  readonly #ending = new Set<Replica>();
  /** Loans that wait for others to end, in order. */
  readonly #waiting = new Set<Wish>();
  #asking: Promise<void> | null = null;

  constructor(budget: MemoryBudget, replicasMax: number, occupants: Occupants) {
    this.#budget = budget;
    this.#replicasMax = replicasMax;
    this.#occupants = occupants;
  }

  /**
   * Promises a replica room for one of `footprints`, in order; on a device of another kind only where the one before has none. OVERLOADED after 2 s, or at once while
   * it may not evict.
   */
  forReplica(place: symbol, owner: string | null, footprints: readonly Footprint[], mayEvict: () => boolean): Promise<Footprint> {
    const kinds = Map.groupBy(footprints, ({ device }) => kindOf(device)).values();
    return this.#take(place, {
      kinds: [...kinds],
      owner,
      isReplica: true,
      waitMs: WAIT_MS,
      mayEvict,
      refusal: 'Every place for a model is busy.',
    });
  }

  /** Promises room to a runner that serves nobody. OVERLOADED after 30 s without memory, or 100 s while there are as many as may be. */
  async forLoan(place: symbol, footprint: Footprint): Promise<void> {
    const refusal = 'There is no room to check a model in.';
    const wish = { kinds: [[footprint]], owner: null, isReplica: false, waitMs: LOAN_WAIT_MS, mayEvict: () => true, refusal };
    await this.#take(place, wish).finally(() => this.#waiting.delete(wish));
  }

  async #take(place: symbol, wish: Wish): Promise<Footprint> {
    const askedMs = performance.now();
    let startMs = askedMs;
    for (;;) {
      if (wish.mayEvict() && !wish.kinds[0]?.some((footprint) => this.#lacking(footprint, wish, []) === null)) await this.#ask();
      const isTurn = wish.isReplica || this.#isTurn(wish);
      if (!isTurn) startMs = performance.now();
      const waitedMs = performance.now() - startMs;
      const isLate = isTurn ? waitedMs > (this.#loadsEnough(wish) ? OWN_WAIT_MS : wish.waitMs) : performance.now() - askedMs > TURN_WAIT_MS;
      const mayEnd = wish.mayEvict() ? this.#occupants.mayEnd() : [];
      const choice =
        !isTurn || this.#loadsEnough(wish) || this.#lentEnough(wish)
          ? null
          : this.#choose(wish, { mayEnd, busyToo: wish.isReplica && waitedMs > BUSY_WAIT_MS });
      if (choice !== null) {
        // Before those that end are gone: their room is nobody else's.
        this.#budget.promise(place, choice.footprint, wish);
        if (await this.#end(choice.ends)) return choice.footprint;
        this.#budget.release(place);
      }
      if (!wish.mayEvict() || isLate)
        throw new MercatoError('OVERLOADED', wish.refusal, { rule: 'NO_PLACE', retryAfterMs: RETRY_AFTER_MS });
      await sleep(LOOK_MS);
    }
  }

  /** Many may wait: they share an asking that is under way. */
  #ask(): Promise<void> {
    this.#asking ??= this.#occupants.ask().finally(() => {
      this.#asking = null;
    });
    return this.#asking;
  }

  #loadsEnough({ isReplica, owner }: Wish): boolean {
    return isReplica && owner !== null && this.#budget.promisedTo(owner).length >= Math.max(1, this.#replicasMax / 2);
  }

  #lent(): Footprint[] {
    return [...this.#occupants.loans().map(held), ...this.#budget.promisedLoans];
  }

  /** Whether there is a loan more for it, besides those that wait for one longer. */
  #isTurn(wish: Wish): boolean {
    const waiting = [...this.#waiting];
    const before = waiting.includes(wish) ? waiting.indexOf(wish) : waiting.length;
    const isTurn = this.#lent().length + before < LOANS_MAX;
    if (isTurn) this.#waiting.delete(wish);
    else this.#waiting.add(wish);
    return isTurn;
  }

  #lentEnough({ isReplica, kinds }: Wish): boolean {
    const lent = this.#lent();
    const bytes = sumOf([...lent, ...(kinds[0] ?? [])], 'bytes');
    return !isReplica && lent.length > 0 && bytes > this.#budget.memoryOf('cpu').memoryBytesMax / 2;
  }

  #choose(wish: Wish, means: Means): Choice | null {
    for (const kind of wish.kinds) {
      const choices = kind.map((footprint) => ({ footprint, ends: this.#whoseEndMakesRoom(footprint, wish, means) }));
      const [best] = choices.filter((choice): choice is Choice => choice.ends !== null).toSorted((a, b) => a.ends.length - b.ends.length);
      if (best !== undefined) return best;
    }
    return null;
  }

  /** Those whose end makes room for `footprint`; null where that of all does not. Where the host has room, it takes those on its device. */
  #whoseEndMakesRoom(footprint: Footprint, wish: Wish, { mayEnd, busyToo }: Means): readonly Replica[] | null {
    if (this.#lacking(footprint, wish, []) === null) return [];
    const ends = this.#occupants.replicas().filter((replica) => this.#ending.has(replica));
    for (;;) {
      const lacking = this.#lacking(footprint, wish, ends);
      if (lacking === null) return ends;
      const left = mayEnd.filter((replica) => !ends.includes(replica));
      const of = (owner: string | null, measure: Measure, more: readonly Footprint[] = []) =>
        owner === null ? 0 : measure([...left.filter((one) => one.owner === owner).map(held), ...this.#budget.promisedTo(owner), ...more]);
      const hostFull = this.#lacking({ ...footprint, device: 'cpu' }, wish, ends) !== null;
      const helps = (replica: Replica) => hostFull || replica.footprint.device === footprint.device;
      const mayEndIdle = (replica: Replica) =>
        isIdle(replica) &&
        (hostMs() - (replica.stats.idleSinceMs ?? Number.POSITIVE_INFINITY) > IN_USE_MS ||
          (wish.isReplica &&
            (wish.owner === null || replica.owner === wish.owner || of(replica.owner, countOf) > of(wish.owner, countOf))));
      const mayEndBusy = (replica: Replica) =>
        replica.owner !== wish.owner && of(replica.owner, lacking) > of(wish.owner, lacking, [footprint]);
      const busy = busyToo ? left.filter(mayEndBusy).toSorted((a, b) => of(b.owner, lacking) - of(a.owner, lacking)) : [];
      const next = left.filter(mayEndIdle).find(helps) ?? busy.find(helps);
      if (next === undefined) return null;
      ends.push(next);
    }
  }

  /** What there is too little of for it once `ends` have ended: places, the host's memory, or its device's; null: nothing. */
  #lacking(footprint: Footprint, { isReplica }: Wish, ends: readonly Replica[]): Measure | null {
    const places = this.#replicasMax - this.#occupants.replicas().length - this.#budget.promised + ends.length;
    if (isReplica && places <= 0) return countOf;
    const ending = ends.map(held);
    if (!this.#budget.fits({ ...footprint, device: 'cpu' }, ending)) return (taken) => sumOf(taken, 'bytes');
    if (this.#budget.fits(footprint, ending)) return null;
    return (taken) =>
      sumOf(
        taken.filter(({ device }) => device === footprint.device),
        'deviceBytes',
      );
  }

  /** False where not all are gone in time: a process that uses one may have stopped. */
  async #end(ends: readonly Replica[]): Promise<boolean> {
    if (ends.length === 0) return true;
    for (const replica of ends) this.#ending.add(replica);
    const gone = Promise.all(ends.map((replica) => this.#occupants.retire(replica, isIdle(replica) ? undefined : BUSY_END_MS))).then(
      () => true,
    );
    const ended = await Promise.race([gone, sleep(WAIT_MS, false, { ref: false })]);
    for (const replica of ends) this.#ending.delete(replica);
    return ended;
  }
}

const isIdle = ({ stats }: Replica) => stats.queued + stats.running === 0;

/**
 * Who has to end where the host or a device is fuller than it may be, since CUDA bounds no process, those bounds of the host together are more than it has, and one keeps what it took for its
 * largest run: the replica that holds the most beyond what it may, of the host's memory beyond what its version was seen to need. None where one is ending already, nor where nobody tells what
 * is held.
 */
export function hogOf<One extends Holder>(
  replicas: readonly One[],
  { device, memoryBytes, memoryBytesMax }: DeviceMemory,
): One | undefined {
  const isHost = device === 'cpu';
  const there = replicas.filter(({ footprint }) => isHost || footprint.device === device);
  if (memoryBytes <= memoryBytesMax || there.some(({ runner }) => !runner.connection.usable)) return undefined;
  const beyond = ({ deviceBytes, deviceBytesMax, stats, footprint }: Holder) =>
    isHost ? stats.memoryBytes - footprint.bytes : (deviceBytes ?? 0) - deviceBytesMax;
  return there.filter((replica) => beyond(replica) > 0).toSorted((a, b) => beyond(b) - beyond(a))[0];
}

/** What a runner holds, and no less than it is expected to take: what it gave back after a run, or has not loaded yet, it takes without being asked. */
export function held({ footprint, stats, deviceBytes }: Holder): Footprint {
  const bytes = Math.max(stats.memoryBytes, footprint.bytes);
  return { ...footprint, bytes, deviceBytes: Math.max(deviceBytes ?? 0, footprint.deviceBytes) };
}
