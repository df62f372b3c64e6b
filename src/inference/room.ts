import { setTimeout as sleep } from 'node:timers/promises';
import { MercatoError } from '../base/errors.ts';
import { type DeviceMemory, type Footprint, kindOf, type MemoryBudget } from './budget.ts';
import type { RunnerStats } from './frames.ts';
import type { Runner } from './runner-process.ts';

/**
 * A runner that takes memory: `footprint` is what it is expected to take, `stats` what its process tells, `deviceBytes` what its device does, null where that is
 * not known; `deviceBytesMax`: a replica that holds more ends where its device is full.
 */
export type Holder = { runner: Runner; footprint: Footprint; stats: RunnerStats; deviceBytes: number | null; deviceBytesMax: number };
export type Replica = Holder & { partlyOnCpu: boolean };

/** Who has room now. */
type Occupants = {
  replicas(): readonly Replica[];
  /** Asks all how they are. */
  ask(): Promise<void>;
  /** Those that may end for others, by what they last told; first the one that was called the longest ago. */
  idle(): readonly Replica[];
  retire(replica: Replica): Promise<void>;
};

/** `kinds`: where it may be, in order; of a kind of device on the first with room. `isReplica`: it takes one of the host's places for those. */
type Wish = { kinds: readonly (readonly Footprint[])[]; isReplica: boolean; waitMs: number; mayEvict(): boolean; refusal: string };
type Choice = { footprint: Footprint; ends: readonly Replica[] };

const WAIT_MS = 2_000;
/** A check of a model has more patience than a call. */
const LOAN_WAIT_MS = 30_000;
const LOOK_MS = 50;
const RETRY_AFTER_MS = 1_000;

/** Makes room for what is to be loaded, where need be by ending idle replicas; those only where that is enough. Nobody waits for who finds no room. */
export class Room {
  readonly #budget: MemoryBudget;
  readonly #replicasMax: number;
  readonly #occupants: Occupants;
  /** Told to end for somebody who has the promise of their room. */
  readonly #ending = new Set<Replica>();
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
  forReplica(place: symbol, footprints: readonly Footprint[], mayEvict: () => boolean): Promise<Footprint> {
    const kinds = Map.groupBy(footprints, ({ device }) => kindOf(device)).values();
    return this.#take(place, {
      kinds: [...kinds],
      isReplica: true,
      waitMs: WAIT_MS,
      mayEvict,
      refusal: 'Every place for a model is busy.',
    });
  }

  /** Promises room to a runner that serves nobody. OVERLOADED after 30 s. */
  async forLoan(place: symbol, footprint: Footprint): Promise<void> {
    const refusal = 'There is no memory to check a model in.';
    await this.#take(place, { kinds: [[footprint]], isReplica: false, waitMs: LOAN_WAIT_MS, mayEvict: () => true, refusal });
  }

  async #take(place: symbol, wish: Wish): Promise<Footprint> {
    const giveUpMs = performance.now() + wish.waitMs;
    for (;;) {
      if (wish.mayEvict() && !wish.kinds[0]?.some((footprint) => this.#fits(footprint, wish, []))) await this.#ask();
      const choice = this.#choose(wish, wish.mayEvict() ? this.#occupants.idle() : []);
      if (choice !== null) {
        // Before those that end are gone: their room is nobody else's.
        this.#budget.promise(place, choice.footprint);
        if (await this.#end(choice.ends)) return choice.footprint;
        this.#budget.release(place);
      }
      if (!wish.mayEvict() || performance.now() > giveUpMs)
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

  #choose(wish: Wish, idle: readonly Replica[]): Choice | null {
    for (const kind of wish.kinds) {
      const choices = kind.map((footprint) => ({ footprint, ends: this.#whoseEndMakesRoom(footprint, wish, idle) }));
      const [best] = choices.filter((choice): choice is Choice => choice.ends !== null).toSorted((a, b) => a.ends.length - b.ends.length);
      if (best !== undefined) return best;
    }
    return null;
  }

  /** Those whose end makes room for `footprint`; null where that of all does not. Where the host has room, it takes those on its device. */
  #whoseEndMakesRoom(footprint: Footprint, wish: Wish, idle: readonly Replica[]): readonly Replica[] | null {
    if (this.#fits(footprint, wish, [])) return [];
    const ends = this.#occupants.replicas().filter((replica) => this.#ending.has(replica));
    while (!this.#fits(footprint, wish, ends)) {
      const hostFull = !this.#fits({ ...footprint, device: 'cpu' }, wish, ends);
      const next = idle.find((replica) => !ends.includes(replica) && (hostFull || replica.footprint.device === footprint.device));
      if (next === undefined) return null;
      ends.push(next);
    }
    return ends;
  }

  /** Whether there is room once `ends` have ended. */
  #fits(footprint: Footprint, { isReplica }: Wish, ends: readonly Replica[]): boolean {
    const places = this.#replicasMax - this.#occupants.replicas().length - this.#budget.promised + ends.length;
    return (places > 0 || !isReplica) && this.#budget.fits(footprint, ends.map(held));
  }

  /** False where not all are gone in time: a process that uses one may have stopped. */
  async #end(ends: readonly Replica[]): Promise<boolean> {
    if (ends.length === 0) return true;
    for (const replica of ends) this.#ending.add(replica);
    const gone = Promise.all(ends.map((replica) => this.#occupants.retire(replica))).then(() => true);
    const ended = await Promise.race([gone, sleep(WAIT_MS, false, { ref: false })]);
    for (const replica of ends) this.#ending.delete(replica);
    return ended;
  }
}

/**
 * Who has to end where the host or a device is fuller than it may be, since CUDA bounds no process, those bounds of the host together are more than it has, and one keeps what it took for its
 * largest run: the replica that holds the most beyond what it may, of the host's memory beyond what its version was seen to need. None where one is ending already, nor where nobody tells what
 * is held.
 */
export function hogOf(replicas: readonly Replica[], { device, memoryBytes, memoryBytesMax }: DeviceMemory): Replica | undefined {
  const isHost = device === 'cpu';
  const there = replicas.filter(({ footprint }) => isHost || footprint.device === device);
  if (memoryBytes <= memoryBytesMax || there.some(({ runner }) => !runner.connection.usable)) return undefined;
  const beyond = ({ deviceBytes, deviceBytesMax, stats, footprint }: Replica) =>
    isHost ? stats.memoryBytes - footprint.bytes : (deviceBytes ?? 0) - deviceBytesMax;
  return there.filter((replica) => beyond(replica) > 0).toSorted((a, b) => beyond(b) - beyond(a))[0];
}

/** What a runner holds, and no less than it is expected to take: what it gave back after a run, or has not loaded yet, it takes without being asked. */
export function held({ footprint, stats, deviceBytes }: Holder): Footprint {
  const bytes = Math.max(stats.memoryBytes, footprint.bytes);
  return { ...footprint, bytes, deviceBytes: Math.max(deviceBytes ?? 0, footprint.deviceBytes) };
}
