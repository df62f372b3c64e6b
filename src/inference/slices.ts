import { MercatoError } from '../base/errors.ts';
import type { CallResult } from './connection.ts';
import { commonRows, joinRows, splitRows, type Tensor } from './tensor.ts';

/** The inputs cut into calls of at most `maxRows` rows, in order; one call where they have no rows in common. */
export function sliceInputs(inputs: readonly Tensor[], maxRows: number): (readonly Tensor[])[] {
  const rows = commonRows(inputs);
  if (rows === null || rows <= maxRows) return [inputs];
  const counts = Array.from({ length: Math.ceil(rows / maxRows) }, (_, slice) => Math.min(maxRows, rows - slice * maxRows));
  const cut = inputs.map((input) => splitRows(input, counts));
  return counts.map((_, slice) => cut.flatMap((parts) => parts[slice] ?? []));
}

/**
 * One result of several slices: outputs joined in order, times and compute added up, the largest batch, and of several devices the one
 * that slices fell back to. MODEL_FAILED where the outputs of the slices do not fit together.
 */
export function joinResults(results: readonly CallResult[]): CallResult {
  const [first] = results;
  if (first === undefined) throw new RangeError('joinResults of nothing');
  if (results.length === 1) return first;
  const outputs = first.outputs.map((output, index) => {
    const parts = results.flatMap((result) => result.outputs[index] ?? []);
    const trailing = String(output.shape.slice(1));
    const fit = output.shape.length > 0 && parts.every((part) => String(part.shape.slice(1)) === trailing);
    if (!fit)
      throw new MercatoError('MODEL_FAILED', `Output "${output.name}" differs in shape between slices of the rows.`, { rule: 'SLICES' });
    return joinRows(parts);
  });
  return {
    outputs,
    queueMs: results.reduce((sum, result) => sum + result.queueMs, 0),
    computeMs: results.reduce((sum, result) => sum + result.computeMs, 0),
    computeMicros: results.reduce((sum, result) => sum + result.computeMicros, 0n),
    batchRows: Math.max(...results.map((result) => result.batchRows)),
    device: fallbackOf(results) ?? first.device,
  };
}

/** The CPU where any ran there, since that ends a chain: the first slice alone may have fallen back. */
function fallbackOf(results: readonly CallResult[]): string | undefined {
  const devices = results.map(({ device }) => device);
  return devices.includes('cpu') ? 'cpu' : devices.findLast((device) => device !== devices[0]);
}
