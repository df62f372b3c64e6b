import type { RunnableVersion, Signature } from '../inference/inference.ts';
import type { ModelVersionView } from './views.ts';

/** A version as the inference loads it. */
export function runnable(version: ModelVersionView, signature: Signature): RunnableVersion {
  const { id, sha256, joinable, trusted, maxBatchRows, runLimitMs, threads, profile, contents } = version;
  const shared = trusted || (contents?.rowsProved ?? false);
  const peaks = { peakMemoryBytes: profile?.peakMemoryBytes || null, peakOnDevice: profile?.peakOnDevice ?? null };
  const fixedRows = profile?.fixedRows ?? null;
  const passedOver = profile?.fallbacks?.map(({ device }) => device) ?? [];
  return { id, file: sha256, signature, joinable, shared, trusted, maxBatchRows, runLimitMs, threads, passedOver, fixedRows, ...peaks };
}
