/** P9 and LOADS of the engine by itself: its runners as the server has them, without HTTP and bill. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLog } from '../../src/base/log.ts';
import {
  createFleet,
  createInference,
  type FleetConfig,
  type Inference,
  type RunnableVersion,
  type Tensor,
} from '../../src/inference/inference.ts';
import { node, tensor } from '../../src/inference/onnx/onnx.ts';
import { loopModel, tinyModel } from '../inference/tiny-models.ts';
import type { Figure } from './figure.ts';
import { ROOT } from './processes.ts';
import { type Effort, median } from './sides.ts';

export type Engine = AsyncDisposable & {
  inference: Inference;
  version(id: string, file: string, changes?: Partial<RunnableVersion>): RunnableVersion;
};

export const LOOP = 'loop';

/** `y` = this version's number, as often as `x` has rows; out of a table of 400 KB, as `digits` has weights. */
function numberedModel(number: number): Uint8Array {
  const table = tensor('table', 'FP32', [100_000], new Float32Array(100_000).fill(number));
  return tinyModel([['x', 'INT64', ['N']]], [['y', 'FP32', ['N']]], [node('Gather', ['table', 'x'], ['y'])], [table]);
}

/** Reads `loop`, numbers, and the names of shipped models. */
export async function openEngine(changes: Partial<FleetConfig>): Promise<Engine> {
  const stack = new AsyncDisposableStack();
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-bench-'));
  stack.defer(() => rm(dataDir, { recursive: true, force: true }));
  const readModel = async (file: string) =>
    file === LOOP
      ? loopModel()
      : /^\d+$/.test(file)
        ? numberedModel(Number(file))
        : new Uint8Array(await readFile(join(ROOT, 'models', file, 'model.onnx')));
  const bounds = {
    spares: 1,
    maxLoaded: 16,
    memoryBytesMax: 2 ** 34,
    deviceMemoryBytesMax: 2 ** 34,
    keepAliveMs: 600_000,
    replicasMax: 1,
    devices: 'cpu',
    deviceEnvironment: {},
  };
  const fleet = stack.use(createFleet({ dataDir, readModel, ...bounds, ...changes }, createLog('error')));
  const inference = stack.use(createInference(fleet));
  const signature = { inputs: [], outputs: [], batchDimension: 'N' };
  const common = {
    owner: 'publisher',
    joinable: true,
    shared: false,
    trusted: true,
    maxBatchRows: 64,
    runLimitMs: 10_000,
    threads: 1,
    passedOver: [],
    verifiedOn: null,
    measuredLimit: null,
    fixedRows: null,
    peakMemoryBytes: null,
    peakOnDevice: null,
  };
  return {
    inference,
    version: (id, file, more) => ({ id, file, signature, ...common, ...more }),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

const image: Tensor = { name: 'image', datatype: 'UINT8', shape: [1, 28, 28], data: new Uint8Array(784) };
export const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
export const at = (values: readonly number[], share: number) =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN;

async function spareReady(inference: Inference): Promise<void> {
  while ((await inference.status()).spares === 0) await pause(20);
}

/** P9: the first call to a model that is not loaded, with a spare waiting. */
export async function firstCall(effort: Effort): Promise<Figure> {
  await using engine = await openEngine({});
  const { inference } = engine;
  const times: number[] = [];
  const memory: number[] = [];
  for (let round = 0; round < Math.max(5, effort.rounds); round++) {
    await spareReady(inference);
    await pause(200);
    const startedMs = performance.now();
    await inference.run({
      version: engine.version(`v${round}`, 'digits'),
      tenantKey: 'a',
      priority: 0,
      inputs: [image],
      outputs: null,
      deadlineMs: 30_000,
    });
    times.push(performance.now() - startedMs);
    const { deployments } = await inference.status();
    memory.push(deployments.find(({ versionId }) => versionId === `v${round}`)?.replicas[0]?.memoryBytes ?? Number.NaN);
  }
  return {
    ...{ id: 'P9', what: 'first call to an unloaded model, a spare waiting', unit: 'ms', rounds: times, value: median(times) },
    ours: `p50 ${median(times).toFixed(0)} ms; ${(median(memory) / 2 ** 20).toFixed(0)} MiB of its own a model`,
    theirs: '',
    mark: { most: 100 },
    goal: { most: 80 },
    notes: [],
  };
}

/** LOADS: 200 versions with a file each, called in turn under room for 10: whether a call fails or is answered by another, and what stays behind. */
export async function reloads(): Promise<Figure> {
  await using engine = await openEngine({ maxLoaded: 10 });
  const { inference } = engine;
  const [versions, sizes, times]: [number, number[], number[]] = [200, [], []];
  let failed = 0;
  const own: number[] = [];
  for (let call = 0; call < 2 * versions; call++) {
    const number = call % versions;
    const version = engine.version(`v${number}`, String(number));
    const inputs: Tensor[] = [{ name: 'x', datatype: 'INT64', shape: [1], data: new Uint8Array(8) }];
    const startedMs = performance.now();
    await inference.run({ version, tenantKey: 'a', priority: 0, inputs, outputs: null, deadlineMs: 30_000 }).then(
      ({ outputs: [y] }) => {
        times.push(performance.now() - startedMs);
        if (new DataView((y?.data ?? new Uint8Array(4)).slice().buffer).getFloat32(0, true) !== number) failed++;
      },
      () => failed++,
    );
    if (call % 40 !== 39) continue;
    own.push(process.memoryUsage.rss() / 2 ** 20);
    sizes.push(((await inference.status()).memory[0]?.memoryBytes ?? Number.NaN) / 2 ** 20);
  }
  const mib = (values: readonly number[]) => values.map((value) => value.toFixed(0)).join(' ');
  return {
    ...{
      id: 'LOADS',
      what: '400 first calls of 200 versions under room for 10: calls that failed, or had the answer of another',
      unit: '×',
      rounds: [failed],
      value: failed,
    },
    ours: `p50 ${at(times, 0.5).toFixed(0)}, p99 ${at(times, 0.99).toFixed(0)} ms a load and call`,
    theirs: '',
    mark: { most: 0 },
    goal: { most: 0 },
    notes: [`LOADS MiB of the runners, every 40 calls: ${mib(sizes)}`, `LOADS MiB of this process: ${mib(own)}`],
  };
}
