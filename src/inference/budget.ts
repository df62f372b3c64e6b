/** What something takes or is expected to take: `bytes` of the host's memory, and `deviceBytes` of its device's, where that is not the CPU. */
export type Footprint = { device: string; bytes: number; deviceBytes: number };

/** What of a device's memory is taken, and may be; the CPU's is the host's. */
export type DeviceMemory = { device: string; memoryBytes: number; memoryBytesMax: number };

/** Bounds of the memory of the host, and of each of its other devices, which have no more than they have. */
export type MemoryBounds = { memoryBytesMax: number; deviceMemoryBytesMax: number };

/** The most that a version was seen to hold of the host's memory, and of a device's; null: it was not measured. */
export type Peaks = { peakMemoryBytes: number | null; peakOnDevice: { device: string; bytes: number } | null };

/** For whose version something is promised; null: for nobody's, as to all that are no replica. */
export type Whose = { owner: string | null; isReplica: boolean };

const MIB = 1024 ** 2;
/** Node with ONNX Runtime, before a model, without the code that all share (52 MiB measured, November 2026), and what a model takes of its file's size. */
const RUNNER_BYTES = 64 * MIB;
const FILE_FACTOR = 2;
/** What CUDA and its libraries take before a model: of the host 300 to 380 MiB, of the device 590 to 670 (measured on an H200, November 2026). */
const CUDA = { bytes: 384 * MIB, deviceBytes: 640 * MIB };

/** `cuda` of `cuda:1`. */
export const kindOf = (device: string): string => device.split(':')[0] ?? '';

/**
 * What a runner with a model is expected to take: what the version was seen to hold, on a device of the same kind, or what its file lets expect. Where a device does not tell what a process
 * holds of it, that is what the process was seen to hold beyond an empty runner.
 */
export function footprintOf(device: string, fileBytes: number, { peakMemoryBytes, peakOnDevice }: Peaks): Footprint {
  const base = kindOf(device) === 'cuda' ? CUDA : { bytes: 0, deviceBytes: 0 };
  const modelBytes = FILE_FACTOR * fileBytes;
  const bytes = peakMemoryBytes ?? RUNNER_BYTES + base.bytes + modelBytes;
  if (device === 'cpu') return { device, bytes, deviceBytes: 0 };
  const modelDeviceBytes = Math.max(modelBytes, bytes - RUNNER_BYTES - base.bytes);
  return { device, bytes, deviceBytes: seenOn(device, peakOnDevice) ?? base.deviceBytes + modelDeviceBytes };
}

/** What was seen on a device, as far as it tells of `device`. */
export function seenOn(device: string, seen: Peaks['peakOnDevice']): number | null {
  return seen !== null && kindOf(seen.device) === kindOf(device) ? seen.bytes : null;
}

/** Knows what is free: what is held, of which `held` tells, and what is promised to a load counts as taken. */
export class MemoryBudget {
  readonly #bounds: MemoryBounds;
  readonly #held: () => readonly Footprint[];
  readonly #promised = new Map<symbol, Footprint & Whose>();
  #has: ReadonlyMap<string, number> = new Map();

  constructor(bounds: MemoryBounds, held: () => readonly Footprint[]) {
    this.#bounds = bounds;
    this.#held = held;
  }

  /** Bytes that devices are known to have, by their names. */
  set has(bytes: ReadonlyMap<string, number>) {
    this.#has = bytes;
  }

  /** Loads that have room and hold nothing yet. */
  get promised(): number {
    return this.#promised.size;
  }

  promise(place: symbol, footprint: Footprint, whose: Whose): void {
    this.#promised.set(place, { ...footprint, ...whose });
  }

  /** What loans have room for that are no runners yet. */
  get promisedLoans(): Footprint[] {
    return [...this.#promised.values()].filter(({ isReplica }) => !isReplica);
  }

  /** What loads of an owner's versions have room for. */
  promisedTo(owner: string | null): Footprint[] {
    return [...this.#promised.values()].filter((one) => one.owner === owner);
  }

  /** Ends a promise: what was promised is held, or not needed any more. */
  release(place: symbol): void {
    this.#promised.delete(place);
  }

  /**
   * Whether there is room once what `ending` held is free. What is larger than all memory of the host or of a device may still be alone there: each process has a limit
   * of its own.
   */
  fits({ device, bytes, deviceBytes }: Footprint, ending: readonly Footprint[] = []): boolean {
    if (!this.#isRoom('cpu', this.#all(), ending, 'bytes', bytes)) return false;
    return (
      device === 'cpu' ||
      this.#isRoom(
        device,
        this.#on(device),
        ending.filter((one) => one.device === device),
        'deviceBytes',
        deviceBytes,
      )
    );
  }

  memoryOf(device: string): DeviceMemory {
    const memoryBytes = device === 'cpu' ? sumOf(this.#all(), 'bytes') : sumOf(this.#on(device), 'deviceBytes');
    return { device, memoryBytes, memoryBytesMax: this.#boundOf(device) };
  }

  #isRoom(device: string, taken: readonly Footprint[], ending: readonly Footprint[], key: 'bytes' | 'deviceBytes', bytes: number): boolean {
    return taken.length === ending.length || sumOf(taken, key) - sumOf(ending, key) + bytes <= this.#boundOf(device);
  }

  #boundOf(device: string): number {
    if (device === 'cpu') return this.#bounds.memoryBytesMax;
    return Math.min(this.#bounds.deviceMemoryBytesMax, this.#has.get(device) ?? Number.POSITIVE_INFINITY);
  }

  #all(): Footprint[] {
    return [...this.#held(), ...this.#promised.values()];
  }

  #on(device: string): Footprint[] {
    return this.#all().filter((one) => one.device === device);
  }
}

export function sumOf(taken: readonly Footprint[], key: 'bytes' | 'deviceBytes'): number {
  return taken.reduce((sum, one) => sum + one[key], 0);
}
