import { readFileSync } from 'node:fs';
import { MercatoError } from '../base/errors.ts';
import { kindOf } from './budget.ts';
import { boxed, type CheckOptions, type Gate, inRunner, mayBeDevices, rejected, TooSlow } from './check-runner.ts';
import { RunnerLost, RunnerOverran } from './connection.ts';
import { type Fallback, faultOf } from './devices.ts';
import type { Lender } from './fleet-port.ts';
import type { Answered, Profile } from './profile.ts';
import { checkSamples } from './samples.ts';

/** What a version runs on: the chain of devices and the runtime that there are. Another one may answer its samples otherwise. */
export type Grounds = Pick<Profile, 'devices' | 'runtime'>;
/** Where of these a version answers its samples, and where not; a device of which that cannot be told is in neither. `fault`: why it does on none; null: it does on one. */
export type Verified = Grounds & Pick<Profile, 'verifiedOn' | 'fallbacks'> & { fault: MercatoError | null };

const { version } = JSON.parse(readFileSync(new URL(import.meta.resolve('onnxruntime-node/package.json')), 'utf8')) as { version: string };
export const RUNTIME = `onnxruntime-node ${version}`;

/** As `Inference.grounds` says. */
export async function groundsOf(fleet: Lender): Promise<Grounds> {
  return { devices: await fleet.devices(), runtime: RUNTIME };
}

/** As `Inference.verify` says, in the thread of the gate. */
export async function verifySamples(model: Uint8Array, gate: Gate, fleet: Lender): Promise<Verified> {
  const { devices, runtime } = await groundsOf(fleet);
  const where = { fleet, devices, answered: [], rowsMax: Number.POSITIVE_INFINITY };
  const { verifiedOn, fallbacks, failures } = await askSamples(model, gate, boxed(gate), where);
  if (verifiedOn.length > 0) return { devices, runtime, verifiedOn, fallbacks, fault: null };
  const untold = failures.find((failure) => !isVerdict(failure));
  if (untold !== undefined) throw untold instanceof MercatoError && untold.cause !== undefined ? untold.cause : untold;
  const fault = rejected(failures.at(-1));
  if (!(fault instanceof MercatoError)) throw fault;
  return { devices, runtime, verifiedOn, fallbacks, fault };
}

/** Of a model that answered before, a crash, a late run and a lack of room or time may be the host's. */
function isVerdict(failure: unknown): boolean {
  if (failure instanceof TooSlow || failure instanceof RunnerOverran || !(failure instanceof MercatoError)) return false;
  const { code, cause } = failure;
  return ['MODEL_REJECTED', 'MODEL_FAILED'].includes(code) && !(cause instanceof RunnerLost || cause instanceof RunnerOverran);
}

/** `answered`: devices that are known to answer; `rowsMax`: what was said of samples' rows when they were given. */
type Where = { fleet: Lender; devices: readonly string[]; answered: readonly string[]; rowsMax: number };

/** Runs the samples on the first device of each kind, whose others count like it, or on the next of them where it does not answer. */
export async function askSamples(
  model: Uint8Array,
  gate: Gate,
  box: CheckOptions,
  { fleet, devices, answered, rowsMax }: Where,
): Promise<{ verifiedOn: Answered[]; fallbacks: Fallback[]; failures: unknown[] }> {
  const verifiedOn: Answered[] = answered.map((device) => ({ device, runtime: RUNTIME }));
  const fallbacks: Fallback[] = [];
  const failures: unknown[] = [];
  for (const device of devices) {
    try {
      if (!verifiedOn.some((known) => kindOf(known.device) === kindOf(device)))
        await inRunner(model, { ...box, device }, fleet, ({ signature, run }) => checkSamples(gate.samples ?? [], signature, rowsMax, run));
      verifiedOn.push({ device, runtime: RUNTIME });
    } catch (error) {
      failures.push(error);
      // No time is left for those after it.
      if (error instanceof TooSlow) break;
      if (mayBeDevices(error)) fallbacks.push({ device, fault: faultOf(error) });
    }
  }
  return { verifiedOn, fallbacks, failures };
}
