import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const MIB = 1024 ** 2;
/** The driver's tool takes 20 to 35 ms, and seconds where the driver is not kept in memory; of a device that is gone it may never answer. */
const LIMIT_MS = 10_000;
const WAIT_MS = 1_000;
const FRESH_MS = 500;
const KNOWN_MS = 10_000;

/** Bytes that processes hold of CUDA devices, by process id. Empty where the driver's tool is absent, or does not see who this process sees, as in some containers. */
export class CudaMemory {
  #known: ReadonlyMap<number, number> = new Map();
  #knownMs = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | null = null;
  #askedMs = 0;

  /** As of half a second ago at most, or, where the tool takes longer than a second, of the last time that it answered, at most ten ago. */
  async byProcess(): Promise<ReadonlyMap<number, number>> {
    if (performance.now() - this.#knownMs > FRESH_MS) {
      if (this.#asking === null) this.#askedMs = performance.now();
      this.#asking ??= this.#ask();
      const leftMs = this.#askedMs + WAIT_MS - performance.now();
      if (leftMs > 0) await Promise.race([this.#asking, sleep(leftMs, undefined, { ref: false })]);
    }
    return performance.now() - this.#knownMs < KNOWN_MS ? this.#known : new Map();
  }

  /** As of now; waits ten seconds for it. */
  async now(): Promise<ReadonlyMap<number, number>> {
    return sums(await query('--query-compute-apps=pid,used_memory'));
  }

  async #ask(): Promise<void> {
    this.#known = await this.now();
    this.#knownMs = performance.now();
    this.#asking = null;
  }
}

/** Bytes that CUDA devices have, by their number in the order of the bus; empty as above. */
export async function cudaBytesByDevice(): Promise<ReadonlyMap<number, number>> {
  return sums(await Promise.race([query('--query-gpu=index,memory.total'), sleep(WAIT_MS, [], { ref: false })]));
}

/** Names of CUDA devices with the version of their driver, by their number in the order of the bus; waits ten seconds for them, and is empty as above. */
export async function cudaModels(): Promise<ReadonlyMap<number, string>> {
  const rows = await table('--query-gpu=index,name,driver_version');
  const told = rows.filter(([index = '', name, driver]) => /^\d+$/.test(index) && name && driver);
  return new Map(told.map(([index, name, driver]) => [Number(index), `${name} ${driver}`]));
}

const LIMITS = { timeout: LIMIT_MS, killSignal: 'SIGKILL' } as const;

type Pair = readonly [id: number, bytes: number];

/** A number and MiB a line; what the tool does not know it writes in brackets. */
async function query(what: string): Promise<Pair[]> {
  const pairs = (await table(what)).map((cells) => cells.map((cell) => Number.parseInt(cell, 10)));
  return pairs.flatMap(([id = Number.NaN, mib = Number.NaN]) => (Number.isNaN(id + mib) ? [] : [[id, mib * MIB] as const]));
}

/** Cells of NVIDIA's System Management Interface, by lines; none where the tool fails. */
async function table(what: string): Promise<string[][]> {
  const answer = await promisify(execFile)('nvidia-smi', [what, '--format=csv,noheader,nounits'], LIMITS).catch(() => null);
  return (answer?.stdout ?? '').split('\n').map((line) => line.split(',').map((cell) => cell.trim()));
}

/** A process may hold some of several devices. */
function sums(pairs: readonly Pair[]): Map<number, number> {
  const total = new Map<number, number>();
  for (const [id, bytes] of pairs) total.set(id, (total.get(id) ?? 0) + bytes);
  return total;
}
