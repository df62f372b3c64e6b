import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bodyOf, type PredictCall } from './market.ts';
import { runJson, type Started, start } from './processes.ts';
import type { LoopMeasured, LoopOrder } from './run-loop.ts';
import type { Side } from './sides.ts';

export type Baseline = AsyncDisposable & { pid: number; side(call: PredictCall): Side };

/** A bare Apollo Server on Fastify whose resolver returns a constant. */
export async function openBare(): Promise<Baseline> {
  return baseline('bare Apollo', await start('test/bench/bare.ts', { NODE_ENV: 'production' }, /http:\/\/\S+\n/));
}

export type NaiveOptions = {
  path: string;
  datatype: string;
  threads: number;
  nodeOptions?: readonly string[];
  env?: Record<string, string>;
};

/** An Apollo Server on Fastify whose resolver runs each request alone, in its process. */
export async function openNaive({ path, datatype, threads, nodeOptions = [], env = {} }: NaiveOptions): Promise<Baseline> {
  const ready = /http:\/\/\S+\n/;
  const args = [path, datatype, String(threads)];
  return baseline('naive Apollo', await start('test/bench/naive.ts', { NODE_ENV: 'production', ...env }, ready, nodeOptions, args));
}

function baseline(name: string, server: Started): Baseline {
  return {
    pid: server.pid,
    side: (call) => ({
      name,
      url: `${server.output.trim()}/graphql`,
      headers: {},
      body: bodyOf(call),
      pids: async () => ({ server: [server.pid], runners: [], database: [] }),
    }),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

/** `session.run` alone, in a process of its own. */
export function runLoop(order: LoopOrder): Promise<LoopMeasured> {
  return runJson<LoopMeasured>('test/bench/run-loop.ts', [], JSON.stringify(order));
}

/** A model as a file, for a baseline that reads one; its folder goes with `stack`. */
export async function modelFile(stack: AsyncDisposableStack, bytes: Uint8Array): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'mercato-bench-model-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, 'model.onnx');
  await writeFile(path, bytes);
  return path;
}
