import { readFileSync } from 'node:fs';
import { MercatoError } from '../base/errors.ts';
import { type CallResult, connectRunner, type RunnerConnection, RunnerLost, RunnerOverran } from './connection.ts';
import { type DeviceChain, type Fallback, faultOf } from './devices.ts';
import type { FleetPort } from './fleet-port.ts';
import { loadInto } from './load.ts';
import type { Contents } from './onnx/onnx.ts';
import { probe } from './probe.ts';
import { asFixed, type Bench, isWorth, measure, type Profile, rowsToFix, threadsToTry } from './profile.ts';
import { readApart } from './reading.ts';
import { checkSamples, type Sample } from './samples.ts';
import type { LoadedModel } from './session-thread.ts';
import type { Signature, Tensor } from './tensor.ts';

/**
 * `joinable`: rows of different calls may share a run. `batchFinding` says why, or why not, in one sentence, and where more rows than `maxBatchRows`, at
 * most those asked for, were seen to fail or could not be measured.
 */
export type Inspection = {
  signature: Signature;
  joinable: boolean;
  batchFinding: string;
  maxBatchRows: number;
  profile: Profile;
};

/** `limitMs`: of the whole check, without the waits for a runner; 240 s. */
export type Gate = { runLimitMs: number; maxBatchRows: number; samples?: readonly Sample[]; limitMs?: number };

/** Told what the file says before a runtime sees it. */
export type OnRead = (contents: Contents) => Promise<void>;

/** What a version runs on: the chain of devices and the runtime that there are. Another one may answer its samples otherwise. */
export type Grounds = Pick<Profile, 'devices' | 'runtime'>;
/** What answered a version's samples. */
export type Verified = Grounds & Pick<Profile, 'device' | 'partlyOnCpu' | 'fallbacks'>;

const { version } = JSON.parse(readFileSync(new URL(import.meta.resolve('onnxruntime-node/package.json')), 'utf8')) as { version: string };
const RUNTIME = `onnxruntime-node ${version}`;

/** The whole of a check, but for the waits for a runner: less than its job may take, so that a slow model does not take the place of others. */
const GATE_MS = 240_000;

/** As `Inference.verify` says. */
export async function verifySamples(model: Uint8Array, gate: Gate, fleet: FleetPort): Promise<Verified> {
  const box = boxed(gate);
  try {
    const { done, ...chosen } = await onChain(fleet, async (device) => {
      return inRunner(model, { ...box, device }, fleet, async ({ signature, partlyOnCpu, run }) => {
        await checkSamples(gate.samples ?? [], signature, gate.maxBatchRows, run);
        return { device, partlyOnCpu, doubt: null };
      });
    });
    return { device: done.device, partlyOnCpu: done.partlyOnCpu, runtime: RUNTIME, ...chosen };
  } catch (error) {
    // Of a model that answered before, a crash or a late run may be the host's: the check is tried again.
    if (error instanceof TooSlow) throw new Error('the samples could not be verified in time', { cause: error });
    const cause = error instanceof MercatoError && error.cause !== undefined ? error.cause : error;
    throw cause instanceof RunnerLost || cause instanceof RunnerOverran ? cause : rejected(error);
  }
}

/** As `Inference.grounds` says. */
export async function groundsOf(fleet: FleetPort): Promise<Grounds> {
  return { devices: await fleet.devices(), runtime: RUNTIME };
}

/** As `Inference.inspect` says. */
export async function inspectModel(model: Uint8Array, gate: Gate, fleet: FleetPort, onRead?: OnRead): Promise<Inspection> {
  const contents = await readApart(model, gate.maxBatchRows > 1 ? [1, gate.maxBatchRows] : [1]);
  await onRead?.(contents);
  const box = boxed(gate);
  try {
    const { done, ...chosen } = await onChain(fleet, (device) => {
      return inRunner(model, { ...box, device }, fleet, (loaded) => look(loaded, gate, device));
    });
    const { signature, range, found, profile } = done;
    const finding = { signature, ...found, profile: { ...profile, ...chosen } };
    const threads = threadsToTry(profile.latencies);
    if (threads === null) return asMet(finding);
    // All is known of the version: it runs on one thread where this cannot be measured.
    const more = await inRunner(model, { ...box, threads, device: profile.device }, fleet, async (loaded) => {
      return (await measure(signature, range, found.maxBatchRows, loaded)).latencies;
    }).catch(() => []);
    const isWhole = profile.fixedRows === null || more.some(({ rows }) => rows === profile.fixedRows?.rows);
    const best = isWhole && isWorth(profile.latencies, more) ? { threads, latencies: more } : {};
    return asMet({ ...finding, profile: { ...finding.profile, ...best } });
  } catch (error) {
    throw rejected(error);
  }
}

/** With the run times that callers meet. */
function asMet({ profile, ...finding }: Inspection): Inspection {
  const { fixedRows, latencies } = profile;
  return { ...finding, profile: { ...profile, latencies: fixedRows === null ? latencies : asFixed(latencies, fixedRows.rows) } };
}

