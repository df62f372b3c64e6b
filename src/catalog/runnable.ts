import { type Profile, RUNTIME, type RunnableVersion, type SeenOn, type Signature, type VersionDevices } from '../inference/inference.ts';
import type { ModelVersionView } from './views.ts';

/** A version as the inference loads it. */
export function runnable(version: ModelVersionView, signature: Signature): RunnableVersion {
  const { id, tenantId, sha256, joinable, trusted, maxBatchRows, runLimitMs, threads, profile, contents } = version;
  const shared = trusted || (contents?.rowsProved ?? false);
  const peaks = { peakMemoryBytes: profile?.peakMemoryBytes || null, peakOnDevice: profile?.peakOnDevice ?? null };
  const fixedRows = profile?.fixedRows ?? null;
  const measuredLimit = profile ? { device: profile.device, runLimitMs: profile.runLimitMs } : null;
  return {
    id,
    owner: tenantId,
    file: sha256,
    signature,
    joinable,
    shared,
    trusted,
    maxBatchRows,
    runLimitMs,
    threads,
    fixedRows,
    measuredLimit,
    ...devicesOf(version),
    ...peaks,
  };
}

/** `profile`: as far as it was asked; null: not yet. */
type Measured = { sampleCount: number; profile: Pick<Profile, 'fallbacks' | 'verifiedOn'> | null };

/** What was answered by another runtime than that of this process tells nothing. */
export function devicesOf({ sampleCount, profile }: Measured): VersionDevices {
  const passedOver = profile?.fallbacks?.map(seenOn) ?? [];
  const answered = profile?.verifiedOn.filter(({ runtime }) => runtime === RUNTIME) ?? [];
  return { passedOver, verifiedOn: sampleCount === 0 ? null : answered.map(seenOn) };
}

const seenOn = ({ device, hardware }: SeenOn): SeenOn => ({ device, hardware });
