import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const MIB = 1024 ** 2;
/** The driver's tool takes 20 to 35 ms, and seconds where the driver is not kept in memory; of a device that is gone it may never answer. */
const WAIT_MS = 1_000;
const FRESH_MS = 500;

/** Bytes that processes hold of CUDA devices, by process id. Empty where the driver's tool is absent, or does not see who this process sees, as in some containers. */
export class CudaMemory {
  #known: ReadonlyMap<number, number> = new Map();
  #knownMs = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | null = null;

  /** As of half a second ago at most, or, where the tool takes longer than a second, of the last time that it answered. */
  async byProcess(): Promise<ReadonlyMap<number, number>> {
    if (performance.now() - this.#knownMs > FRESH_MS) {
      this.#asking ??= this.#ask();
      await Promise.race([this.#asking, sleep(WAIT_MS, undefined, { ref: false })]);
    }
    return this.#known;
  }

  async #ask(): Promise<void> {
    this.#known = sums(await query('--query-compute-apps=pid,used_memory'));
    this.#knownMs = performance.now();
    this.#asking = null;
  }
}

/** Bytes that CUDA devices have, by their number in the order of the bus; empty as above. */
export async function cudaBytesByDevice(): Promise<ReadonlyMap<number, number>> {
  return sums(await Promise.race([query('--query-gpu=index,memory.total'), sleep(WAIT_MS, [], { ref: false })]));
}

type Pair = readonly [id: number, bytes: number];

/** Of NVIDIA's System Management Interface: a number and MiB a line; what it does not know it writes in brackets. */
async function query(what: string): Promise<Pair[]> {
  const answer = await promisify(execFile)('nvidia-smi', [what, '--format=csv,noheader,nounits']).catch(() => null);
  const pairs = (answer?.stdout ?? '').split('\n').map((line) => line.split(',').map((cell) => Number.parseInt(cell, 10)));
  return pairs.flatMap(([id = Number.NaN, mib = Number.NaN]) => (Number.isNaN(id + mib) ? [] : [[id, mib * MIB] as const]));
}

/** A process may hold some of several devices. */
function sums(pairs: readonly Pair[]): Map<number, number> {
  const total = new Map<number, number>();
  for (const [id, bytes] of pairs) total.set(id, (total.get(id) ?? 0) + bytes);
  return total;
}
