import { badInput, type ErrorData, MercatoError } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import { RunnerLost } from './connection.ts';
import type { RejectionRule } from './onnx/onnx.ts';
import { elementCount, firstOther, type Signature, type Tensor } from './tensor.ts';
import { checkAgainst, type GivenTensor, parseInputs, toJson } from './tensor-input.ts';

/**
 * What a publisher says that a version answers. An element of FP16, FP32 or FP64 may differ by `tolerance` × max(1, |expected|); any other is equal.
 * At least one output is named; others are not looked at.
 */
export type Sample = { inputs: readonly GivenTensor[]; outputs: readonly GivenTensor[]; tolerance: number };
type Parsed = { inputs: Tensor[]; outputs: Tensor[]; tolerance: number };

const SAMPLES_MAX = 16;
/** Of all samples of a version, as JSON. */
const SAMPLES_CHARACTERS_MAX = 4 * 1024 ** 2;
const SHOWN_CHARACTERS = 60;
const TOLERANCE = { usual: 1e-3, max: 1 };

/**
 * Holds samples in the form that GraphQL brings them against every rule that needs no signature. Errors: their number; their size; then, sample by sample: tolerance; no outputs; those of
 * `parseInputs`, of the inputs and then of the outputs. @throws BAD_USER_INPUT with a field like `samples[2].inputs[0].data`
 */
export function parseSamples(given: readonly (Omit<Sample, 'tolerance'> & { tolerance?: number | null | undefined })[]): Sample[] {
  if (given.length > SAMPLES_MAX)
    throw badInput('samples', `A version may have at most ${SAMPLES_MAX} samples.`, {
      given: String(given.length),
      expected: `at most ${SAMPLES_MAX}`,
    });
  const size = JSON.stringify(given).length;
  if (size > SAMPLES_CHARACTERS_MAX)
    throw badInput('samples', 'The samples of a version are too large.', {
      given: `${size} characters`,
      expected: `at most ${SAMPLES_CHARACTERS_MAX} characters`,
    });
  return given.map(({ inputs, outputs, tolerance }, i) => {
    const sample = { inputs, outputs, tolerance: tolerance ?? TOLERANCE.usual };
    if (!(sample.tolerance >= 0 && sample.tolerance <= TOLERANCE.max)) {
      const expected = `0 to ${TOLERANCE.max}`;
      throw badInput(`samples[${i}].tolerance`, `A tolerance is ${expected}.`, { given: String(tolerance), expected });
    }
    if (outputs.length === 0)
      throw badInput(`samples[${i}].outputs`, 'A sample names at least one output.', { given: '[]', expected: 'one output or more' });
    parse(sample, i);
    return sample;
  });
}

/** @throws BAD_USER_INPUT */
function parse({ inputs, outputs, tolerance }: Sample, i: number): Parsed {
  return {
    inputs: within(`samples[${i}].`, () => parseInputs(inputs)),
    outputs: within(`samples[${i}].`, () => parseInputs(outputs), 'outputs'),
    tolerance,
  };
}

/** Runs `work`; a fault that it finds at `inputs…` is told as one at `prefix` + `part…`. */
function within<T>(prefix: string, work: () => T, part = 'inputs'): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof MercatoError) || error.data.field === undefined) throw error;
    const field = prefix + error.data.field.replace(/^inputs/, part);
    throw new MercatoError(error.code, error.message, { ...error.data, field });
  }
}

/**
 * Runs each sample and compares. Errors, sample by sample: it does not fit the signature, or has more rows than a run may; its run fails; an output has another
 * datatype or shape; an element differs. @throws MODEL_REJECTED naming sample, output, element, what was expected and what came; `cause`: of a run that failed
 */
