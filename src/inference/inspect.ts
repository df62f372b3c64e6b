import { MercatoError } from '../base/errors.ts';
import { boxed, type CheckOptions, type Gate, inRunner, type Loaded, mayBeDevices, rejected, TooSlow } from './check-runner.ts';
import { type DeviceChain, type Fallback, faultOf } from './devices.ts';
import type { Lender } from './fleet-port.ts';
import type { Contents, RejectionRule } from './onnx/onnx.ts';
import { type ProbeFinding, probe, RANGES } from './probe.ts';
import { asFixed, isWorth, measure, type Profile, rowsToFix, runLimitOf, threadsToTry } from './profile.ts';
import type { InputRange } from './random-inputs.ts';
import { checkSamples } from './samples.ts';
import type { Signature } from './tensor.ts';
import { askSamples, RUNTIME } from './verify.ts';

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

/** As `Inference.inspect` says, of a file that was read, in the thread of the gate. */
export async function inspectModel(model: Uint8Array, contents: Contents, gate: Gate, fleet: Lender): Promise<Inspection> {
  const box = boxed(gate, runBytesOf(contents, model.length));
  try {
    const { done, ...chosen } = await onChain(fleet, (device) => lookOn(device, model, gate, box, fleet));
    const { signature, range, found, profile } = done;
    const verified = await verifiedOn(profile.device, chosen, { model, gate, box, fleet });
    const finding = { signature, ...found, profile: { ...profile, ...chosen, ...verified } };
    const threads = threadsToTry(profile.latencies);
    if (threads === null) return asMet(finding, gate, contents);
    // All is known of the version: it runs on one thread where this cannot be measured.
    const more = await inRunner(model, { ...box, threads, device: profile.device }, fleet, async (loaded) => {
      return (await measure(signature, range, found.maxBatchRows, loaded)).latencies;
    }).catch(() => []);
    const isWhole = profile.fixedRows === null || more.some(({ rows }) => rows === profile.fixedRows?.rows);
    const best = isWhole && isWorth(profile.latencies, more) ? { threads, latencies: more } : {};
    return asMet({ ...finding, profile: { ...finding.profile, ...best } }, gate, contents);
  } catch (error) {
    throw rejected(error);
  }
}

/** What a run of one row takes by the file, with constants that the runtime computes; more rows ask for more where that is too little. */
function runBytesOf({ estimates: [run] }: Contents, fileBytes: number): number {
  return (run?.activationBytes ?? 0) + Math.max(0, (run?.weightBytes ?? 0) - fileBytes);
}

/** `longestMs`: of all runs, the first of each size included, which may plan. */
type Found = Omit<Inspection, 'profile'> & { profile: Omit<Profile, 'runLimitMs'> & { longestMs: number } };

/** With the run times that callers meet, and what they make of the run limit. */
function asMet({ profile: { longestMs, ...profile }, ...finding }: Found, gate: Gate, contents: Contents): Inspection {
  const { fixedRows } = profile;
  const latencies = fixedRows === null ? profile.latencies : asFixed(profile.latencies, fixedRows.rows);
  const runLimitMs = runLimitOf({ ...finding, latencies, longestMs }, contents, gate.runLimitMs);
  return { ...finding, profile: { ...profile, latencies, runLimitMs } };
}

type Chosen = { devices: DeviceChain; fallbacks: Fallback[] };

/** Where else than on `device`, which answered them, the samples are answered: a version may come to run on each device of the chain. */
async function verifiedOn(
  device: string,
  { devices, fallbacks }: Chosen,
  { model, gate, box, fleet }: { model: Uint8Array; gate: Gate; box: CheckOptions; fleet: Lender },
): Promise<Pick<Profile, 'verifiedOn' | 'fallbacks'>> {
  if ((gate.samples ?? []).length === 0) return { verifiedOn: [], fallbacks };
  const left = devices.slice(devices.indexOf(device) + 1).filter((other) => !fallbacks.some((fallback) => fallback.device === other));
  const more = await askSamples(model, gate, box, { fleet, devices: left, answered: [device], rowsMax: gate.maxBatchRows });
  return { verifiedOn: more.verifiedOn, fallbacks: [...fallbacks, ...more.fallbacks] };
}

/** What was seen in runners that ended meanwhile. */
type Known = { ranges: readonly InputRange[]; finding: ProbeFinding | null };

