import { asTenant, type Database } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import { checkAgainst, estimateApart, type RunEstimate, type Signature, type Tensor } from '../inference/inference.ts';
import { findModelVersion, found } from './models.ts';
import type { ModelStore } from './store.ts';

export type InputShape = { name: string; shape: readonly number[] };

/** As `Catalog.estimateRun`. */
export type EstimateRun = (tenantId: string, versionId: string, inputs: readonly InputShape[]) => Promise<RunEstimate>;

/** A file is read again for each estimate, one after the other; more that wait are refused, and of one tenant more than it may have. */
const WAITING_MAX = { all: 8, tenant: 2 };
const RETRY_AFTER_MS = 1_000;

export function createEstimates({ db, store }: { db: Database; store: ModelStore }): EstimateRun {
  let turn: Promise<unknown> = Promise.resolve();
  const waiting: string[] = [];

  return async (tenantId, versionId, inputs) => {
    const { signature, sha256, state } = found(await asTenant(db, tenantId, (tx) => findModelVersion(tx, tenantId, versionId)));
    if (signature === null) throw new MercatoError('CONFLICT', 'Only a READY version can be estimated.', { given: state });
    const rows = rowsOfShapes(signature, inputs);
    if (waiting.length >= WAITING_MAX.all || waiting.filter((id) => id === tenantId).length >= WAITING_MAX.tenant)
      throw new MercatoError('OVERLOADED', undefined, { retryAfterMs: RETRY_AFTER_MS });
    waiting.push(tenantId);
    const shapes = new Map(inputs.map(({ name, shape }) => [name, shape]));
    const done = turn.then(async () => estimateApart(await store.read(sha256), shapes));
    turn = done.catch(() => {});
    try {
      return { rows, ...(await done) };
    } finally {
      waiting.splice(waiting.indexOf(tenantId), 1);
    }
  };
}

/** @throws BAD_USER_INPUT where a call with inputs of these shapes would be refused */
function rowsOfShapes(signature: Signature, inputs: readonly InputShape[]): number {
  const most = LIMITS.tensorsPerCall;
  if (inputs.length > most)
    throw badInput('inputs', `A call has at most ${most} inputs.`, { given: String(inputs.length), expected: `at most ${most}` });
  const names = new Set<string>();
  const tensors = inputs.map(({ name, shape }, i): Tensor => {
    if (shape.length > LIMITS.tensorRank)
      throw badInput(`inputs[${i}].shape`, `A shape has at most ${LIMITS.tensorRank} sizes.`, {
        given: String(shape.length),
        expected: `at most ${LIMITS.tensorRank}`,
      });
    const wrong = shape.find((size) => size < 0);
    if (wrong !== undefined) throw badInput(`inputs[${i}].shape`, 'A size is 0 or more.', { given: String(wrong), expected: '0 or more' });
    if (names.has(name))
      throw badInput(`inputs[${i}].name`, `Input "${name}" is given twice.`, { given: name, expected: 'different names' });
    names.add(name);
    const datatype = signature.inputs.find((wanted) => wanted.name === name)?.datatype ?? 'FP32';
    return { name, datatype, shape: [...shape], data: new Uint8Array() };
  });
  return checkAgainst(signature, tensors, null);
}