/** What one device shows of a model. `doubt`: why it may be the device that does not run it. */
async function look(loaded: Loaded, { maxBatchRows: asked, samples = [] }: Gate, device: string) {
  const { signature, loadMs, partlyOnCpu } = loaded;
  // Before random inputs, which may end the runner of a model that is good for its own.
  await checkSamples(samples, signature, asked, loaded.run);
  const { range, ...found } = await probe(signature, async (inputs, rows) => (await loaded.run(inputs, rows)).outputs);
  const { latencies, failedRows, untriedRows } = await measure(signature, range, asked, loaded);
  const most = failedRows === null && untriedRows === null ? undefined : latencies.at(-1)?.rows;
  const end = failedRows === null ? `There was no time or memory to measure ${untriedRows} rows` : `A run of ${failedRows} rows failed`;
  const limit = most === undefined ? '' : ` ${end}: its batch limit is ${most}.`;
  // The CPU has no plans to make anew.
  const mayFix = found.joinable && failedRows === null && device !== 'cpu';
  const fixedRows = mayFix ? await rowsToFix(signature, range, latencies, loaded) : null;
  const fixed = fixedRows === null ? '' : ` Every run has ${fixedRows} rows, since another number costs ${device} more than to fill it up.`;
  const profile = {
    ...{ device, partlyOnCpu, runtime: RUNTIME, loadMs, threads: 1, latencies },
    peakMemoryBytes: await peakOf(loaded),
    peakOnDevice: onDevice(device, await loaded.deviceBytes()),
    fixedRows: fixedRows === null ? null : { device, rows: fixedRows },
  };
  const { batchFinding } = found;
  const doubt = range === null ? batchFinding : null;
  return { signature, range, found: { ...found, batchFinding: batchFinding + limit + fixed, maxBatchRows: most ?? asked }, profile, doubt };
}

const onDevice = (device: string, bytes: number | null) => (bytes === null ? null : { device, bytes });

type Loaded = Bench & LoadedModel & { loadMs: number };
/** `time`: what is left of the check's, in all its runners. */
type Options = Omit<Gate, 'samples'> & { threads: number; time: { leftMs: number }; limitMs: number };

const boxed = ({ limitMs = GATE_MS, ...gate }: Gate): Options => ({ ...gate, threads: 1, time: { leftMs: limitMs }, limitMs });

class TooSlow extends MercatoError {
  constructor({ limitMs }: Options) {
    super('MODEL_REJECTED', `The checks of the model took longer than ${limitMs / 1000} s; it has to load and run faster.`);
  }
}

/**
 * Does something on each device of the chain until one does it well. What fails on the last is the model's fault, on another it may be the device's. A model
 * that no device is sure of stays on the first that took it.
 */
async function onChain<T extends { doubt: string | null }>(
  fleet: FleetPort,
  work: (device: string) => Promise<T>,
): Promise<{ done: T; devices: DeviceChain; fallbacks: Fallback[] }> {
  const devices = await fleet.devices();
  const fallbacks: Fallback[] = [];
  let unsure: { done: T; devices: DeviceChain; fallbacks: Fallback[] } | null = null;
  let failure: unknown = null;
  for (const device of devices) {
    try {
      const done = await work(device);
      if (done.doubt === null) return { done, devices, fallbacks };
      unsure ??= { done, devices, fallbacks: [...fallbacks] };
      fallbacks.push({ device, fault: done.doubt });
    } catch (error) {
      failure = error;
      if (error instanceof TooSlow || !mayBeDevices(error)) break;
      fallbacks.push({ device, fault: faultOf(error) });
    }
  }
  if (unsure === null) throw failure;
  return unsure;
}

function mayBeDevices(error: unknown): boolean {
  return error instanceof RunnerLost || (error instanceof MercatoError && ['MODEL_FAILED', 'MODEL_REJECTED'].includes(error.code));
}

/** Does something with a runner that serves nothing else, and ends it. */
async function inRunner<T>(
  model: Uint8Array,
  options: Options & { device: string },
  fleet: FleetPort,
  work: (loaded: Loaded) => Promise<T>,
): Promise<T> {
  const loan = await fleet.borrow(model.length, options.device);
  const startedMs = performance.now();
  let late = false;
  const overtime = setTimeout(() => {
    late = true;
    void fleet.giveBack(loan.id);
  }, options.time.leftMs);
  try {
    const connection = await connectRunner({ path: loan.path, device: options.device }, () => {});
    const runner = { connection, kill: () => void fleet.giveBack(loan.id) };
    const { device, threads, maxBatchRows, runLimitMs } = options;
    const load = { device, threads, maxBatchRows, runLimitMs, joinable: false, shared: false, fixedRows: null };
    const described = await loadInto(runner, load, model.slice());
    const loadMs = performance.now() - startedMs;
    const run = (inputs: readonly Tensor[], rows: number) => runAlone(connection, inputs, rows, options.runLimitMs);
    const done = await work({
      ...described,
      loadMs,
      run,
      stats: () => connection.stats(),
      deviceBytes: () => fleet.deviceBytesOf(loan.id),
    });
    if (late) throw new TooSlow(options);
    return done;
  } catch (error) {
    throw late ? new TooSlow(options) : error;
  } finally {
    clearTimeout(overtime);
    options.time.leftMs -= performance.now() - startedMs;
    await fleet.giveBack(loan.id);
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
