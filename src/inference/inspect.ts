import { readFileSync } from 'node:fs';
import { MercatoError } from '../base/errors.ts';
import { type CallResult, connectRunner, type RunnerConnection, RunnerLost, RunnerOverran } from './connection.ts';
import type { FleetPort } from './fleet.ts';
import { loadInto } from './load.ts';
import { type Contents, readContents } from './onnx/onnx.ts';
import { probe } from './probe.ts';
import { type Bench, isWorth, measure, type Profile, threadsToTry } from './profile.ts';
import { checkSamples, type Sample } from './samples.ts';
import type { LoadedModel } from './session-thread.ts';
import type { Signature, Tensor } from './tensor.ts';

/**
 * `joinable`: rows of different calls may share a run. `batchFinding` says why, or why not, in one sentence, and where more rows than `maxBatchRows`, at
 * most those asked for, were seen to fail.
 */
export type Inspection = {
  signature: Signature;
  joinable: boolean;
  batchFinding: string;
  maxBatchRows: number;
  profile: Profile;
};

/** `limitMs`: of the whole check; 240 s. */
export type Gate = { runLimitMs: number; maxBatchRows: number; samples?: readonly Sample[]; limitMs?: number };

/** Told what the file says before a runtime sees it. */
export type OnRead = (contents: Contents) => Promise<void>;

/** What answers a version's samples; another one may answer otherwise. */
export type Grounds = { device: string; runtime: string };

const { version } = JSON.parse(readFileSync(new URL(import.meta.resolve('onnxruntime-node/package.json')), 'utf8')) as { version: string };
const RUNTIME = `onnxruntime-node ${version}`;

/** The whole of a check: less than its job may take, so that a slow model does not take the place of others. */
const GATE_MS = 240_000;

type Loaded = Bench & LoadedModel & { loadMs: number; device: string };

/** As `Inference.verify` says. */
export async function verifySamples(model: Uint8Array, gate: Gate, fleet: FleetPort): Promise<Grounds> {
  try {
    return await inRunner(model, boxed(gate), fleet, async ({ signature, device, run }) => {
      await checkSamples(gate.samples ?? [], signature, gate.maxBatchRows, run);
      return { device, runtime: RUNTIME };
    });
  } catch (error) {
    // Of a model that answered before, a crash or a late run may be the host's: the check is tried again.
    if (error instanceof TooSlow) throw new Error('the samples could not be verified in time', { cause: error });
    const cause = error instanceof MercatoError && error.cause instanceof RunnerOverran ? error.cause : error;
    throw cause instanceof RunnerLost || cause instanceof RunnerOverran ? cause : rejected(error);
  }
}

/** As `Inference.grounds` says. */
export async function groundsOf(fleet: FleetPort): Promise<Grounds> {
  const loan = await fleet.borrow();
  await fleet.giveBack(loan.id);
  return { device: loan.devices[0] ?? 'cpu', runtime: RUNTIME };
}

/** As `Inference.inspect` says. */
export async function inspectModel(model: Uint8Array, gate: Gate, fleet: FleetPort, onRead?: OnRead): Promise<Inspection> {
  const contents = readContents(model, gate.maxBatchRows > 1 ? [1, gate.maxBatchRows] : [1]);
  await onRead?.(contents);
  try {
    const box = boxed(gate);
    return await inRunner(model, box, fleet, async (loaded) => {
      const { signature, loadMs, device, partlyOnCpu } = loaded;
      const { range, ...found } = await probe(signature, async (inputs, rows) => (await loaded.run(inputs, rows)).outputs);
      await checkSamples(gate.samples ?? [], signature, gate.maxBatchRows, loaded.run);
      const { latencies, failedRows } = await measure(signature, range, gate.maxBatchRows, loaded);
      const most = failedRows === null ? undefined : latencies.at(-1)?.rows;
      const maxBatchRows = most ?? gate.maxBatchRows;
      const limit = most === undefined ? '' : ` A run of ${failedRows} rows failed: its batch limit is ${most}.`;
      const finding = { ...found, batchFinding: found.batchFinding + limit, maxBatchRows };
      const peakMemoryBytes = await peakOf(loaded);
      const profile = { device, partlyOnCpu, runtime: RUNTIME, loadMs, peakMemoryBytes, threads: 1, latencies };
      const threads = threadsToTry(latencies);
      if (threads === null) return { signature, ...finding, profile };
      const more = await inRunner(model, { ...box, threads }, fleet, async (second) => {
        return (await measure(signature, range, maxBatchRows, second)).latencies;
      });
      const best = isWorth(latencies, more) ? { threads, latencies: more } : {};
      return { signature, ...finding, profile: { ...profile, ...best } };
    });
  } catch (error) {
    throw rejected(error);
  }
}

type Options = Omit<Gate, 'samples'> & { threads: number; endMs: number; limitMs: number };

const boxed = ({ limitMs = GATE_MS, ...gate }: Gate): Options => ({ ...gate, threads: 1, endMs: performance.now() + limitMs, limitMs });

class TooSlow extends MercatoError {
  constructor({ limitMs }: Options) {
    super('MODEL_REJECTED', `The checks of the model took longer than ${limitMs / 1000} s; it has to load and run faster.`);
  }
}

/** Does something with a runner that serves nothing else, and ends it; on the first device that takes the model. */
async function inRunner<T>(model: Uint8Array, options: Options, fleet: FleetPort, work: (loaded: Loaded) => Promise<T>): Promise<T> {
  for (let tried = 0; ; tried++) {
    const loan = await fleet.borrow();
    let late = false;
    const overtime = setTimeout(() => {
      late = true;
      void fleet.giveBack(loan.id);
    }, options.endMs - performance.now());
    try {
      const device = loan.devices[tried] ?? 'cpu';
      const startedMs = performance.now();
      const connection = await connectRunner(loan.path, () => {});
      const runner = { connection, kill: () => void fleet.giveBack(loan.id) };
      const loading = loadInto(runner, { ...options, device, joinable: false, shared: false }, model.slice());
      const described = await loading.catch((error: unknown) => {
        if (!late && tried + 1 < loan.devices.length) return null;
        throw error;
      });
      if (described === null) continue;
      const loadMs = performance.now() - startedMs;
      const run = (inputs: readonly Tensor[], rows: number) => runAlone(connection, inputs, rows, options.runLimitMs);
      const done = await work({ ...described, loadMs, device, run, stats: () => connection.stats() });
      if (late) throw new TooSlow(options);
      return done;
    } catch (error) {
      throw late ? new TooSlow(options) : error;
    } finally {
      clearTimeout(overtime);
      await fleet.giveBack(loan.id);
    }
  }
}

/** The runner ends itself at the run limit; the deadline is only there for one that cannot. */
function runAlone(connection: RunnerConnection, inputs: readonly Tensor[], rows: number, runLimitMs: number): Promise<CallResult> {
  const request = { tenantKey: '', priority: 0, outputs: null, alone: true, rows, inputs };
  return connection.call(request, { expiresMs: performance.now() + 2 * runLimitMs + 1_000, signal: undefined });
}

/** 0 where the runner is gone. */
async function peakOf(bench: Bench): Promise<number> {
  return (await bench.stats().catch(() => null))?.peakBytes ?? 0;
}

function rejected(error: unknown): unknown {
  if (error instanceof RunnerLost)
    return new MercatoError('MODEL_REJECTED', 'The model crashed, or took over a minute, while it was loaded.');
  if (error instanceof MercatoError && error.code === 'MODEL_FAILED') {
    return new MercatoError('MODEL_REJECTED', `The model cannot be loaded: ${error.message}`);
  }
  return error;
}
