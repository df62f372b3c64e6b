import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { createLog } from '../../src/base/log.ts';
import { createInference, type Inference, type RunnableVersion, type RunRequest, type Tensor } from '../../src/inference/inference.ts';

/** An Inference that ends, with every process of it, when the test does. */
export async function testInference(options: { dataDir?: string; spares?: number; maxLoaded?: number } = {}): Promise<Inference> {
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-test-'));
  const inference = createInference({ dataDir, spares: 0, maxLoaded: 4, devices: '', ...options }, createLog('error'));
  onTestFinished(async () => {
    await inference[Symbol.asyncDispose]();
    await rm(dataDir, { recursive: true, force: true });
  });
  return inference;
}

/** A version of one symbolic row dimension, joinable up to 8 rows, of one input `x` and the given model. */
export function versionOf(model: Uint8Array, changes: Partial<RunnableVersion> = {}): RunnableVersion {
  const x = { name: 'x', datatype: 'FP32', shape: [-1, 2], dimensions: ['N', null] } as const;
  return {
    id: 'version',
    readModel: async () => model,
    signature: { inputs: [x], outputs: [{ ...x, name: 'y' }], batchDimension: 'N' },
    joinable: true,
    shared: false,
    maxBatchRows: 8,
    runLimitMs: 30_000,
    threads: 1,
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
