import { connectRunner, type Place, type RunnerConnection, RunnerLost } from './connection.ts';
import type { FleetPort, LoadableVersion } from './fleet-port.ts';
import type { Signature } from './tensor.ts';

/** A version as it can be loaded and called. */
export type RunnableVersion = LoadableVersion & { signature: Signature };

/** What of a version goes to the fleet. */
export function loadable({ signature: _, ...version }: RunnableVersion): LoadableVersion {
  return version;
}

/** This process's connections to the runners of one version. */
class Host {
  #version: RunnableVersion;
  readonly #fleet: FleetPort;
  readonly #onEmpty: () => void;
  readonly #connections = new Map<string, RunnerConnection>();
  readonly #connecting = new Map<string, Promise<void>>();
  readonly #dead = new Set<string>();
  #opening: Promise<RunnerConnection> | null = null;

  constructor(version: RunnableVersion, fleet: FleetPort, onEmpty: () => void) {
    this.#version = version;
    this.#fleet = fleet;
    this.#onEmpty = onEmpty;
  }

  /** As it was read last. */
  set version(version: RunnableVersion) {
    this.#version = version;
  }

  /** The connection with the fewest calls under way, one that refuses the tenant last; null where there is none. */
  pick(tenantKey: string): RunnerConnection | null {
    let best: RunnerConnection | null = null;
    for (const connection of this.#connections.values()) if (best === null || isBetter(connection, best, tenantKey)) best = connection;
    return best;
  }

  /** Some connection, once the version is loaded. */
  open(): Promise<RunnerConnection> {
    this.#opening ??= this.#open().finally(() => {
      this.#opening = null;
      this.#endIfEmpty();
    });
    return this.#opening;
  }

  async add(place: Place): Promise<void> {
    const { path } = place;
    if (this.#connections.has(path) || this.#dead.has(path)) return;
    const connecting = this.#connecting.get(path) ?? this.#connect(place).finally(() => this.#connecting.delete(path));
    this.#connecting.set(path, connecting);
    await connecting;
  }

  close(): void {
    for (const connection of this.#connections.values()) connection.close();
  }

  async #open(): Promise<RunnerConnection> {
    const places = await this.#fleet.claim(loadable(this.#version), [...this.#dead]);
    this.#dead.clear();
    await Promise.all(places.map((place) => this.add(place)));
    const connection = this.pick('');
    if (connection === null) throw new RunnerLost(false);
    return connection;
  }

  async #connect(place: Place): Promise<void> {
    const { path } = place;
    const connection = await connectRunner(place, () => this.#lose(path)).catch(() => null);
    if (connection?.usable) this.#connections.set(path, connection);
    else this.#lose(path);
  }

  /** A runner that leaves has told the fleet, or was told by it; of one that is lost the fleet may not know yet. */
  #lose(path: string): void {
    if (this.#connections.get(path)?.leaving !== true) this.#dead.add(path);
    this.#connections.delete(path);
    this.#endIfEmpty();
  }

  #endIfEmpty(): void {
    if (this.#connections.size === 0 && this.#dead.size === 0 && this.#opening === null) this.#onEmpty();
  }
}

function isBetter(one: RunnerConnection, other: RunnerConnection, tenantKey: string): boolean {
  const refuses = one.refused(tenantKey);
  return refuses === other.refused(tenantKey) ? one.pending < other.pending : !refuses;
}

/** The versions that this process calls. */
export class Hosts {
  readonly #fleet: FleetPort;
  readonly #hosts = new Map<string, Host>();

  constructor(fleet: FleetPort) {
    this.#fleet = fleet;
    fleet.onPlace((versionId, place) => void this.#hosts.get(versionId)?.add(place));
  }

  /** A connection to a runner of the version for a call of the tenant, at once where there is one; else when it is loaded. As `FleetPort.claim`, or RunnerLost. */
  enter(version: RunnableVersion, tenantKey = ''): RunnerConnection | Promise<RunnerConnection> {
    const host = this.#hosts.get(version.id) ?? this.#add(version);
    host.version = version;
    return host.pick(tenantKey) ?? host.open();
  }

  close(): void {
    for (const host of this.#hosts.values()) host.close();
  }

  #add(version: RunnableVersion): Host {
    const host = new Host(version, this.#fleet, () => {
      if (this.#hosts.get(version.id) === host) this.#hosts.delete(version.id);
    });
    this.#hosts.set(version.id, host);
    return host;
  }
}
