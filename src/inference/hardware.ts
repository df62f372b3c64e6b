import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { arch, cpus } from 'node:os';
import { basename, join } from 'node:path';
import { kindOf } from './budget.ts';
import { cudaModels } from './cuda-memory.ts';
import { areDrivers, type DeviceChain, type DeviceEnvironment } from './devices.ts';

/** What computes on each device of a host, by the device's name, in words that stay the same as long as it does: another may round, or saturate, otherwise. */
export type Hardware = Readonly<Record<string, string>>;

/** A device as it was seen; `hardware`: what computed there; undefined: that was not told yet. */
export type SeenOn = { device: string; hardware?: string | undefined };

const CPU_INFO = '/proc/cpuinfo';
const GRAPHICS = '/sys/class/drm';
/** Of the flags of an x86 processor those that choose how numbers are computed. */
const ARITHMETIC = /^(s?sse|fma|f16c|avx|amx)/;
const UNKNOWN = 'unknown';

/** Of these devices, and of the CPU, which takes part on each of them. */
export async function hardwareOf(devices: DeviceChain, env: DeviceEnvironment): Promise<Hardware> {
  const cpu = cpuHardware(cpus()[0]?.model, existsSync(CPU_INFO) ? readFileSync(CPU_INFO, 'utf8') : '');
  const cuda = devices.some((device) => kindOf(device) === 'cuda') ? await cudaModels() : new Map<number, string>();
  const of = (device: string) => (device === 'webgpu' ? vulkanHardware(env) : cudaHardware(device, cuda, env));
  return Object.fromEntries([
    ['cpu', cpu],
    ...devices.filter((device) => device !== 'cpu').map((device) => [device, `${of(device)}, ${cpu}`]),
  ]);
}

/** A processor's name, and a hash of what it can. `info`: as Linux tells of it; an ARM processor's `Features` are all of its arithmetic. */
export function cpuHardware(name: string | undefined, info: string): string {
  const [, key, listed = ''] = /^(flags|Features)\s*:(.*)$/m.exec(info) ?? [];
  const flags = listed.split(/\s+/).filter((flag) => flag !== '' && (key === 'Features' || ARITHMETIC.test(flag)));
  const hash = createHash('sha256').update([arch(), ...flags.toSorted()].join(' '));
  return `${name?.trim() || UNKNOWN} ${hash.digest('hex').slice(0, 8)}`;
}

/** Where the operator chose among the driver's devices their numbers are others: any of them. */
function cudaHardware(device: string, models: ReadonlyMap<number, string>, env: DeviceEnvironment): string {
  const own = areDrivers(env) ? models.get(Number(device.split(':')[1])) : undefined;
  return own ?? ([...new Set(models.values())].toSorted().join(' or ') || UNKNOWN);
}

/** The drivers that were named, and the graphics processors by their vendor and model; the runtime does not tell which it takes. */
export function vulkanHardware({ VK_ICD_FILENAMES: drivers = '' }: DeviceEnvironment, folder = GRAPHICS): string {
  const named = drivers.split(':').flatMap((path) => (path === '' ? [] : [basename(path)]));
  const there = existsSync(folder) ? readdirSync(folder).filter((name) => name.startsWith('renderD')) : [];
  const read = (name: string, what: string) => {
    const path = join(folder, name, 'device', what);
    return existsSync(path) ? readFileSync(path, 'utf8').trim() : UNKNOWN;
  };
  const models = there.map((name) => `${read(name, 'vendor')}:${read(name, 'device')}`);
  return [...named, ...new Set(models.toSorted())].join(' ') || UNKNOWN;
}
