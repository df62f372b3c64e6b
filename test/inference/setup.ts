import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { createLog, type Log } from '../../src/base/log.ts';
import {
  createFleet,
  createInference,
  type FleetConfig,
  type HostFleet,
  type Inference,
  type RunnableVersion,
  type RunRequest,
  type Tensor,
} from '../../src/inference/inference.ts';

const models = new Map<string, () => Promise<Uint8Array>>();

/** Gives a model file a name that the fleets of tests can read. */
export function fileOf(read: () => Promise<Uint8Array>): string {
  const file = `model ${models.size}`;
  models.set(file, read);
  return file;
}

/** The runners of a host, which end when the test does. */
export async function testFleet(options: Partial<FleetConfig> = {}, log: Log = createLog('error')): Promise<HostFleet> {
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-test-'));
  const bounds = {
    spares: 0,
    maxLoaded: 4,
    memoryBytesMax: 2 ** 34,
    deviceMemoryBytesMax: 2 ** 34,
    keepAliveMs: 600_000,
    replicasMax: 1,
    devices: 'cpu',
    deviceEnvironment: {},
  };
  const readModel = async (file: string) => (await models.get(file)?.()) ?? new Uint8Array();
  const fleet = createFleet({ dataDir, readModel, ...bounds, ...options }, log);
  onTestFinished(async () => {
    await fleet[Symbol.asyncDispose]();
    await rm(dataDir, { recursive: true, force: true });
  });
  return fleet;
}

/** An Inference on runners of its own. */
export async function testInference(options: Partial<FleetConfig> = {}, log?: Log): Promise<Inference> {
  const inference = createInference(await testFleet(options, log));
  onTestFinished(() => inference[Symbol.asyncDispose]());
  return inference;
}

/** A version of one symbolic row dimension, joinable up to 8 rows, of one input `x` and the given model. */
export function versionOf(model: Uint8Array, changes: Partial<RunnableVersion> = {}): RunnableVersion {
  const x = { name: 'x', datatype: 'FP32', shape: [-1, 2], dimensions: ['N', null] } as const;
  return {
    id: 'version',
    owner: 'publisher',
    file: fileOf(async () => model),
    signature: { inputs: [x], outputs: [{ ...x, name: 'y' }], batchDimension: 'N' },
    joinable: true,
    shared: false,
    trusted: false,
    maxBatchRows: 8,
    runLimitMs: 30_000,
    threads: 1,
    passedOver: [],
    verifiedOn: null,
    measuredLimit: null,
    fixedRows: null,
    peakMemoryBytes: null,
    peakOnDevice: null,
    ...changes,
  };
}

export function request(version: RunnableVersion, inputs: readonly Tensor[], changes: Partial<RunRequest> = {}): RunRequest {
  return { version, tenantKey: 'tenant', priority: 0, inputs, outputs: null, deadlineMs: 60_000, ...changes };
}

const bytes = (view: ArrayBufferView<ArrayBuffer>) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

export function floats(shape: readonly number[], values: readonly number[], name = 'x'): Tensor {
  return { name, datatype: 'FP32', shape, data: bytes(Float32Array.from(values)) };
}

export function longs(values: readonly number[], name = 'x'): Tensor {
  return { name, datatype: 'INT64', shape: [values.length], data: bytes(BigInt64Array.from(values, BigInt)) };
}

export function numbersOf(tensor: Tensor | undefined): number[] {
  const { buffer } = (tensor?.data ?? new Uint8Array()).slice();
  return tensor?.datatype === 'INT64' ? Array.from(new BigInt64Array(buffer), Number) : Array.from(new Float32Array(buffer));
}

/** True while a process of this id runs; one that is dead but that nobody has asked about yet does not. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
