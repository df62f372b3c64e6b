import { MercatoError } from '../base/errors.ts';
import { connectRunner, RunnerLost } from './connection.ts';
import { type FleetPort, loadInto } from './fleet.ts';
import { checkModel } from './onnx/onnx.ts';
import { probe } from './probe.ts';
import type { Signature, Tensor } from './tensor.ts';

/**
 * `joinable`: rows of different calls may share a run. `batchFinding` says why, or why not, in one sentence. `warmupMs`: load and first run.
 */
export type Inspection = { signature: Signature; joinable: boolean; batchFinding: string; warmupMs: number };

/** A probe joins few rows; this bounds none of them. */
const PROBE_ROWS_MAX = 64;

/** As `Inference.inspect` says. */
export async function inspectModel(model: Uint8Array, runLimitMs: number, device: string, fleet: FleetPort): Promise<Inspection> {
  checkModel(model);
  const loan = await fleet.borrow();
  try {
    const connection = await connectRunner(loan.path, () => {});
    const runner = { connection, kill: () => void fleet.giveBack(loan.id) };
    const startedMs = performance.now();
    const options = { device, threads: 1, joinable: false, shared: false, maxBatchRows: PROBE_ROWS_MAX, runLimitMs };
    const signature = await loadInto(runner, options, model);
    let warmupMs: number | null = null;
    const run = async (inputs: readonly Tensor[], rows: number): Promise<Tensor[]> => {
      const request = { tenantKey: '', priority: 0, outputs: null, alone: true, rows, inputs };
      // The runner ends itself at the run limit; the deadline is only there for one that cannot.
      const { outputs } = await connection.call(request, {
        expiresMs: performance.now() + 2 * runLimitMs + 1_000,
        signal: undefined,
      });
      warmupMs ??= performance.now() - startedMs;
      return outputs;
    };
    const finding = await probe(signature, run);
    return { signature, ...finding, warmupMs: warmupMs ?? performance.now() - startedMs };
  } catch (error) {
    throw rejected(error);
  } finally {
    await fleet.giveBack(loan.id);
  }
}

function rejected(error: unknown): unknown {
  if (error instanceof RunnerLost)
    return new MercatoError('MODEL_REJECTED', 'The model crashed, or took over a minute, while it was loaded.');
  if (error instanceof MercatoError && error.code === 'MODEL_FAILED') {
    return new MercatoError('MODEL_REJECTED', `The model cannot be loaded: ${error.message}`);
  }
  return error;
}
