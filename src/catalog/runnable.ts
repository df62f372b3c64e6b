import type { RunnableVersion, Signature } from '../inference/inference.ts';
import type { ModelVersionView } from './views.ts';

/** A version as the inference loads it. */
export function runnable(version: ModelVersionView, signature: Signature): RunnableVersion {
  const { id, sha256, joinable, trusted, maxBatchRows, runLimitMs, threads, profile, contents } = version;
  const shared = trusted || (contents?.rowsProved ?? false);
  const [peakMemoryBytes, peakDeviceBytes] = [profile?.peakMemoryBytes || null, profile?.peakDeviceBytes ?? null];
  const fixedRows = profile?.fixedRows ? { device: profile.device, rows: profile.fixedRows } : null;
  const passedOver = profile?.fallbacks?.map(({ device }) => device) ?? [];
  const peaks = { peakMemoryBytes, peakDeviceBytes };
  return { id, file: sha256, signature, joinable, shared, trusted, maxBatchRows, runLimitMs, threads, passedOver, fixedRows, ...peaks };
}
