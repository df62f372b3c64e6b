import type { ErrorCode } from '../base/errors.ts';
import type { DeviceMemory, Peaks } from './budget.ts';
import type { Place } from './connection.ts';
import type { DeviceChain } from './devices.ts';
import type { Outcomes, RunnerStats } from './frames.ts';
import type { Hardware, SeenOn } from './hardware.ts';
import type { ReplicaBounds } from './scaling.ts';

/**
 * A version as a runner loads it. `owner`: an opaque key of whose it is, which shares the host's places and memory with others; whoever calls it, it fills them by its versions alone. `file`: what `readModel` reads. `joinable`: its rows may share a run; `shared`: also those of different tenants.
 * `trusted`: the operator vouches for it; others run at a lower priority of the processor.
 */
export type LoadableVersion = {
  id: string;
  owner: string;
  file: string;
  joinable: boolean;
  shared: boolean;
  trusted: boolean;
  maxBatchRows: number;
  runLimitMs: number;
  /** What the gate made of that on devices of this one's kind; null: nothing. */
  measuredLimit: { device: string; runLimitMs: number } | null;
  threads: number;
  /** Rows of every run on devices of this one's kind, which another number of rows costs more; null: as many as calls bring. */
  fixedRows: { device: string; rows: number } | null;
} & VersionDevices &
  Peaks;

/**
 * `passedOver`: devices that were seen not to run a version; `verifiedOn`: those that answer its publisher's samples, the only ones that it runs on; null: it has none. What was seen of one with other
 * hardware than a host's of that name tells nothing there; of one whose hardware was not told, of any.
 */
export type VersionDevices = { passedOver: readonly SeenOn[]; verifiedOn: readonly SeenOn[] | null };

/** A runner that its borrower may use up. */
export type Loan = { id: string; path: string };
/** One for a check. `bytes`: of the host's memory, promised to it; `isMost`: nobody is promised more. */
export type CheckLoan = Loan & { bytes: number; isMost: boolean };

/** `partlyOnCpu`: the device has no kernel for some of the model's operators. */
type ReplicaStatus = Outcomes &
  Pick<RunnerStats, 'memoryBytes' | 'queued' | 'running' | 'queueMs' | 'runMs'> & {
    pid: number;
    device: string;
    partlyOnCpu: boolean;
  };

export type LoadFailure = { code: ErrorCode; message: string };

/**
 * One version on this host; its calls are those since the fleet began, as their callers were told. Those of a replica are what its process did. `memoryBytes`: what ending a replica gives back; `queued`: calls that wait in them. `failure`: of the last load, where that failed; FAILED: so
 * that nothing is loaded; told for five minutes, or while it has to stay loaded, and tried again. `left`: devices that it left for so long since its runs failed there.
 */
export type Deployment = Outcomes & {
  versionId: string;
  state: 'LOADING' | 'LOADED' | 'FAILED';
  failure: LoadFailure | null;
  left: { device: string; forMs: number }[];
  replicas: ReplicaStatus[];
};

/** The memory of a device, and what computes there. */
export type DeviceStatus = DeviceMemory & { hardware: string };

/** `memory`: of the host, as `cpu`, and of each other device that works. */
export type InferenceStatus = { deployments: Deployment[]; spares: number; memory: DeviceStatus[] };

/** The way to the host's runners, from whichever of its server processes. */
export type FleetPort = {
  /**
   * The places of the version's runners, which is loaded first where it is not: one load for all that ask meanwhile. `dead`: paths of sockets that the
   * caller could not reach. One that no device of the host is known to run as its samples say waits until `setDevices` names one. OVERLOADED where none is named within 30 s, or no room can be made within 2 s, or, while other loads of its owner take half of the places, 10, MODEL_FAILED where it cannot be loaded.
   */
  claim(version: LoadableVersion, dead: readonly string[]): Promise<Place[]>;
  /** What versions are tried on, in this order. */
  devices(): Promise<DeviceChain>;
  /** What computes on each of them, and on the CPU. */
  hardware(): Promise<Hardware>;
  /**
   * A runner for a check, with room for a model file of so many bytes on a device, and `runBytes` of the host's memory besides, at most a quarter of all memory, half of that of models, and what is left by those that stay loaded; it is bounded by that with a margin, and
   * where it has the most, as any model is. All such loans of the host have half of its memory, and are as many as its cores or two. OVERLOADED where there is no memory within 30 s, or no loan within 100.
   */
  borrow(fileBytes: number, device: string, runBytes?: number): Promise<CheckLoan>;
  /** A runner with the version on the next device after `device` that takes it; null where there is no next. OVERLOADED, MODEL_FAILED as `claim`. */
  lend(version: LoadableVersion, device: string): Promise<(Loan & Place) | null>;
  /** Bytes that a borrowed runner holds of its device; null where nobody tells. */
  deviceBytesOf(loanId: string): Promise<number | null>;
  giveBack(loanId: string): Promise<void>;
  /** Adds calls of a version to what its deployment tells. */
  count(versionId: string, calls: Outcomes): Promise<void>;
  /** Whether the runner of this socket, which ends now, was ended from outside, and not for the memory that it had taken: no fault of who called it. */
  wasKilled(path: string): Promise<boolean>;
  /** Whether the runner of this socket, which ends now, was refused memory, or held more than was promised to it. */
  lackedMemory(path: string): Promise<boolean>;
  /**
   * A run of the version failed on `device`, and not on the next. `who` had it: its tenant, or, of a run past its limit, its runner; null: it crashed. After a crash, or failures of two of them, the
   * version leaves the device for ten minutes, or until it is unloaded. Its runners there answer what they were asked.
   */
  fallBack(versionId: string, device: string, who: string | null): Promise<void>;
  /** Where a version runs from now on, whatever it was read with: its runners on other devices answer what they were asked, and end. */
  setDevices(versionId: string, devices: VersionDevices): Promise<void>;
  /** Ends the version's runners once they have answered what they were asked, and resolves when they are gone. */
  unload(versionId: string): Promise<void>;
  /** Bounds the version's runners, within what the host allows; those of its minimum are not ended for being idle, nor for room. It loads none that is not loaded. */
  scale(versionId: string, bounds: ReplicaBounds): Promise<void>;
  status(): Promise<InferenceStatus>;
  /** `listener` hears of each runner of a version that others may use from now on, until the function that this returns is called. */
  onPlace(listener: (versionId: string, place: Place) => void): () => void;
};

/** What lends runners, with which the gate tries models. */
export type Lender = Pick<FleetPort, 'devices' | 'hardware' | 'borrow' | 'deviceBytesOf' | 'giveBack' | 'wasKilled' | 'lackedMemory'>;