/** What one device shows of a model, in another runner each time that random inputs ended one. */
async function lookOn(device: string, model: Uint8Array, gate: Gate, box: CheckOptions, fleet: Lender) {
  for (let known: Known = { ranges: RANGES, finding: null }; ; ) {
    const seen = await inRunner(model, { ...box, device }, fleet, (loaded) => look(loaded, gate, device, known));
    if (seen.known === null) return seen.shown;
    known = seen.known;
  }
}

/** What a runner shows of a model, or what it showed before it ended, for another. */
async function look(loaded: Loaded, gate: Gate, device: string, { ranges, finding }: Known) {
  const { signature } = loaded;
  const { maxBatchRows: asked, samples = [] } = gate;
  // Before random inputs, which may end the runner of a model that is good for its own.
  await checkSamples(samples, signature, asked, loaded.run);
  await loaded.peakBytes();
  const probed = finding ?? (await probe(signature, async (inputs, rows) => (await loaded.run(inputs, rows)).outputs, ranges));
  const { lost, untried, range } = probed;
  if (lost && range !== null) return { known: { ranges, finding: { ...probed, lost: false } } };
  if (lost && untried.length > 0) return { known: { ranges: untried, finding: null } };
  if (lost && samples.length === 0) throw crashedAlways();
  return { known: null, shown: await shown(loaded, asked, device, probed) };
}

/** The measures of a model. `doubt`: why it may be the device that does not run it. */
async function shown(loaded: Loaded, asked: number, device: string, { joinable, batchFinding, range }: ProbeFinding) {
  const { signature, loadMs, partlyOnCpu } = loaded;
  const { latencies, failedRows, untriedRows } = await measure(signature, range, asked, loaded);
  // What was not tried of rows that may touch stays allowed: they are not split into runs, but refused.
  const ends = failedRows !== null || (untriedRows !== null && joinable);
  const most = ends ? latencies.at(-1)?.rows : undefined;
  const end = failedRows === null ? `There was no time or memory to measure ${untriedRows} rows` : `A run of ${failedRows} rows failed`;
  const limit = most === undefined ? '' : ` ${end}: its batch limit is ${most}.`;
  // The CPU has no plans to make anew.
  const mayFix = joinable && failedRows === null && device !== 'cpu';
  const fixedRows = mayFix ? await rowsToFix(signature, range, latencies, loaded) : null;
  const fixed = fixedRows === null ? '' : ` Every run has ${fixedRows} rows, since another number costs ${device} more than to fill it up.`;
  const profile = {
    ...{ device, partlyOnCpu, runtime: RUNTIME, loadMs, threads: 1, latencies },
    longestMs: loaded.longestMs(),
    peakMemoryBytes: await loaded.peakBytes(),
    peakOnDevice: onDevice(device, await loaded.deviceBytes()),
    fixedRows: fixedRows === null ? null : { device, rows: fixedRows },
  };
  const doubt = range === null ? batchFinding : null;
  return { signature, range, found: { joinable, batchFinding: batchFinding + limit + fixed, maxBatchRows: most ?? asked }, profile, doubt };
}

function crashedAlways(): MercatoError {
  const message =
    'The model crashed, or exceeded its run limit, on each random input that was tried. Give samples of inputs that it is for.';
  return new MercatoError('MODEL_REJECTED', message, { rule: 'RUNS_CRASHED' satisfies RejectionRule });
}

const onDevice = (device: string, bytes: number | null) => (bytes === null ? null : { device, bytes });

/**
 * Does something on each device of the chain until one does it well. What fails on the last is the model's fault, on another it may be the device's. A model
 * that no device is sure of stays on the first that took it.
 */
async function onChain<T extends { doubt: string | null }>(
  fleet: Lender,
  work: (device: string) => Promise<T>,
): Promise<{ done: T } & Chosen> {
  const [devices, hardware] = [await fleet.devices(), await fleet.hardware()];
  const fallback = (device: string, fault: string): Fallback => ({ device, hardware: hardware[device], fault });
  const fallbacks: Fallback[] = [];
  let unsure: ({ done: T } & Chosen) | null = null;
  let failure: unknown = null;
  for (const device of devices) {
    try {
      const done = await work(device);
      if (done.doubt === null) return { done, devices, fallbacks };
      unsure ??= { done, devices, fallbacks: [...fallbacks] };
      fallbacks.push(fallback(device, done.doubt));
    } catch (error) {
      failure = error;
      if (error instanceof TooSlow || !mayBeDevices(error)) break;
      fallbacks.push(fallback(device, faultOf(error)));
    }
  }
  if (unsure === null) throw failure;
  return unsure;
}
