import { setTimeout as sleep } from 'node:timers/promises';
import { MercatoError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { limitMemory, lowerPriority } from './confinement.ts';
import { RunnerLost } from './connection.ts';
import type { DeviceChain } from './devices.ts';
import { hostMs, type RunnerStats } from './frames.ts';
import { loadInto } from './load.ts';
import { modelBytes, type Runner } from './runner-process.ts';
import type { Supervisor } from './supervisor.ts';

/**
 * A version as a runner loads it. `file`: what `readModel` reads. `joinable`: its rows may share a run; `shared`: also those of different tenants.
 * `trusted`: the operator vouches for it; others run at a lower priority of the processor.
 */
export type LoadableVersion = {
  id: string;
  file: string;
  joinable: boolean;
  shared: boolean;
  trusted: boolean;
  maxBatchRows: number;
  runLimitMs: number;
  threads: number;
  /** Devices that the gate saw not to run it. */
  passedOver: readonly string[];
  /** The most that its process was seen to hold; null: it was never measured. */
  peakMemoryBytes: number | null;
};

/** A runner without a model that its borrower may load and use up. */
export type Loan = { id: string; path: string };

/** `partlyOnCpu`: the device has no kernel for some of the model's operators. */
type ReplicaStatus = Pick<RunnerStats, 'memoryBytes' | 'queued' | 'running' | 'queueMs' | 'runMs'> & {
  pid: number;
  device: string;
  partlyOnCpu: boolean;
};

/** One version on this host. `memoryBytes`: what ending a replica gives back; `queued`: calls that wait in them. */
export type Deployment = {
  versionId: string;
  state: 'LOADING' | 'LOADED';
  pinned: boolean;
  replicas: ReplicaStatus[];
};

export type InferenceStatus = { deployments: Deployment[]; spares: number; memoryBytes: number; memoryBytesMax: number };

/** The way to the host's runners, from whichever of its server processes. */
export type FleetPort = {
  /**
   * The sockets of the version's runners, which is loaded first where it is not: one load for all that ask meanwhile. `dead`: sockets that the
   * caller could not reach. OVERLOADED where no room can be made within 2 s, MODEL_FAILED where it cannot be loaded.
   */
  claim(version: LoadableVersion, dead: readonly string[]): Promise<string[]>;
  /** What versions are tried on, in this order. */
  devices(): Promise<DeviceChain>;
  borrow(): Promise<Loan>;
  giveBack(loanId: string): Promise<void>;
  /** Ends the version's runners once they have answered what they were asked, and resolves when they are gone. */
  unload(versionId: string): Promise<void>;
  /** Pinned versions are not ended for being idle, nor for room. */
  pin(versionId: string, pinned: boolean): Promise<void>;
  status(): Promise<InferenceStatus>;
  /** `listener` hears of each runner of a version that others may use from now on. */
  onPlace(listener: (versionId: string, path: string) => void): void;
};

export type FleetOptions = {
  readModel: (file: string) => Promise<Uint8Array>;
  /** What versions are tried on, in this order. */
  devices: Promise<DeviceChain>;
  /** Runners with a model at once, and what they may hold in memory together. */
  maxLoaded: number;
  memoryBytesMax: number;
  /** A version that nobody called for so long ends. */
  keepAliveMs: number;
  /** Runners of one version at most. */
  replicasMax: number;
};

type Placed = { runner: Runner; device: string; partlyOnCpu: boolean };

/** `reservedBytes`: what it is expected to take until its process tells. */
type Replica = Placed & { stats: RunnerStats; reservedBytes: number; calmTicks: number };
type Deployed = {
  version: LoadableVersion;
  replicas: Set<Replica>;
  /** The load under way, of the first replica or a further one. */
  loading: Promise<void> | null;
  loads: number;
  crowdedTicks: number;
};

const TICK_MS = 1_000;
const ROOM_WAIT_MS = 2_000;
const ROOM_LOOK_MS = 50;
const RETRY_AFTER_MS = 1_000;
/** Node with ONNX Runtime, before a model, without the code that all share (52 MiB measured, November 2026), and what a model takes of its file's size. */
const RUNNER_BYTES = 64 * 1024 ** 2;
const FILE_FACTOR = 2;
/** A caller's rows may be larger than those that were measured. */
const PEAK_FACTOR = 3;
const PEAK_BYTES_MORE = 1024 ** 3;
/** A replica more where calls wait longer than this and than two runs, seen in so many ticks one after the other; one less after so many calm ones. */
const CROWDED_QUEUE_MS = 20;
const CROWDED_TICKS = 2;
const CALM_TICKS = 10;
const CALM_BUSY_SHARE = 0.5;

const NO_STATS: RunnerStats = { queued: 0, running: 0, idleSinceMs: null, busyMs: 0, queueMs: 0, runMs: 0, memoryBytes: 0, peakBytes: 0 };

/**
 * Owns which version runs in which of the host's runners. Versions are loaded when they are asked for; further replicas follow the time that
 * calls wait. Who ends, for room or for being idle, is told to retire, so that no call fails by it.
 */
export class Fleet implements FleetPort {
  readonly #options: FleetOptions;
  readonly #supervisor: Supervisor;
  readonly #log: Log;
  readonly #deployed = new Map<string, Deployed>();
  readonly #pinned = new Set<string>();
  readonly #loans = new Map<string, Runner>();
  readonly #listeners: ((versionId: string, path: string) => void)[] = [];
  readonly #leaving = new Set<Promise<void>>();
  readonly #timer: NodeJS.Timeout;
  /** Room is made for one load after the other; `#reserved` is of those that have room and are not loaded. */
  #room: Promise<unknown> = Promise.resolve();
  readonly #reserved = new Map<symbol, number>();
  #loanCount = 0;

  constructor(options: FleetOptions, supervisor: Supervisor, log: Log) {
    this.#options = options;
    this.#supervisor = supervisor;
    this.#log = log;
    this.#timer = setInterval(() => void this.#tick(), TICK_MS);
    this.#timer.unref();
  }

  async claim(version: LoadableVersion, dead: readonly string[]): Promise<string[]> {
    const deployed = this.#deployed.get(version.id) ?? this.#add(version);
    // Not killed: what one process cannot reach another may still use, and one that hangs is found by its silence.
    for (const replica of deployed.replicas) if (dead.includes(replica.runner.path)) void this.#retire(replica);
    if (this.#usable(deployed).length === 0) {
      deployed.loading ??= this.#load(deployed);
      await deployed.loading;
    }
    return this.#usable(deployed).map(({ runner }) => runner.path);
  }

  devices(): Promise<DeviceChain> {
    return this.#options.devices;
  }

  async borrow(): Promise<Loan> {
    const runner = await this.#supervisor.take();
    const id = String(++this.#loanCount);
    this.#loans.set(id, runner);
    // What it is to load is unproven, and who serves goes first.
    lowerPriority(runner.pid);
    return { id, path: runner.path };
  }

  async giveBack(loanId: string): Promise<void> {
    const runner = this.#loans.get(loanId);
    this.#loans.delete(loanId);
    runner?.kill();
    this.#supervisor.refill();
    await runner?.ended;
  }

  async unload(versionId: string): Promise<void> {
    const deployed = this.#deployed.get(versionId);
    await deployed?.loading?.catch(() => {});
    await Promise.all([...(deployed?.replicas ?? [])].map((replica) => this.#retire(replica)));
  }

  async pin(versionId: string, pinned: boolean): Promise<void> {
    if (pinned) this.#pinned.add(versionId);
    else this.#pinned.delete(versionId);
  }

  async status(): Promise<InferenceStatus> {
    await this.#ask();
    const deployments = [...this.#deployed.values()].map((deployed) => this.#show(deployed));
    return {
      deployments: deployments.filter(({ replicas, state }) => replicas.length > 0 || state === 'LOADING'),
      spares: this.#supervisor.spares,
      memoryBytes: this.#memoryBytes(),
      memoryBytesMax: this.#options.memoryBytesMax,
    };
  }

  onPlace(listener: (versionId: string, path: string) => void): void {
    this.#listeners.push(listener);
  }

  /** Kills every runner and waits until they are gone. */
  async end(): Promise<void> {
    clearInterval(this.#timer);
    await this.#supervisor.end();
    await Promise.allSettled(this.#leaving);
  }

  #add(version: LoadableVersion): Deployed {
    const deployed: Deployed = { version, replicas: new Set(), loading: null, loads: 0, crowdedTicks: 0 };
    this.#deployed.set(version.id, deployed);
    return deployed;
  }

  #usable({ replicas }: Deployed): Replica[] {
    return [...replicas].filter(({ runner }) => runner.connection.usable);
  }

  #show(deployed: Deployed): Deployment {
    const replicas = [...deployed.replicas].map(({ runner: { pid }, device, partlyOnCpu, stats }) => {
      const { queued, running, queueMs, runMs, memoryBytes } = stats;
      return { pid, device, partlyOnCpu, memoryBytes, queued, running, queueMs, runMs };
    });
    const { id } = deployed.version;
    const state = deployed.replicas.size === 0 ? 'LOADING' : 'LOADED';
    return { versionId: id, state, pinned: this.#pinned.has(id), replicas };
  }

  /** Loads one replica of the version; there is never more than one load of a version under way. */
  async #load(deployed: Deployed, mayEvict = true): Promise<void> {
    const { version } = deployed;
    deployed.loads++;
    const place = Symbol(version.id);
    try {
      const model = await this.#options.readModel(version.file);
      const peakBytes = version.peakMemoryBytes;
      const bytes = peakBytes ?? RUNNER_BYTES + FILE_FACTOR * model.length;
      const room = this.#room.then(() => this.#makeRoom(place, bytes, mayEvict));
      this.#room = room.catch(() => {});
      await room;
      const placed = await this.#place(version, model);
      const { runner } = placed;
      if (!version.trusted) lowerPriority(runner.pid);
      if (peakBytes !== null)
        await limitMemory(runner.pid, Math.min(modelBytes(), Math.max(PEAK_FACTOR * peakBytes, peakBytes + PEAK_BYTES_MORE)));
      this.#enter(deployed, { ...placed, stats: NO_STATS, reservedBytes: bytes, calmTicks: 0 });
    } catch (error) {
      if (error instanceof RunnerLost) throw new MercatoError('MODEL_FAILED', 'The model could not be loaded.', {}, { cause: error });
      throw error;
    } finally {
      this.#reserved.delete(place);
      deployed.loading = null;
      this.#forgetIfEmpty(deployed);
      this.#supervisor.refill();
    }
  }

  /** The devices that may run a version; the last of all where each was seen not to. */
  async #chainOf({ passedOver }: LoadableVersion): Promise<readonly string[]> {
    const devices = await this.#options.devices;
    const left = devices.filter((device) => !passedOver.includes(device));
    return left.length > 0 ? left : devices.slice(-1);
  }

  /** Loads a model on the first device that takes it. */
  async #place(version: LoadableVersion, model: Uint8Array): Promise<Placed> {
    const devices = await this.#chainOf(version);
    for (const [index, device] of devices.entries()) {
      const runner = await this.#supervisor.take();
      try {
        const { partlyOnCpu } = await loadInto(runner, { ...version, device }, index < devices.length - 1 ? model.slice() : model);
        return { runner, device, partlyOnCpu };
      } catch (error) {
        if (index === devices.length - 1) throw error;
        const next = devices[index + 1];
        this.#log.warn({ err: error, versionId: version.id, device, next }, 'a device does not take a model; trying the next');
      }
    }
    throw new Error('a chain without devices');
  }

  #enter(deployed: Deployed, replica: Replica): void {
    const { runner } = replica;
    if (!runner.connection.usable) throw new RunnerLost(false);
    deployed.replicas.add(replica);
    void runner.ended.then(() => {
      deployed.replicas.delete(replica);
      this.#forgetIfEmpty(deployed);
    });
    for (const listener of this.#listeners) listener(deployed.version.id, runner.path);
  }

  #forgetIfEmpty(deployed: Deployed): void {
    const { id } = deployed.version;
    if (deployed.replicas.size === 0 && deployed.loading === null && this.#deployed.get(id) === deployed) this.#deployed.delete(id);
  }

  /** Lets a replica end; resolves when it is gone. */
  #retire(replica: Replica): Promise<void> {
    const { connection, ended } = replica.runner;
    if (connection.usable) connection.retire();
    this.#leaving.add(ended);
    void ended.then(() => this.#leaving.delete(ended));
    return ended;
  }

  /** Reserves room for a load, where need be by ending the idle version that was called the longest ago. */
  async #makeRoom(place: symbol, bytes: number, mayEvict: boolean): Promise<void> {
    const giveUpMs = performance.now() + ROOM_WAIT_MS;
    while (!this.#fits(bytes)) {
      const oldest = mayEvict ? await this.#idlest() : null;
      if (oldest !== null) await Promise.race([this.#retire(oldest), sleep(ROOM_WAIT_MS, undefined, { ref: false })]);
      else if (!mayEvict || performance.now() > giveUpMs) {
        throw new MercatoError('OVERLOADED', 'Every place for a model is busy.', { retryAfterMs: RETRY_AFTER_MS });
      } else await sleep(ROOM_LOOK_MS);
    }
    this.#reserved.set(place, bytes);
  }

  /** A model larger than all memory may still run alone: its runner has a limit of its own. */
  #fits(bytes: number): boolean {
    const count = this.#replicas().length + this.#reserved.size;
    return count === 0 || (count < this.#options.maxLoaded && this.#memoryBytes() + bytes <= this.#options.memoryBytesMax);
  }

  #memoryBytes(): number {
    const held = this.#replicas().reduce((sum, { stats, reservedBytes }) => sum + (stats.memoryBytes || reservedBytes), 0);
    return [...this.#reserved.values()].reduce((sum, bytes) => sum + bytes, held);
  }

  #replicas(): Replica[] {
    return [...this.#deployed.values()].flatMap(({ replicas }) => [...replicas]);
  }

  async #idlest(): Promise<Replica | null> {
    await this.#ask();
    const idle = [...this.#deployed.values()]
      .filter(({ version }) => !this.#pinned.has(version.id))
      .flatMap((deployed) => this.#usable(deployed))
      .filter(({ stats }) => stats.queued + stats.running === 0);
    const since = ({ stats }: Replica) => stats.idleSinceMs ?? Number.POSITIVE_INFINITY;
    return idle.toSorted((a, b) => (since(a) < since(b) ? -1 : 1))[0] ?? null;
  }

  /** Asks every runner how it is; what one does not say stays as it was. */
  async #ask(): Promise<void> {
    const limit = sleep(TICK_MS, undefined, { ref: false });
    const asked = this.#replicas().map(async (replica) => {
      if (!replica.runner.connection.usable) return;
      const stats = await replica.runner.connection.stats().catch(() => null);
      if (stats !== null) replica.stats = stats;
    });
    await Promise.race([Promise.all(asked), limit]);
  }

  async #tick(): Promise<void> {
    const before = new Map(this.#replicas().map((replica) => [replica, replica.stats.busyMs]));
    await this.#ask();
    for (const deployed of this.#deployed.values()) {
      this.#endIdle(deployed);
      this.#grow(deployed);
      this.#shrink(deployed, before);
    }
  }

  #endIdle(deployed: Deployed): void {
    if (this.#pinned.has(deployed.version.id)) return;
    for (const replica of this.#usable(deployed)) {
      const { idleSinceMs } = replica.stats;
      if (idleSinceMs !== null && hostMs() - idleSinceMs > this.#options.keepAliveMs) void this.#retire(replica);
    }
  }

  #grow(deployed: Deployed): void {
    const usable = this.#usable(deployed);
    const isCrowded = ({ stats: { queued, queueMs, runMs } }: Replica) => queued > 0 && queueMs > Math.max(CROWDED_QUEUE_MS, 2 * runMs);
    deployed.crowdedTicks = usable.length > 0 && usable.every(isCrowded) ? deployed.crowdedTicks + 1 : 0;
    if (deployed.crowdedTicks < CROWDED_TICKS || deployed.loading !== null || usable.length >= this.#options.replicasMax) return;
    deployed.crowdedTicks = 0;
    deployed.loading = this.#load(deployed, false);
    deployed.loading.catch((error: unknown) => this.#log.info({ err: error, versionId: deployed.version.id }, 'no further replica'));
  }

  #shrink(deployed: Deployed, before: ReadonlyMap<Replica, number>): void {
    const usable = this.#usable(deployed);
    const busyMs = usable.reduce((sum, replica) => sum + replica.stats.busyMs - (before.get(replica) ?? replica.stats.busyMs), 0);
    const last = usable.at(-1);
    if (last === undefined) return;
    const isCalm = usable.length > 1 && busyMs / TICK_MS < (usable.length - 1) * CALM_BUSY_SHARE;
    last.calmTicks = isCalm ? last.calmTicks + 1 : 0;
    if (last.calmTicks >= CALM_TICKS) void this.#retire(last);
  }
}
