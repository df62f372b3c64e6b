import type { RunnableVersion, Signature } from '../inference/inference.ts';
import type { ModelStore } from './store.ts';
import type { ModelVersionView } from './views.ts';

/** A version as the inference loads it. */
export function runnable(store: ModelStore, version: ModelVersionView, signature: Signature): RunnableVersion {
  const { id, sha256, joinable, trusted, maxBatchRows, runLimitMs, threads } = version;
  return { id, readModel: () => store.read(sha256), signature, joinable, shared: trusted, maxBatchRows, runLimitMs, threads };
}
