import { readFileSync } from 'node:fs';
import { MercatoError } from '../base/errors.ts';
import { kindOf } from './budget.ts';
import { boxed, type CheckOptions, type Gate, inRunner, mayBeDevices, rejected, TooSlow } from './check-runner.ts';
import { RunnerLost, RunnerOverran } from './connection.ts';
import { type Fallback, faultOf } from './devices.ts';
import type { Lender } from './fleet-port.ts';
import type { Hardware } from './hardware.ts';
import type { Answered, Profile } from './profile.ts';
import { checkSamples } from './samples.ts';

/** What a version runs on: the chain of devices, what computes there, and the runtime that there are. Another one may answer its samples otherwise. */
export type Grounds = Pick<Profile, 'devices' | 'runtime'> & { hardware: Hardware };
/** Where of these a version answers its samples, and where not; a device of which that cannot be told is in neither. `fault`: why it does on none; null: it does on one. */
export type Verified = Grounds & Pick<Profile, 'verifiedOn' | 'fallbacks'> & { fault: MercatoError | null };

const { version } = JSON.parse(readFileSync(new URL(import.meta.resolve('onnxruntime-node/package.json')), 'utf8')) as { version: string };
export const RUNTIME = `onnxruntime-node ${version}`;

/** As `Inference.grounds` says. */
export async function groundsOf(fleet: Lender): Promise<Grounds> {
  return { devices: await fleet.devices(), hardware: await fleet.hardware(), runtime: RUNTIME };
}

/** As `Inference.verify` says, in the thread of the gate. */
export async function verifySamples(model: Uint8Array, gate: Gate, fleet: Lender): Promise<Verified> {
  const grounds = await groundsOf(fleet);
  const { devices } = grounds;
  const where = { fleet, devices, answered: [], rowsMax: Number.POSITIVE_INFINITY };
  const { verifiedOn, fallbacks, failures } = await askSamples(model, gate, boxed(gate), where);
  if (verifiedOn.length > 0) return { ...grounds, verifiedOn, fallbacks, fault: null };
  const untold = failures.find((failure) => !isVerdict(failure));
  if (untold !== undefined) throw untold instanceof MercatoError && untold.cause !== undefined ? untold.cause : untold;
  const fault = rejected(failures.at(-1));
  if (!(fault instanceof MercatoError)) throw fault;
  return { ...grounds, verifiedOn, fallbacks, fault };
}

/** Of a model that answered before, a crash, a late run and a lack of room or time may be the host's. */
function isVerdict(failure: unknown): boolean {
  if (failure instanceof TooSlow || failure instanceof RunnerOverran || !(failure instanceof MercatoError)) return false;
  const { code, cause } = failure;
  return ['MODEL_REJECTED', 'MODEL_FAILED'].includes(code) && !(cause instanceof RunnerLost || cause instanceof RunnerOverran);
}

/** `answered`: devices that are known to answer; `rowsMax`: what was said of samples' rows when they were given. */
type Where = { fleet: Lender; devices: readonly string[]; answered: readonly string[]; rowsMax: number };

/** Runs the samples on the first device of each kind and hardware, whose others count like it, or on the next of them where it does not answer. */
export async function askSamples(
  model: Uint8Array,
  gate: Gate,
  box: CheckOptions,
  { fleet, devices, answered, rowsMax }: Where,
): Promise<{ verifiedOn: Answered[]; fallbacks: Fallback[]; failures: unknown[] }> {
  const hardware = await fleet.hardware();
  const answeredOn = (device: string): Answered => ({ device, hardware: hardware[device], runtime: RUNTIME });
  const isAlike = (a: string, b: string) => kindOf(a) === kindOf(b) && hardware[a] === hardware[b];
  const verifiedOn = answered.map(answeredOn);
  const fallbacks: Fallback[] = [];
  const failures: unknown[] = [];
  for (const device of devices) {
    try {
      if (!verifiedOn.some((known) => isAlike(known.device, device)))
        await inRunner(model, { ...box, device }, fleet, ({ signature, run }) => checkSamples(gate.samples ?? [], signature, rowsMax, run));
      verifiedOn.push(answeredOn(device));
    } catch (error) {
      failures.push(error);
      // No time is left for those after it.
      if (error instanceof TooSlow) break;
      if (mayBeDevices(error)) fallbacks.push({ device, hardware: hardware[device], fault: faultOf(error) });
    }
  }
  return { verifiedOn, fallbacks, failures };
}
