import { checkModel } from '../../inference/onnx/onnx.ts';
import type { Rows } from './batches.ts';
import { dynamicInt8 } from './dynamic-int8.ts';
import { fp16 } from './fp16.ts';
import { graphLevel } from './graph-level.ts';
import { staticInt8 } from './static-int8.ts';

export type OptimisationKind = 'GRAPH' | 'DYNAMIC_INT8' | 'STATIC_INT8' | 'FP16';

/** A model that answers as its source, and what is worth knowing about it, in plain words. */
export type Optimised = { bytes: Uint8Array; notes: string[] };

/**
 * Rewrites a model, with the inputs and outputs of the source: names, types, dimensions. The same source and calibration give the same
 * bytes. Blocks the process. Errors, in this order: those of `checkModel`; of the kind; an Error where the result is not sound, which is a
 * fault of ours.
 */
export async function optimiseModel(
  bytes: Uint8Array,
  kind: OptimisationKind,
  options: { calibration?: Rows | null } = {},
): Promise<Optimised> {
  const source = checkModel(bytes);
  const made = await rewrite(bytes, kind, options.calibration ?? null);
  const { inputs, outputs } = checkModel(made.bytes);
  if (JSON.stringify([inputs, outputs]) !== JSON.stringify([source.inputs, source.outputs]))
    throw new Error(`${kind} changed inputs or outputs`);
  return made;
}

function rewrite(bytes: Uint8Array, kind: OptimisationKind, calibration: Rows | null): Optimised | Promise<Optimised> {
  switch (kind) {
    case 'GRAPH':
      return graphLevel(bytes);
    case 'DYNAMIC_INT8':
      return dynamicInt8(bytes);
    case 'STATIC_INT8':
      return staticInt8(bytes, calibration);
    case 'FP16':
      return fp16(bytes);
  }
}
