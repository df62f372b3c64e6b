import { setTimeout as sleep } from 'node:timers/promises';
import { MercatoError } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import type { Log } from '../base/log.ts';
import { footprintOf, kindOf, type MemoryBounds, MemoryBudget, seenOn, sumOf } from './budget.ts';
import { limitMemory, lowerPriority } from './confinement.ts';
import { type Place, RunnerLost } from './connection.ts';
import { CudaMemory } from './cuda-memory.ts';
import type { DeviceChain } from './devices.ts';
import type {
  CheckLoan,
  Deployment,
  FleetPort,
  InferenceStatus,
  LoadableVersion,
  LoadFailure,
  Loan,
  VersionDevices,
} from './fleet-port.ts';
import { hostMs, NO_OUTCOMES, NO_STATS, type Outcomes } from './frames.ts';
import type { Hardware } from './hardware.ts';
import { Kills } from './kills.ts';
import { failureOf, loadVersion, mostBytes } from './load.ts';
import { type Holder, held, hogOf, type Replica, Room } from './room.ts';
import { modelBytes, type Runner } from './runner-process.ts';
import { type ReplicaBounds, Scaler, withinHost } from './scaling.ts';
import type { Supervisor } from './supervisor.ts';
import { DevicesOfVersions } from './version-devices.ts';

export type FleetOptions = MemoryBounds & {
  readModel: (file: string) => Promise<Uint8Array>;
  /** What versions are tried on, in this order. */
  devices: Promise<DeviceChain>;
  /** What computes there. */
  hardware: Promise<Hardware>;
  /** Bytes of memory of those that tell. */
  deviceBytes: Promise<ReadonlyMap<string, number>>;
  /** Runners with a model at once. */
  maxLoaded: number;
  /** A version that nobody called for so long ends. */
  keepAliveMs: number;
  /** Runners of one version at most. */
  replicasMax: number;
};

type Deployed = {
  version: LoadableVersion;
  replicas: Set<Replica>;
  /** The load under way, of the first replica or a further one. */
  loading: Promise<void> | null;
  scaler: Scaler;
  /** Of the monotonic clock. */
  growAgainMs: number;
  failure: LoadFailure | null;
  /** Of the monotonic clock. */
  failedMs: number;
  /** It was told to end: nothing is loaded to reach its minimum. */
  ended: boolean;
};

/** Versions of which calls are counted. */
const COUNTED_MAX = 10_000;

/** A runner that serves in no deployment; `isCheck`: no trial. `endsFirst`: where memory is full. */
type Lent = Holder & { isCheck: boolean; endsFirst: boolean };

/** For whom room is made, and where. */
type Wanted = { owner: string | null; devices: readonly string[]; mayEvict(): boolean };

const TICK_MS = 1_000;
/** Of who waits for a runner that retires each has its answer, or gave up, after the first half; no run takes longer than the second. A server process that was stopped never leaves. */
const RETIRE_LIMIT_MS = 2 * LIMITS.deadlineMsMax;
const NEVER_MEASURED = { peakMemoryBytes: null, peakOnDevice: null };
/** So long the failure of a load is told of a version of which nothing is loaded. */
const FAILURE_MS = 300_000;
/** A process is gone soon after its socket is; one that only broke off stays. */
const END_MS = 1_000;
/** What may be loaded besides, or has to stay, is tried again after so long where it could not be. */
const GROW_AGAIN_MS = 10_000;

const FREE: ReplicaBounds = { min: 0, max: null };

const placeOf = ({ runner, footprint }: Holder): Place => ({ path: runner.path, device: footprint.device });

function asFailed(error: unknown): unknown {
  if (!(error instanceof RunnerLost)) return error;
  return new MercatoError('MODEL_FAILED', 'The model could not be loaded.', { rule: 'LOAD' }, { cause: error });
}

/**
 * Owns which version runs in which of the host's runners. Versions are loaded when they are asked for; further replicas follow the time that
 * calls wait. Who ends, for room or for being idle, is told to retire, so that no call fails by it.
 */
