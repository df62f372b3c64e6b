import { LIMITS } from '../../base/limits.ts';
import { checkDecoded, type ModelSummary } from './check.ts';
import { info } from './dims.ts';
import { bytesOf, type Estimate, estimate, type Sizes } from './estimate.ts';
import { decodeModel } from './read.ts';
import { rejected } from './rejections.ts';
import { proveRows, ROW_RULES } from './row-wise.ts';
import type { OnnxModel } from './schema.ts';

/**
 * What a run with so many rows takes, by the file alone, as `Estimate` says; null where it cannot be told, as `reason` says in one sentence. `weightBytes`: of
 * constants, with those that the runtime computes from others.
 */
export type RunEstimate = {
  rows: number;
  flops: number | null;
  activationBytes: number | null;
  weightBytes: number | null;
  reason: string | null;
};

/**
 * What a file says by itself. `rowsProved`: its operators keep rows apart, so that calls of several tenants may share a run. `findings`: in plain
 * words, the proof's first. `estimates`: one for each number of rows that was asked for.
 */
export type Contents = Pick<ModelSummary, 'operators' | 'opsets' | 'parameters'> & {
  rowsProved: boolean;
  /** By which rules. */
  rowRules: number;
  findings: string[];
  estimates: RunEstimate[];
};

/** A constant of more bytes is worth a finding. */
const LARGE_BYTES = 64 * 1024 ** 2;
const LARGE_RUN_BYTES = 1024 ** 3;
const FINDINGS_MAX = 20;

/**
 * Reads an ONNX file without a runtime. A symbolic dimension that leads an input is taken for the number of rows, another for 1.
 *
 * Errors: those of `checkModel`; then MODEL_REJECTED with the place of the largest of the constants that the runtime would make from others, where they
 * grow beyond the size that a file may have.
 */
export function readContents(bytes: Uint8Array, rowCounts: readonly number[] = [1]): Contents {
  const model = decodeModel(bytes);
  const { operators, opsets, parameters } = checkDecoded(model);
  const runs = rowCounts.map((rows) => ({ rows, ...estimate(model, sizesOf(model, rows)) }));
  const { computed, unknown } = runs[0] ?? estimate(model, sizesOf(model, 1));
  if (computed.bytes > LIMITS.modelBytesMax) {
    const text = `The runtime would compute ${computed.bytes} bytes of constants when it loads the model.`;
    throw rejected('COMPUTED_CONSTANTS', text, computed.place ?? 'graph', { limit: LIMITS.modelBytesMax, given: computed.bytes });
  }
  const proof = proveRows(model);
  const mostBytes = Math.max(0, ...runs.map(({ activationBytes }) => activationBytes ?? 0));
  const findings = [
    proof.proved ? 'Every operator keeps the rows apart.' : `That rows stay apart is not proved: ${proof.node}.`,
    ...(unknown === null ? [] : [unknownFrom(unknown)]),
    ...(mostBytes > LARGE_RUN_BYTES ? [`A run holds up to ${mostBytes} bytes between operators.`] : []),
    ...(computed.bytes > LARGE_BYTES ? [`The runtime computes ${computed.bytes} bytes of constants when it loads the model.`] : []),
    ...largeConstants(model),
  ].slice(0, FINDINGS_MAX);
  const estimates = runs.map(({ rows, ...run }) => ({ rows, ...toldOf(run) }));
  return { operators, opsets, parameters, rowsProved: proof.proved, rowRules: ROW_RULES, findings, estimates };
}

/**
 * What a run on inputs of these shapes takes, by a file that `checkModel` accepts. `shapes`: of each input, as its signature allows. A dimension that no input
 * has is not known.
 */
export function estimateRun(bytes: Uint8Array, shapes: ReadonlyMap<string, readonly number[]>): Omit<RunEstimate, 'rows'> {
  const model = decodeModel(bytes);
  const { graph } = model;
  const named = new Map<string, number>();
  const input = graph?.input.map((one) => {
    const given = shapes.get(one.name ?? '');
    const dims = one.type?.tensorType?.shape?.dim;
    if (given === undefined || dims === undefined) return one;
    for (const [axis, { dimParam }] of dims.entries()) if (dimParam) named.set(dimParam, given[axis] ?? 0);
    const shape = { dim: given.map((size) => ({ dimValue: BigInt(size) })) };
    return { ...one, type: { ...one.type, tensorType: { ...one.type?.tensorType, shape } } };
  });
  const sized = graph && input ? { ...model, graph: { ...graph, input } } : model;
  return toldOf(estimate(sized, (name) => (name === null ? null : (named.get(name) ?? null))));
}

/** What was read earlier, as it is to be taken now: that other rules proved rows to be apart is worth nothing. */
export function contentsNow(earlier: Contents | null): Contents | null {
  if (earlier === null) return null;
  const estimates = earlier.estimates.map((run) => ({ ...NOT_READ, ...run }));
  if (!earlier.rowsProved || earlier.rowRules === ROW_RULES) return { ...earlier, estimates };
  const findings = earlier.findings.with(0, 'That rows stay apart was proved by rules that are stricter now: publish the version again.');
  return { ...earlier, rowsProved: false, findings, estimates };
}

/** Of what was read before weights were counted. */
const NOT_READ = { weightBytes: null, reason: null };

const unknownFrom = (place: string) => `What a run takes cannot be told before it: no shape, or no size of elements, from ${place} on.`;
const BEYOND = 'What a run takes is beyond any number: the file makes up its sizes.';

function toldOf({ computed, unknown, ...run }: Estimate): Omit<RunEstimate, 'rows'> {
  const [flops, activationBytes, weightBytes] = [told(run.flops), told(run.activationBytes), told(run.weightBytes + computed.bytes)];
  const isWhole = flops !== null && activationBytes !== null && weightBytes !== null;
  return { flops, activationBytes, weightBytes, reason: unknown !== null ? unknownFrom(unknown) : isWhole ? null : BEYOND };
}

/** Sizes that a file makes up may be beyond any number: then nothing can be told. */
function told(count: number | null): number | null {
  return Number.isSafeInteger(count) ? count : null;
}

function sizesOf({ graph }: OnnxModel, rows: number): Sizes {
  const leading = new Set(graph?.input.map(({ type }) => type?.tensorType?.shape?.dim[0]?.dimParam));
  return (name) => (name !== null && leading.has(name) ? rows : 1);
}

function largeConstants({ graph }: OnnxModel): string[] {
  const sized = (graph?.initializer ?? []).map(({ name = '', dataType = 0, dims }) => ({
    name,
    bytes: bytesOf(info(dataType, dims.map(Number))) ?? 0,
  }));
  const large = sized.filter(({ bytes }) => bytes > LARGE_BYTES);
  return large.map(
    ({ name, bytes }) => `The constant ${JSON.stringify(name.slice(0, 60))} is large: ${bytes} bytes of at most ${LIMITS.modelBytesMax}.`,
  );
}