export async function checkSamples(
  samples: readonly Sample[],
  signature: Signature,
  maxBatchRows: number,
  run: (inputs: readonly Tensor[], rows: number) => Promise<{ outputs: readonly Tensor[] }>,
): Promise<void> {
  for (const [i, sample] of samples.entries()) {
    const { inputs, outputs: expected, tolerance } = parse(sample, i);
    const rows = rowsOfSample(signature, inputs, expected, i);
    if (rows > maxBatchRows) {
      throw wrong(i, 'SAMPLE_INVALID', `it has ${rows} rows, and a run at most ${maxBatchRows}.`, {
        limit: String(maxBatchRows),
        given: String(rows),
      });
    }
    const { outputs } = await run(inputs, rows).catch((error: unknown) => {
      if (error instanceof MercatoError && error.code === 'MODEL_FAILED')
        throw wrong(i, 'SAMPLE_FAILED', `its run failed: ${error.message}`, {}, error);
      if (error instanceof RunnerLost) throw wrong(i, 'SAMPLE_FAILED', 'its run crashed.', {}, error);
      throw error;
    });
    for (const one of expected)
      compare(
        i,
        one,
        outputs.find(({ name }) => name === one.name),
        tolerance,
      );
  }
}

function rowsOfSample(signature: Signature, inputs: readonly Tensor[], expected: readonly Tensor[], i: number): number {
  try {
    const outputs = expected.map(({ name }) => name);
    return checkAgainst(signature, inputs, outputs);
  } catch (error) {
    if (error instanceof MercatoError && error.code === 'BAD_USER_INPUT') throw wrong(i, 'SAMPLE_INVALID', error.message);
    throw error;
  }
}

function compare(i: number, expected: Tensor, got: Tensor | undefined, tolerance: number): void {
  const shown = (tensor: Tensor) => `${tensor.datatype} [${tensor.shape}]`;
  const output = `output "${expected.name.slice(0, LIMITS.nameLength)}"`;
  const differs = (why: string, given: string, wanted: string) =>
    wrong(i, 'SAMPLE_MISMATCH', `${output} ${why}.`, { given, expected: wanted });
  const there = got === undefined ? 'not there' : shown(got);
  if (got === undefined || there !== shown(expected)) throw differs(`is ${there}, not ${shown(expected)}`, there, shown(expected));
  const most = expected.datatype.startsWith('FP') ? tolerance : 0;
  const difference = expected.datatype === 'BYTES' ? otherWord(expected, got) : otherNumber(expected, got, most);
  if (difference === null) return;
  const [one, other] = [text(difference.given), text(difference.wanted)];
  throw differs(`has ${one} at element ${difference.at}, not ${other} within ${most}`, one, other);
}

type Difference = { at: number; wanted: unknown; given: unknown };

function otherNumber(expected: Tensor, got: Tensor, tolerance: number): Difference | null {
  const [wanted, given] = [toJson(expected), toJson(got)];
  const at = wanted.findIndex((one, k) => !isNear(one, given[k], tolerance));
  return at < 0 ? null : { at, wanted: wanted[at], given: given[at] };
}

/** What a model answers may be of any length: no more of it becomes a string than is shown. */
function otherWord(expected: Tensor, got: Tensor): Difference | null {
  const found = firstOther(expected.data, got.data, elementCount(expected.shape));
  const start = (word: Uint8Array) => new TextDecoder('utf-8', { ignoreBOM: true }).decode(word.subarray(0, 4 * SHOWN_CHARACTERS));
  return found && { at: found.at, wanted: start(found.one), given: start(found.other) };
}

/** NaN and the infinities are strings here. */
function isNear(expected: unknown, got: unknown, tolerance: number): boolean {
  if (typeof expected !== 'number' || typeof got !== 'number') return expected === got;
  return Math.abs(got - expected) <= tolerance * Math.max(1, Math.abs(expected));
}

const text = (value: unknown): string => JSON.stringify(value).slice(0, SHOWN_CHARACTERS);

type SampleRule = Extract<RejectionRule, `SAMPLE_${string}`>;
type Facts = Pick<ErrorData, 'limit' | 'given' | 'expected'>;

function wrong(i: number, rule: SampleRule, why: string, facts: Facts = {}, cause?: Error): MercatoError {
  const text = `Sample ${i} is not answered as its publisher says: ${why}`;
  return new MercatoError('MODEL_REJECTED', text, { rule, field: `samples[${i}]`, ...facts }, { cause });
}
