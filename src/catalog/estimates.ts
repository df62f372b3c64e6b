import { asTenant, type Database } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import { checkAgainst, estimateRun, type RunEstimate, type Signature, type Tensor } from '../inference/inference.ts';
import { findModelVersion, found } from './models.ts';
import type { ModelStore } from './store.ts';

export type InputShape = { name: string; shape: readonly number[] };

/** As `Catalog.estimateRun`. */
export type EstimateRun = (tenantId: string, versionId: string, inputs: readonly InputShape[]) => Promise<RunEstimate>;

/** A file is read again for each estimate, one after the other; more that wait are refused. */
const WAITING_MAX = 8;
const RETRY_AFTER_MS = 1_000;

export function createEstimates({ db, store }: { db: Database; store: ModelStore }): EstimateRun {
  let turn: Promise<unknown> = Promise.resolve();
  let waiting = 0;

  return async (tenantId, versionId, inputs) => {
    const { signature, sha256, state } = found(await asTenant(db, tenantId, (tx) => findModelVersion(tx, tenantId, versionId)));
    if (signature === null) throw new MercatoError('CONFLICT', 'Only a READY version can be estimated.', { given: state });
    const rows = rowsOfShapes(signature, inputs);
    if (waiting >= WAITING_MAX) throw new MercatoError('OVERLOADED', undefined, { retryAfterMs: RETRY_AFTER_MS });
    waiting++;
    const shapes = new Map(inputs.map(({ name, shape }) => [name, shape]));
    const done = turn.then(async () => estimateRun(await store.read(sha256), shapes));
    turn = done.catch(() => {});
    try {
      return { rows, ...(await done) };
    } finally {
      waiting--;
    }
  };
}

/** @throws BAD_USER_INPUT where a call with inputs of these shapes would be refused */
function rowsOfShapes(signature: Signature, inputs: readonly InputShape[]): number {
  const tensors = inputs.map(({ name, shape }, i): Tensor => {
    const wrong = shape.find((size) => size < 0);
    if (wrong !== undefined) throw badInput(`inputs[${i}].shape`, 'A size is 0 or more.', { given: String(wrong), expected: '0 or more' });
    if (inputs.findIndex((other) => other.name === name) < i)
      throw badInput(`inputs[${i}].name`, `Input "${name}" is given twice.`, { given: name, expected: 'different names' });
    const datatype = signature.inputs.find((wanted) => wanted.name === name)?.datatype ?? 'FP32';
    return { name, datatype, shape: [...shape], data: new Uint8Array() };
  });
  return checkAgainst(signature, tensors, null);
}
