/** What something takes or is expected to take: `bytes` of the host's memory, and `deviceBytes` of its device's, where that is not the CPU. */
export type Footprint = { device: string; bytes: number; deviceBytes: number };

/** What of a device's memory is taken, and may be; the CPU's is the host's. */
export type DeviceMemory = { device: string; memoryBytes: number; memoryBytesMax: number };

/** Bounds of the memory of the host, and of each of its other devices. */
export type MemoryBounds = { memoryBytesMax: number; deviceMemoryBytesMax: number };

/** Node with ONNX Runtime, before a model, without the code that all share (52 MiB measured, November 2026), and what a model takes of its file's size. */
const RUNNER_BYTES = 64 * 1024 ** 2;
const FILE_FACTOR = 2;

/**
 * What a runner with a model is expected to take. `peakBytes`: the most that the model's process was seen to hold; null: it was never measured. ONNX Runtime
 * tells nobody what it holds on a device, so that is what it was seen to hold beyond an empty runner, or what its file lets expect.
 */
export function footprintOf(device: string, fileBytes: number, peakBytes: number | null): Footprint {
  const modelBytes = FILE_FACTOR * fileBytes;
  const bytes = peakBytes ?? RUNNER_BYTES + modelBytes;
  return { device, bytes, deviceBytes: device === 'cpu' ? 0 : Math.max(modelBytes, bytes - RUNNER_BYTES) };
}

/** Knows what is free: what is held, of which `held` tells, and what is promised to a load counts as taken. */
export class MemoryBudget {
  readonly #bounds: MemoryBounds;
  readonly #held: () => readonly Footprint[];
  readonly #promised = new Map<symbol, Footprint>();

  constructor(bounds: MemoryBounds, held: () => readonly Footprint[]) {
    this.#bounds = bounds;
    this.#held = held;
  }

  /** Loads that have room and hold nothing yet. */
  get promised(): number {
    return this.#promised.size;
  }

  promise(place: symbol, footprint: Footprint): void {
    this.#promised.set(place, footprint);
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
    return device === 'cpu' ? this.#bounds.memoryBytesMax : this.#bounds.deviceMemoryBytesMax;
  }

  #all(): Footprint[] {
    return [...this.#held(), ...this.#promised.values()];
  }

  #on(device: string): Footprint[] {
    return this.#all().filter((one) => one.device === device);
  }
}

function sumOf(taken: readonly Footprint[], key: 'bytes' | 'deviceBytes'): number {
  return taken.reduce((sum, one) => sum + one[key], 0);
}
