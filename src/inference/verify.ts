import { readFileSync } from 'node:fs';
import { MercatoError } from '../base/errors.ts';
import { kindOf } from './budget.ts';
import { boxed, type CheckOptions, type Gate, inRunner, mayBeDevices, rejected, TooSlow } from './check-runner.ts';
import { RunnerLost, RunnerOverran } from './connection.ts';
import { type Fallback, faultOf } from './devices.ts';
import type { FleetPort } from './fleet-port.ts';
import type { Answered, Profile } from './profile.ts';
import { checkSamples } from './samples.ts';

/** What a version runs on: the chain of devices and the runtime that there are. Another one may answer its samples otherwise. */
export type Grounds = Pick<Profile, 'devices' | 'runtime'>;
/** Where of these a version answers its samples, and where not; a device of which that cannot be told is in neither. */
export type Verified = Grounds & Pick<Profile, 'verifiedOn' | 'fallbacks'>;

const { version } = JSON.parse(readFileSync(new URL(import.meta.resolve('onnxruntime-node/package.json')), 'utf8')) as { version: string };
export const RUNTIME = `onnxruntime-node ${version}`;

/** As `Inference.grounds` says. */
export async function groundsOf(fleet: FleetPort): Promise<Grounds> {
  return { devices: await fleet.devices(), runtime: RUNTIME };
}

/** As `Inference.verify` says. */
export async function verifySamples(model: Uint8Array, gate: Gate, fleet: FleetPort): Promise<Verified> {
  const { devices, runtime } = await groundsOf(fleet);
  const { verifiedOn, fallbacks, failure } = await askSamples(model, gate, boxed(gate), { fleet, devices, answered: [] });
  if (verifiedOn.length > 0) return { devices, runtime, verifiedOn, fallbacks };
  // Of a model that answered before, a crash or a late run may be the host's: the check is tried again.
  if (failure instanceof TooSlow) throw new Error('the samples could not be verified in time', { cause: failure });
  const cause = failure instanceof MercatoError && failure.cause !== undefined ? failure.cause : failure;
  throw cause instanceof RunnerLost || cause instanceof RunnerOverran ? cause : rejected(failure);
}

/** `answered`: devices that are known to answer. */
type Where = { fleet: FleetPort; devices: readonly string[]; answered: readonly string[] };

/** Runs the samples on the first device of each kind, whose others count like it, or on the next of them where it does not answer. `failure`: the last. */
export async function askSamples(
  model: Uint8Array,
  gate: Gate,
  box: CheckOptions,
  { fleet, devices, answered }: Where,
): Promise<{ verifiedOn: Answered[]; fallbacks: Fallback[]; failure: unknown }> {
  const verifiedOn: Answered[] = answered.map((device) => ({ device, runtime: RUNTIME }));
  const fallbacks: Fallback[] = [];
  let failure: unknown = null;
  for (const device of devices) {
    try {
      if (!verifiedOn.some((known) => kindOf(known.device) === kindOf(device)))
        await inRunner(model, { ...box, device }, fleet, ({ signature, run }) =>
          checkSamples(gate.samples ?? [], signature, gate.maxBatchRows, run),
        );
      verifiedOn.push({ device, runtime: RUNTIME });
    } catch (error) {
      failure = error;
      // No time is left for those after it.
      if (error instanceof TooSlow) break;
      if (mayBeDevices(error)) fallbacks.push({ device, fault: faultOf(error) });
    }
  }
  return { verifiedOn, fallbacks, failure };
}
