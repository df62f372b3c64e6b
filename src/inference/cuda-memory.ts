import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const MIB = 1024 ** 2;
const LIMIT_MS = 2_000;

/** Bytes that processes hold of CUDA devices, by process id. Empty where the driver's tool is absent, or does not see who this process sees, as in some containers. */
export async function cudaBytesByProcess(): Promise<ReadonlyMap<number, number>> {
  return new Map(await query('--query-compute-apps=pid,used_memory'));
}

/** Bytes that CUDA devices have, by their number in the order of the bus; empty as above. */
export async function cudaBytesByDevice(): Promise<ReadonlyMap<number, number>> {
  return new Map(await query('--query-gpu=index,memory.total'));
}

/** Pairs of a number and MiB, as bytes, of NVIDIA's System Management Interface; what it does not know it writes in brackets. */
async function query(what: string): Promise<[number, number][]> {
  const answer = await promisify(execFile)('nvidia-smi', [what, '--format=csv,noheader,nounits'], { timeout: LIMIT_MS }).catch(() => null);
  const pairs = (answer?.stdout ?? '').split('\n').map((line) => line.split(',').map((cell) => Number.parseInt(cell, 10)));
  return pairs.flatMap(([id = Number.NaN, mib = Number.NaN]) => (Number.isNaN(id + mib) ? [] : [[id, mib * MIB]]));
}
