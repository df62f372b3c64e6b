import { DATATYPES, tensor } from '../../inference/onnx/onnx.ts';
import { type Front, INNER, ROWS, sizeOf, type Tape } from '../net/net.ts';
import type { Feature, FittedStep, Preprocessing } from './preprocessing.ts';

/** The operators of ONNX-ML, for texts. */
const ML = 'ai.onnx.ml';

/**
 * Preprocessing as the beginning of a graph: one input for each feature, of the column's name and datatype, [N, …dims] as the rows came; a category as
 * BYTES [N]. A missing number is NaN, a missing category the empty text; a category that was not trained on is all zeros.
 */
export function frontOf({ features, dims }: Preprocessing): Front {
  return {
    dims,
    lay(tape) {
      const laid = features.map((feature) => ({ feature, output: layFeature(tape, feature) }));
      const [only, ...others] = laid;
      if (others.length === 0 && only !== undefined) {
        return only.feature.outputDims.length > 0 ? only.output : reshape(tape, only.output, dims);
      }
      const flat = laid.map(({ feature, output }) => reshape(tape, output, [sizeOf(feature.outputDims)]));
      return tape.op('Concat', flat, { axis: 1 });
    },
  };
}

function reshape(tape: Tape, from: string, dims: readonly number[]): string {
  return tape.op('Reshape', [from, tape.integers([-1, ...dims])]);
}

function layFeature(tape: Tape, feature: Feature): string {
  const { name, datatype, dims, steps } = feature;
  const input = tape.feed(name, datatype, [ROWS, ...dims]);
  if (datatype === 'BYTES') return layCategory(tape, feature, input);
  let output = datatype === tape.precision ? input : tape.op('Cast', [input], { to: DATATYPES[tape.precision] });
  let now = dims;
  for (const step of steps) {
    output = layStep(tape, step, output, now);
    if (step.kind === 'RESIZE') now = [step.height, step.width, ...now.slice(2)];
  }
  return steps.some(({ kind }) => kind === 'FLATTEN') ? reshape(tape, output, feature.outputDims) : output;
}

function layStep(tape: Tape, step: FittedStep, input: string, dims: readonly number[]): string {
  switch (step.kind) {
    case 'IMPUTE':
      return tape.op('Where', [tape.op('IsNaN', [input]), tape.constant([Number(step.value)]), input]);
    case 'SCALE': {
      const scaled = tape.op('Mul', [input, tape.constant([step.factor])]);
      return step.offset === 0 ? scaled : tape.op('Add', [scaled, tape.constant([step.offset])]);
    }
    case 'STANDARDISE': {
      const shape = step.mean.length === 1 ? [] : [step.mean.length];
      const centred = tape.op('Sub', [input, tape.constant(step.mean, shape)]);
      return tape.op('Div', [centred, tape.constant(step.deviation, shape)]);
    }
    case 'RESIZE':
      return layResize(tape, step, input, dims);
    default:
      return input;
  }
}

/** Bilinear, on pictures with their channels first, since ONNX Runtime resizes two dimensions behind two others. */
function layResize(tape: Tape, { height, width }: { height: number; width: number }, input: string, dims: readonly number[]): string {
  const [high = 1, wide = 1, channels] = dims;
  const first =
    channels === undefined ? tape.op('Unsqueeze', [input, tape.integers([1])]) : tape.op('Transpose', [input], { perm: [0, 3, 1, 2] });
  // A little more than the quotient: the new size is rounded down.
  const factors = [1, 1, (height + 1e-3) / high, (width + 1e-3) / wide];
  const scales = tape.keep(tensor(`${INNER}scales_${tape.constants.length}`, 'FP32', [4], Float32Array.from(factors)));
  const resized = tape.op('Resize', [first, '', scales], { mode: 'linear', coordinate_transformation_mode: 'half_pixel' });
  return channels === undefined
    ? tape.op('Squeeze', [resized, tape.integers([1])])
    : tape.op('Transpose', [resized], { perm: [0, 2, 3, 1] });
}

/** A text becomes its place in the list, and that a row of zeros with a one. */
function layCategory(tape: Tape, { steps }: Feature, input: string): string {
  const fill = steps.find((step) => step.kind === 'IMPUTE')?.value;
  const categories = steps.find((step) => step.kind === 'ONE_HOT')?.categories ?? [];
  const known = categories.map((name, code): [string, number] => [name, code]);
  if (fill !== undefined) known.push(['', categories.indexOf(String(fill))]);
  const encoder = { keys_strings: known.map(([name]) => name), values_int64s: known.map(([, code]) => code), default_int64: -1 };
  const code = tape.op('LabelEncoder', [input], encoder, undefined, ML);
  const column = tape.op('Unsqueeze', [code, tape.integers([1])]);
  const isCategory = tape.op('Equal', [column, tape.integers([...categories.keys()], [1, categories.length])]);
  let output = tape.op('Cast', [isCategory], { to: DATATYPES[tape.precision] });
  for (const step of steps) if (step.kind === 'SCALE') output = layStep(tape, step, output, []);
  return output;
}
