import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Log } from '../base/log.ts';
import { kindOf } from './budget.ts';
import { RunnerLost } from './connection.ts';
import { cudaBytesByDevice } from './cuda-memory.ts';
import type { SeenOn } from './hardware.ts';
import { loadInto } from './load.ts';
import { encodeModel, graph, model, node, value } from './onnx/onnx.ts';
import type { Runner } from './runner-process.ts';

/** A device that did not run a model which a later one ran; `fault`: what went wrong. */
export type Fallback = SeenOn & { fault: string };

/** What went wrong on a device, in words. */
export function faultOf(error: unknown): string {
  return error instanceof RunnerLost ? 'its process crashed' : error instanceof Error ? error.message : String(error);
}

/** The devices that versions are tried on, in this order: `cuda:N`, `webgpu`, `cpu`. */
export type DeviceChain = readonly [string, ...string[]];

const DEV = '/dev';
const PROBE = { threads: 1, joinable: false, shared: false, maxBatchRows: 1, fixedRows: null, runLimitMs: 20_000 };

/** Variables of drivers that runners get, besides which their environment is empty. */
export type DeviceEnvironment = Readonly<Record<string, string>>;

/**
 * What runners get of CUDA's variables where the operator has not set them. Without the first CUDA multiplies FP32 with 10 bits of 23 (TF32), and chooses by the number of rows how: joined
 * rows were seen to differ from rows alone by 4e-4 of the largest, so that none could share a run; with it they agree with the CPU's to 1e-6 (ResNet-50's shape, H200, November 2026).
 * The second makes numbers of devices those that the driver's tools show.
 */
export const CUDA_ENVIRONMENT: DeviceEnvironment = { NVIDIA_TF32_OVERRIDE: '0', CUDA_DEVICE_ORDER: 'PCI_BUS_ID' };

/** Whether runners need what drivers of a graphics processor need: their variables, and memory that counts as a file. */
export function wantsGpu(setting: string, env: DeviceEnvironment): boolean {
  return candidates(setting, env).some((device) => device !== 'cpu');
}

/** What `auto` stands for here: what has a device file, and WebGPU where a Vulkan driver is named or a render device is there. */
function candidates(setting: string, env: DeviceEnvironment, dev = DEV): string[] {
  if (setting !== 'auto') return [...new Set(setting.split(','))];
  // CUDA counts those that it sees, whatever numbers their files have.
  const there = listed(dev, /^nvidia\d+$/).slice(0, env.CUDA_VISIBLE_DEVICES?.split(',').length);
  const cuda = there.map((_, ordinal) => `cuda:${ordinal}`);
  const webgpu = env.VK_ICD_FILENAMES !== undefined || listed(join(dev, 'dri'), /^renderD\d+$/).length > 0 ? ['webgpu'] : [];
  return [...cuda, ...webgpu, 'cpu'];
}

function listed(folder: string, pattern: RegExp): string[] {
  return existsSync(folder) ? readdirSync(folder).filter((name) => pattern.test(name)) : [];
}

/**
 * The devices of a setting (`auto`, or names with commas between) that work, each tried with a tiny model in a runner of its own; `cpu` is never tried. Where none of those named
 * works it is the CPU, loudly: ONNX Runtime itself has no fallback.
 */
export async function usableDevices(
  setting: string,
  env: DeviceEnvironment,
  take: () => Promise<Runner>,
  log: Log,
  dev = DEV,
): Promise<DeviceChain> {
  const usable: string[] = [];
  for (const device of candidates(setting, env, dev)) {
    const fault = device === 'cpu' ? null : await tried(device, await take());
    if (fault === null) usable.push(device);
    else if (setting === 'auto') log.warn({ device, fault }, 'a device does not work here');
    else log.error({ device, fault }, 'a device of MERCATO_DEVICES does not work here');
  }
  const [first, ...rest] = usable;
  return first === undefined ? ['cpu'] : [first, ...rest];
}

/** Whether numbers of CUDA devices are the driver's: nobody chose among them. */
export function areDrivers(env: DeviceEnvironment): boolean {
  return env.CUDA_VISIBLE_DEVICES === undefined && env.CUDA_DEVICE_ORDER === CUDA_ENVIRONMENT.CUDA_DEVICE_ORDER;
}

/** Bytes of memory of the devices that tell. */
export async function bytesOfDevices(devices: DeviceChain, env: DeviceEnvironment): Promise<ReadonlyMap<string, number>> {
  const tell = areDrivers(env) && devices.some((device) => kindOf(device) === 'cuda');
  const bytes = tell ? await cudaBytesByDevice() : [];
  return new Map([...bytes].map(([number, size]) => [`cuda:${number}`, size]));
}

/** Why a device does not work; null: it gave the right answer. */
async function tried(device: string, runner: Runner): Promise<string | null> {
  try {
    await loadInto(runner, { ...PROBE, device }, PROBE_MODEL);
    const x = { name: 'x', datatype: 'FP32', shape: [2], data: new Uint8Array(Float32Array.of(-1, 2).buffer) } as const;
    const request = { tenantKey: '', priority: 0, outputs: null, alone: true, rows: 2, inputs: [x] };
    const patience = { expiresMs: performance.now() + PROBE.runLimitMs, signal: undefined };
    const { outputs } = await runner.connection.call(request, patience);
    const answer = [...new Float32Array((outputs[0]?.data ?? new Uint8Array()).slice().buffer)];
    return String(answer) === '0,2' ? null : `it answers ${answer}`;
  } catch (error) {
    return faultOf(error);
  } finally {
    runner.kill();
  }
}

const values = (name: string) => [value(name, 'FP32', [2])];
const PROBE_MODEL = encodeModel(
  model(graph({ name: 'probe', nodes: [node('Relu', ['x'], ['y'])], inputs: values('x'), outputs: values('y'), initializers: [] })),
);
