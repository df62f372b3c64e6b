import type { Log } from '../base/log.ts';
import { CallCounts } from './call-counts.ts';
import { type RunRequest, type RunResult, runRequest } from './calls.ts';
import type { Gate } from './check-runner.ts';
import { bytesOfDevices, CUDA_ENVIRONMENT, type DeviceEnvironment, usableDevices, wantsGpu } from './devices.ts';
import { Fleet, type FleetOptions } from './fleet.ts';
import type { FleetPort, InferenceStatus, VersionDevices } from './fleet-port.ts';
import { Gates, type OnRead } from './gate.ts';
import { hardwareOf } from './hardware.ts';
import { Hosts, type RunnableVersion } from './hosts.ts';
import type { Inspection } from './inspect.ts';
import { createRunFolder } from './run-folder.ts';
import type { ReplicaBounds } from './scaling.ts';
import { Supervisor } from './supervisor.ts';
import { Trials } from './trials.ts';
import { type Grounds, groundsOf, type Verified } from './verify.ts';

export { ModelKilled, type RunRequest, type RunResult } from './calls.ts';
export { confined, confinement } from './confinement.ts';
export { connectFleet, serveFleet } from './fleet-ipc.ts';
export type { Deployment, DeviceStatus, FleetPort, InferenceStatus, VersionDevices } from './fleet-port.ts';
export type { SeenOn } from './hardware.ts';
export type { RunnableVersion } from './hosts.ts';
export type { Inspection } from './inspect.ts';
export { type Contents, contentsNow, REJECTION_RULES, type RejectionRule, type RunEstimate } from './onnx/onnx.ts';
export type { Profile } from './profile.ts';
export { estimateApart } from './reading.ts';
export { parseSamples, type Sample } from './samples.ts';
export {
  bytesOf,
  DATATYPES,
  type Datatype,
  decodeBytes,
  elementCount,
  encodeBytes,
  type Signature,
  type SignatureTensor,
  type Tensor,
} from './tensor.ts';
export { checkAgainst, type GivenTensor, parseInputs, toBase64, toJson, wantedOf } from './tensor-input.ts';
export { type Grounds, RUNTIME, type Verified } from './verify.ts';

export type Inference = AsyncDisposable & {
  /**
   * Checks a model file, loads it in a runner that serves nothing else, reads its signature, and tries whether joined rows equal separate
   * runs, whether it answers its publisher's samples, and measures it in runs of up to `maxBatchRows` rows, within some seconds, or, of a slow model, 180. No run takes longer than `runLimitMs`, the load at most a minute.
   * All of that in threads: whatever the file says, calls are answered meanwhile. The model is moved there. MODEL_REJECTED, with `data.rule`, `data.place` where the fault has one, and the rule's figures.
   */
  inspect(model: Uint8Array, gate: Gate, onRead?: OnRead): Promise<Inspection>;
  /** Runs the samples of a version again, on each kind of device that runs versions now, in a thread, to which the model is moved. Rejects where that can be told of none. */
  verify(model: Uint8Array, gate: Gate): Promise<Verified>;
  /** What versions run on now. */
  grounds(): Promise<Grounds>;
  /**
   * Runs a model, loading it first where needed; more rows than `maxBatchRows` run in slices, all or nothing. OVERLOADED with `retryAfterMs`,
   * DEADLINE_EXCEEDED, CANCELLED (`signal` is aborted; a run that others share goes on), MODEL_FAILED; that as ModelKilled where the run ended its process.
   */
  run(request: RunRequest): Promise<RunResult>;
  /** Loads a version before anybody calls it; one that is loaded stays so. OVERLOADED, MODEL_FAILED. */
  load(version: RunnableVersion): Promise<void>;
  /** As `FleetPort.setDevices`. */
  setDevices(versionId: string, devices: VersionDevices): Promise<void>;
  /** Ends the version's processes once they have answered what they were asked; a later call loads it again. */
  unload(versionId: string): Promise<void>;
  /** As `FleetPort.scale`. */
  scale(versionId: string, bounds: ReplicaBounds): Promise<void>;
  /** What runs on this host. */
  status(): Promise<InferenceStatus>;
};

export type HostFleet = FleetPort & AsyncDisposable;
export type FleetConfig = Omit<FleetOptions, 'devices' | 'deviceBytes' | 'hardware'> & {
  dataDir: string;
  spares: number;
  /** `auto`, or devices with commas between: `cuda:0,webgpu,cpu`. */
  devices: string;
  deviceEnvironment: DeviceEnvironment;
};

const CPU_ALONE = Promise.resolve(['cpu'] as const);

/**
 * The runners of this host, which one process owns. `dataDir` takes their sockets; `spares` wait with ONNX Runtime in memory. Dispose of it: it ends
 * every runner.
 */
export function createFleet(config: FleetConfig, log: Log): HostFleet {
  const folder = createRunFolder(config.dataDir);
  const gpu = wantsGpu(config.devices, config.deviceEnvironment);
  const env = gpu ? { ...CUDA_ENVIRONMENT, ...config.deviceEnvironment } : {};
  const supervisor = new Supervisor(config.spares, { folder, env, gpu }, log);
  const devices = gpu ? usableDevices(config.devices, env, () => supervisor.take(), log) : CPU_ALONE;
  // Whoever loads something meets a failure.
  const deviceBytes = devices.then((usable) => bytesOfDevices(usable, env)).catch(() => new Map<string, number>());
  const hardware = devices.then((usable) => hardwareOf(usable, env));
  hardware.catch(() => {});
  const fleet = new Fleet({ ...config, devices, deviceBytes, hardware }, supervisor, log);
  supervisor.refill();
  return Object.assign(fleet, {
    async [Symbol.asyncDispose]() {
      await fleet.end();
      await folder.remove();
    },
  });
}

/**
 * Runs models in the runners of `fleet`, which it does not own. Dispose of it: it ends the checks that are under way.
 *
 * A round trip of 4 KB takes 0.30 ms at the median, of which 0.05 ms is the run; the net 784-128-10 answers 18,500 calls of one row per
 * second with 64 in flight, half of that while other processes keep both cores busy (measured on 2 cores, Nov 2026).
 */
export function createInference(fleet: FleetPort): Inference {
  const hosts = new Hosts(fleet);
  const ways = { hosts, trials: new Trials(fleet), fleet };
  const gates = new Gates(fleet);
  const counts = new CallCounts(fleet);
  return {
    inspect: (model, gate, onRead) => gates.inspect(model, gate, onRead),
    verify: (model, gate) => gates.verify(model, gate),
    grounds: () => groundsOf(fleet),
    run: (request) => counts.follow(request.version.id, runRequest(ways, request)),
    async load(version) {
      await hosts.enter(version);
    },
    setDevices: (versionId, devices) => fleet.setDevices(versionId, devices),
    unload: (versionId) => fleet.unload(versionId),
    scale: (versionId, bounds) => fleet.scale(versionId, bounds),
    async status() {
      await counts.tell();
      return fleet.status();
    },
    async [Symbol.asyncDispose]() {
      await gates[Symbol.asyncDispose]();
      hosts.close();
    },
  };
}