export class Fleet implements FleetPort {
  readonly #options: FleetOptions;
  readonly #supervisor: Supervisor;
  readonly #log: Log;
  readonly #deployed = new Map<string, Deployed>();
  readonly #bounds = new Map<string, ReplicaBounds>();
  readonly #devices: DevicesOfVersions;
  readonly #loans = new Map<string, Lent>();
  readonly #listeners = new Set<(versionId: string, place: Place) => void>();
  readonly #cuda = new CudaMemory();
  readonly #kills = new Kills();
  /** Told to end. */
  readonly #retired = new WeakSet<Runner>();
  /** By version; they outlive its replicas. */
  readonly #calls = new Map<string, Outcomes>();
  readonly #leaving = new Set<Promise<void>>();
  readonly #timer: NodeJS.Timeout;
  readonly #budget: MemoryBudget;
  readonly #room: Room;
  #loanCount = 0;

  constructor(options: FleetOptions, supervisor: Supervisor, log: Log) {
    this.#options = options;
    this.#supervisor = supervisor;
    this.#log = log;
    this.#devices = new DevicesOfVersions(options);
    this.#budget = new MemoryBudget(options, () => [...this.#replicas(), ...this.#loans.values()].map(held));
    this.#room = new Room(this.#budget, options.maxLoaded, {
      replicas: () => this.#replicas(),
      loans: () => [...this.#loans.values()].filter(({ isCheck }) => isCheck),
      ask: () => this.#ask(),
      mayEnd: () => this.#mayEnd(),
      retire: (replica, limitMs) => this.#retire(replica, limitMs),
    });
    void options.deviceBytes.then((bytes) => {
      this.#budget.has = bytes;
    });
    this.#timer = setInterval(() => void this.#tick(), TICK_MS);
    this.#timer.unref();
  }

  async claim(version: LoadableVersion, dead: readonly string[]): Promise<Place[]> {
    const deployed = this.#deployed.get(version.id) ?? this.#add(version);
    // Not killed: what one process cannot reach another may still use, and one that hangs is found by its silence.
    for (const replica of deployed.replicas) if (dead.includes(replica.runner.path)) void this.#retire(replica);
    if (this.#usable(deployed).length === 0) {
      deployed.version = version;
      this.#devices.wake(version.id);
      deployed.ended = false;
      deployed.loading ??= this.#load(deployed);
      await deployed.loading;
    }
    return this.#usable(deployed).map(placeOf);
  }

  devices(): Promise<DeviceChain> {
    return this.#options.devices;
  }

  hardware(): Promise<Hardware> {
    return this.#options.hardware;
  }

  /** What is promised to a check at most; who has that may take what any model may. What stays loaded leaves no more, however long one waits. */
  #checkBytesMax(): number {
    const { memoryBytesMax } = this.#options;
    const mayEnd = new Set(this.#mayEnd());
    const stay = [...this.#deployed.values()].flatMap((deployed) => this.#usable(deployed)).filter((replica) => !mayEnd.has(replica));
    return Math.min(modelBytes(), memoryBytesMax / 2, memoryBytesMax - sumOf(stay.map(held), 'bytes'));
  }

  async borrow(fileBytes: number, device: string, runBytes = 0): Promise<CheckLoan> {
    const least = footprintOf(device, fileBytes, NEVER_MEASURED);
    const bytesMax = Math.max(least.bytes, this.#checkBytesMax());
    const bytes = Math.min(bytesMax, least.bytes + runBytes);
    const isMost = bytes === bytesMax;
    const footprint = { ...least, bytes };
    const place = Symbol('loan');
    try {
      await this.#room.forLoan(place, footprint);
      const runner = await this.#supervisor.take();
      // What it is to load is unproven, and who serves goes first.
      lowerPriority(runner.pid);
      // Drivers of others reserve what nobody knows.
      if (device === 'cpu' && !isMost) await limitMemory(runner.pid, Math.min(modelBytes(), mostBytes(bytes)));
      const deviceBytesMax = mostBytes(footprint.deviceBytes);
      const holder = { runner, footprint, stats: NO_STATS, deviceBytes: null, deviceBytesMax };
      return { ...this.#register({ ...holder, isCheck: true, endsFirst: !isMost }), bytes, isMost };
    } finally {
      this.#budget.release(place);
    }
  }

  async lend(version: LoadableVersion, device: string): Promise<(Loan & Place) | null> {
    const next = await this.#devices.after(version, device);
    if (next.length === 0) return null;
    const place = Symbol(version.id);
    try {
      const replica = await this.#place(place, version, { owner: version.owner, devices: next, mayEvict: () => true });
      return { ...this.#register({ ...replica, isCheck: false, endsFirst: false }), ...placeOf(replica) };
    } catch (error) {
      throw asFailed(error);
    } finally {
      this.#budget.release(place);
    }
  }

  async count(versionId: string, calls: Outcomes): Promise<void> {
    const so = this.#calls.get(versionId) ?? { ...NO_OUTCOMES };
    for (const outcome of ['answered', 'overloaded', 'late', 'failed'] as const) so[outcome] += calls[outcome];
    // Behind all others: the first is the one that was called the longest ago.
    this.#calls.delete(versionId);
    this.#calls.set(versionId, so);
    const [first] = this.#calls.keys();
    if (this.#calls.size > COUNTED_MAX && first !== undefined) this.#calls.delete(first);
  }

  async wasKilled(path: string): Promise<boolean> {
    await this.#ended(path);
    return this.#kills.isBlameless(path);
  }

  async lackedMemory(path: string): Promise<boolean> {
    await this.#ended(path);
    return this.#kills.lackedMemory(path);
  }

  async #ended(path: string): Promise<void> {
    const holder = [...this.#replicas(), ...this.#loans.values()].find(({ runner }) => runner.path === path);
    if (holder !== undefined) await Promise.race([holder.runner.ended, sleep(END_MS, undefined, { ref: false })]);
  }

  async fallBack(versionId: string, device: string, who: string | null): Promise<void> {
    const { leaves, left } = this.#devices.fail(versionId, device, who);
    if (!leaves) return;
    if (!left) this.#log.warn({ versionId, device }, 'runs of a model fail on a device and not on the next; it leaves the device');
    await this.#leaveDevices(this.#deployed.get(versionId));
  }

  async setDevices(versionId: string, devices: VersionDevices): Promise<void> {
    this.#devices.set(versionId, devices);
    await this.#leaveDevices(this.#deployed.get(versionId));
  }

  /** Ends the replicas on devices that may not run the version any more. */
  async #leaveDevices(deployed: Deployed | undefined): Promise<void> {
    if (deployed === undefined) return;
    const chain = await this.#devices.of(deployed.version);
    for (const replica of deployed.replicas) if (!chain.includes(replica.footprint.device)) void this.#retire(replica);
  }

  async deviceBytesOf(loanId: string): Promise<number | null> {
    const loan = this.#loans.get(loanId);
    if (loan === undefined || kindOf(loan.footprint.device) !== 'cuda') return null;
    return (await this.#cuda.now()).get(loan.runner.pid) ?? null;
  }

  #register(lent: Lent): Loan {
    const id = String(++this.#loanCount);
    this.#loans.set(id, lent);
    void lent.runner.ended.then(() => {
      this.#loans.delete(id);
      this.#kills.add(null, lent);
    });
    return { id, path: lent.runner.path };
  }

  async giveBack(loanId: string): Promise<void> {
    const runner = this.#loans.get(loanId)?.runner;
    runner?.kill();
    this.#supervisor.refill();
    await runner?.ended;
  }

  async unload(versionId: string): Promise<void> {
    const deployed = this.#deployed.get(versionId);
    this.#devices.forgive(versionId);
    if (deployed === undefined) return;
    deployed.ended = true;
    this.#devices.wake(versionId);
    await deployed.loading?.catch(() => {});
    await Promise.all([...deployed.replicas].map((replica) => this.#retire(replica)));
    this.#forgetIfEmpty(deployed);
  }

  async scale(versionId: string, bounds: ReplicaBounds): Promise<void> {
    this.#bounds.set(versionId, bounds);
    if (bounds.min === 0 && bounds.max === null) this.#bounds.delete(versionId);
    const deployed = this.#deployed.get(versionId);
    if (deployed) this.#forgetIfEmpty(deployed);
  }

  async status(): Promise<InferenceStatus> {
    await this.#ask();
    const { devices, hardware } = this.#options;
    const deviceOf = async (device: string) => ({ ...this.#budget.memoryOf(device), hardware: (await hardware)[device] ?? '' });
    const deployments = [...this.#deployed.values()].map((deployed) => this.#show(deployed));
    return {
      deployments: deployments.filter(({ replicas, state }) => replicas.length > 0 || state !== 'LOADED'),
      spares: this.#supervisor.spares,
      memory: await Promise.all([...new Set([...(await devices), 'cpu'])].map(deviceOf)),
    };
  }

  onPlace(listener: (versionId: string, place: Place) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Kills every runner and waits until they are gone. */
  async end(): Promise<void> {
    clearInterval(this.#timer);
    await this.#supervisor.end();
    await Promise.allSettled(this.#leaving);
  }

  #add(version: LoadableVersion): Deployed {
    const unloaded = { replicas: new Set<Replica>(), loading: null, growAgainMs: 0, failure: null, failedMs: 0, ended: false };
    const deployed: Deployed = { version, ...unloaded, scaler: new Scaler() };
    this.#deployed.set(version.id, deployed);
    return deployed;
  }

  #usable({ replicas }: Deployed): Replica[] {
    return [...replicas].filter(({ runner }) => runner.connection.usable);
  }

  #show(deployed: Deployed): Deployment {
    const replicas = [...deployed.replicas].map(({ runner: { pid }, footprint, partlyOnCpu, stats }) => {
      const { queued, running, queueMs, runMs, memoryBytes, answered, overloaded, late, failed } = stats;
      const calls = { queued, running, answered, overloaded, late, failed };
      return { pid, device: footprint.device, partlyOnCpu, memoryBytes, queueMs, runMs, ...calls };
    });
    const { version, failure } = deployed;
    const state = replicas.length > 0 ? 'LOADED' : failure === null ? 'LOADING' : 'FAILED';
    const calls = this.#calls.get(version.id) ?? NO_OUTCOMES;
    return { versionId: version.id, state, failure, left: this.#devices.leftBy(version.id), replicas, ...calls };
  }

  /** Loads one replica of the version; there is never more than one load of a version under way. */
  async #load(deployed: Deployed): Promise<void> {
    const place = Symbol(deployed.version.id);
    try {
      this.#kills.admit(deployed.version.id);
      this.#enter(deployed, await this.#replicaOf(deployed, place));
      deployed.growAgainMs = 0;
      deployed.failure = null;
    } catch (error) {
      deployed.failure = failureOf(asFailed(error));
      deployed.failedMs = performance.now();
      deployed.growAgainMs = deployed.failedMs + GROW_AGAIN_MS;
      throw asFailed(error);
    } finally {
      this.#budget.release(place);
      deployed.loading = null;
      this.#forgetIfEmpty(deployed);
      if (this.#usable(deployed).length > 0 && this.#surplus(deployed) < 0) this.#scale(deployed, 0);
      this.#supervisor.refill();
    }
  }

  async #replicaOf(deployed: Deployed, place: symbol): Promise<Replica> {
    // As it is when room is looked for: the last replica may end while a further one is loaded.
    const mayEvict = () => this.#usable(deployed).length < Math.max(1, this.#boundsOf(deployed).min);
    const owner = this.#surplus(deployed) < 0 ? null : deployed.version.owner;
    const replica = await this.#place(place, deployed.version, { owner, devices: await this.#answering(deployed), mayEvict });
    if ((await this.#devices.of(deployed.version)).includes(replica.footprint.device)) return replica;
    // Its device was seen not to run the version meanwhile.
    replica.runner.kill();
    this.#budget.release(place);
    return this.#replicaOf(deployed, place);
  }

  #answering(deployed: Deployed): Promise<readonly string[]> {
    return this.#devices.answering(deployed.version, () => deployed.ended);
  }

  /** Loads a version on the first of `devices` that has room and takes it. `place` has that room then, until it is released. */
  async #place(place: symbol, version: LoadableVersion, { owner, devices, mayEvict }: Wanted): Promise<Replica> {
    const model = await this.#options.readModel(version.file);
    for (let left = devices; ; ) {
      const footprints = left.map((device) => footprintOf(device, model.length, version));
      const footprint = await this.#room.forReplica(place, owner, footprints, mayEvict);
      const { device } = footprint;
      const [first = device] = left;
      if (kindOf(device) !== kindOf(first))
        this.#log.info({ versionId: version.id, device: first, next: device }, 'a device has no room for a model');
      left = left.slice(left.findIndex((other) => kindOf(other) === kindOf(device))).filter((other) => other !== device);
      const runner = await this.#supervisor.take();
      try {
        const { partlyOnCpu } = await loadVersion(runner, version, device, left.length > 0 ? model.slice() : model);
        const seen = seenOn(device, version.peakOnDevice);
        const deviceBytesMax = seen === null ? Number.POSITIVE_INFINITY : mostBytes(seen);
        return { runner, footprint, owner: version.owner, partlyOnCpu, stats: NO_STATS, deviceBytes: null, deviceBytesMax };
      } catch (error) {
        runner.kill();
        if (left.length === 0) throw error;
        this.#budget.release(place);
        this.#log.warn({ err: error, versionId: version.id, device, next: left[0] }, 'a device does not take a model; trying the next');
      }
    }
  }

  #enter(deployed: Deployed, replica: Replica): void {
    const { runner } = replica;
    if (!runner.connection.usable) throw new RunnerLost(false);
    deployed.replicas.add(replica);
    void runner.ended.then(() => {
      deployed.replicas.delete(replica);
      this.#kills.add(this.#retired.has(runner) ? null : deployed.version.id, replica);
      this.#forgetIfEmpty(deployed);
    });
    for (const listener of this.#listeners) listener(deployed.version.id, placeOf(replica));
  }

  /** One that has to stay loaded is not forgotten where its runners end by themselves, and one that could not be loaded only after a while. */
  #forgetIfEmpty(deployed: Deployed): void {
    const { id } = deployed.version;
    const failed = deployed.failure !== null && performance.now() - deployed.failedMs < FAILURE_MS;
    const stays = !deployed.ended && (failed || this.#boundsOf(deployed).min > 0);
    if (deployed.replicas.size === 0 && deployed.loading === null && !stays && this.#deployed.get(id) === deployed)
      this.#deployed.delete(id);
  }

  #boundsOf({ version }: Deployed): { min: number; max: number } {
    return withinHost(this.#bounds.get(version.id) ?? FREE, this.#options.replicasMax);
  }

  /** How many replicas may end without being asked for. */
  #surplus(deployed: Deployed): number {
    return this.#usable(deployed).length - this.#boundsOf(deployed).min;
  }

  /** Lets a replica end, or after `limitMs` makes it; resolves when it is gone. */
  #retire({ runner }: Replica, limitMs = RETIRE_LIMIT_MS): Promise<void> {
    const { connection, ended } = runner;
    this.#retired.add(runner);
    if (connection.usable) connection.retire();
    const limit = setTimeout(() => runner.kill(), limitMs).unref();
    this.#leaving.add(ended);
    void ended.then(() => {
      clearTimeout(limit);
      this.#leaving.delete(ended);
    });
    return ended;
  }

  #replicas(): Replica[] {
    return [...this.#deployed.values()].flatMap(({ replicas }) => [...replicas]);
  }

  /** Those beyond what stays, by what they last told: the idle first, of these the one that was called the longest ago. */
  #mayEnd(): Replica[] {
    const since = ({ stats }: Replica) =>
      stats.queued + stats.running > 0 ? Number.POSITIVE_INFINITY : (stats.idleSinceMs ?? Number.MAX_VALUE);
    const oldestFirst = (a: Replica, b: Replica) => (since(a) < since(b) ? -1 : 1);
    const mayEnd = (deployed: Deployed) =>
      this.#usable(deployed)
        .toSorted(oldestFirst)
        .slice(0, Math.max(0, this.#surplus(deployed)));
    return [...this.#deployed.values()].flatMap(mayEnd).toSorted(oldestFirst);
  }

  /** Asks every runner how it is; what one does not say stays as it was. */
  async #ask(): Promise<void> {
    const limit = sleep(TICK_MS, undefined, { ref: false });
    const asked = [...this.#replicas(), ...this.#loans.values()].map(async (holder) => {
      if (!holder.runner.connection.usable) return;
      const stats = await holder.runner.connection.stats().catch(() => null);
      if (stats !== null) holder.stats = stats;
    });
    await Promise.race([Promise.all([...asked, this.#askDevices()]), limit]);
  }

  /** What CUDA devices say of who holds their memory. */
  async #askDevices(): Promise<void> {
    const holders = [...this.#replicas(), ...this.#loans.values()].filter(({ footprint }) => kindOf(footprint.device) === 'cuda');
    if (holders.length === 0) return;
    const told = await this.#cuda.byProcess();
    for (const holder of holders) holder.deviceBytes = told.get(holder.runner.pid) ?? holder.deviceBytes;
  }

  /** First a check that takes more than was promised to it, which begins again with more. What a replica was asked it answers: that need not be at fault. */
  #retireHog(device: string): void {
    const memory = this.#budget.memoryOf(device);
    const lent = [...this.#loans.values()];
    // What it held is free soon.
    if (lent.some(({ runner }) => !runner.connection.usable)) return;
    const checks = lent.filter(({ endsFirst }) => endsFirst);
    const [loan, hog] = [hogOf(checks, memory), hogOf(this.#replicas(), memory)];
    const taker = loan ?? hog;
    if (taker === undefined) return;
    const { runner, stats, deviceBytes } = taker;
    const { memoryBytes } = stats;
    this.#log.warn({ pid: runner.pid, device, memoryBytes, deviceBytes }, 'a runner holds too much of a device that is full');
    if (loan !== undefined) loan.runner.kill();
    else if (hog !== undefined) void this.#retire(hog);
  }

  async #tick(): Promise<void> {
    const before = new Map(this.#replicas().map((replica) => [replica, replica.stats.busyMs]));
    await this.#ask();
    for (const device of new Set(['cpu', ...this.#replicas().map(({ footprint }) => footprint.device)])) this.#retireHog(device);
    for (const deployed of this.#deployed.values()) {
      this.#endIdle(deployed);
      const busyMs = this.#usable(deployed).reduce((sum, one) => sum + one.stats.busyMs - (before.get(one) ?? one.stats.busyMs), 0);
      this.#scale(deployed, busyMs);
      this.#forgetIfEmpty(deployed);
    }
  }

  #endIdle(deployed: Deployed): void {
    for (const replica of this.#usable(deployed)) {
      const { idleSinceMs } = replica.stats;
      const isIdle = idleSinceMs !== null && hostMs() - idleSinceMs > this.#options.keepAliveMs;
      if (isIdle && this.#surplus(deployed) > 0) void this.#retire(replica);
    }
  }

  /** Loads or ends a replica where there should be one more or less. `busyMs`: run time of all since the last tick. */
  #scale(deployed: Deployed, busyMs: number): void {
    if (deployed.ended || deployed.loading !== null || performance.now() < deployed.growAgainMs) return;
    const usable = this.#usable(deployed);
    const bounds = this.#boundsOf(deployed);
    const stats = usable.map((replica) => replica.stats);
    const step = deployed.scaler.step(stats, busyMs / TICK_MS, bounds);
    const last = usable.at(-1);
    if (step < 0 && last !== undefined) void this.#retire(last);
    if (step <= 0) return;
    deployed.loading = this.#load(deployed);
    deployed.loading.catch((error: unknown) => {
      this.#log.info({ err: error, versionId: deployed.version.id }, 'no further replica');
    });
  }
}
