import { badInput } from '../../base/errors.ts';
import { DATATYPES, encodeModel, type OnnxModel, type OnnxValue } from '../../inference/onnx/onnx.ts';
import { openSession } from '../net/net.ts';
import { fixedRows, type Rows, spans } from './batches.ts';

/** The least and the greatest of a value. */
export type Range = { min: number; max: number };

const ROWS_PER_RUN = 32;

/**
 * Runs the model on the calibration rows and gives the range of each named FP32 value. Least and greatest over all rows: on the digits,
 * averages of batches and percentiles (99.9, 99.99) did no better, and least and greatest cut nothing off. Errors: BAD_USER_INPUT
 * `calibration` without rows for one run, or where a value is no finite number.
 */
export async function rangesOf(model: OnnxModel, names: readonly string[], calibration: Rows | null): Promise<Map<string, Range>> {
  const bytes = encodeModel(exposing(model, names));
  const fixed = fixedRows(bytes);
  if (calibration === null || calibration.rows < (fixed ?? 1)) {
    throw badInput('calibration', 'STATIC_INT8 is calibrated on rows of data, and there are too few.', {
      given: `${calibration?.rows ?? 0} rows`,
      expected: `at least ${fixed ?? 1}; some hundred are better`,
    });
  }
  const ranges = new Map<string, Range>();
  const session = await openSession(bytes);
  try {
    for (const [from, to] of spans(calibration.rows, ROWS_PER_RUN, fixed)) {
      const values = await session.run(calibration.feeds(from, to), names);
      for (const name of names) widen(ranges, name, values[name]?.data as Float32Array);
    }
  } finally {
    await session.release();
  }
  return ranges;
}

function widen(ranges: Map<string, Range>, name: string, values: Float32Array): void {
  let { min, max } = ranges.get(name) ?? { min: 0, max: 0 };
  for (const value of values) {
    if (!Number.isFinite(value))
      throw badInput('calibration', `A calibration row makes the value ${JSON.stringify(name)} no finite number.`);
    if (value < min) min = value;
    if (value > max) max = value;
  }
  ranges.set(name, { min, max });
}

/** The same model with these values as further outputs, of a shape that the runtime infers. */
function exposing(model: OnnxModel, names: readonly string[]): OnnxModel {
  const { graph } = model;
  if (graph === undefined) return model;
  const present = new Set(graph.output.map(({ name }) => name));
  const more = names
    .filter((name) => !present.has(name))
    .map((name): OnnxValue => ({ name, type: { tensorType: { elemType: DATATYPES.FP32 } }, metadataProps: [] }));
  return { ...model, graph: { ...graph, output: [...graph.output, ...more] } };
}
