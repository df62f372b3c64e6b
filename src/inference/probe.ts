import { MercatoError } from '../base/errors.ts';
import { RunnerLost, RunnerOverran } from './connection.ts';
import { type InputRange, randomInputs } from './random-inputs.ts';
import { joinRows, type Signature, splitRows, type Tensor } from './tensor.ts';

/** `range`: of random inputs that the model accepts; null: none was found. `lost`: the runner ended; `untried`: ranges that were left then. */
export type ProbeFinding = {
  joinable: boolean;
  batchFinding: string;
  range: InputRange | null;
  lost: boolean;
  untried: readonly InputRange[];
};
/** Runs the model on inputs of so many rows. MODEL_FAILED where it refuses them; RunnerLost where it is gone. */
export type ProbeRun = (inputs: readonly Tensor[], rows: number) => Promise<Tensor[]>;

/** Tried in turn until a model accepts its inputs: wide values tell more, narrow ones are valid as indices and tokens. */
export const RANGES: readonly InputRange[] = [
  { size: 4, wholeMax: 100 },
  { size: 8, wholeMax: 1 },
  { size: 2, wholeMax: 1 },
];
/** Single rows that are tried, and the runs into which they are joined, by index: in order, in others, repeated, in several numbers. */
const SINGLE_ROWS = 3;
const ARRANGEMENTS: readonly (readonly number[])[] = [
  [0, 1, 2],
  [2, 0, 1],
  [1, 0],
  [1, 1, 0, 2, 0, 2, 1],
];

const found = (joinable: boolean, batchFinding: string, range: InputRange | null): ProbeFinding => ({
  joinable,
  batchFinding,
  range,
  lost: false,
  untried: [],
});
const no = (batchFinding: string, range: InputRange | null = null) => found(false, batchFinding, range);

/**
 * Runs a model on random rows, one by one and joined, to see whether each row keeps its result in any company. It finds models that mix rows
 * by nature (a mean over the batch, a scale of the whole tensor), not one that hides it. Never rejects for what the model does in a run.
 */
export async function probe(signature: Signature, run: ProbeRun, ranges = RANGES): Promise<ProbeFinding> {
  const mayJoin = signature.batchDimension !== null && signature.inputs.length > 0;
  let finding = no('No input was tried.');
  for (const [i, range] of ranges.entries()) {
    let ranAlone = false;
    try {
      const singles = await runSingles(signature, run, range, mayJoin ? SINGLE_ROWS : 1);
      ranAlone = singles !== null;
      if (singles === null) return no('The inputs are too large to try whether rows may be joined.');
      if (!mayJoin) return no('Inputs and outputs do not all lead with the same symbolic dimension.', range);
      return await compareJoined(signature, run, singles, range);
    } catch (error) {
      finding = no(failure(error), hasEnded(error) && ranAlone ? range : null);
      if (hasEnded(error)) return { ...finding, lost: true, untried: ranges.slice(i + 1) };
    }
  }
  return mayJoin ? finding : no('Inputs and outputs do not all lead with the same symbolic dimension.');
}

/** Whether a run ended its runner. */
const hasEnded = (error: unknown) => error instanceof RunnerLost || error instanceof RunnerOverran;

function failure(error: unknown): string {
  if (hasEnded(error)) return 'The model crashed or exceeded its run limit on random inputs.';
  if (error instanceof MercatoError) return `The model did not run on random inputs: ${error.message}`;
  throw error;
}

type Single = { inputs: readonly Tensor[]; outputs: readonly Tensor[] };

async function runSingles(signature: Signature, run: ProbeRun, range: InputRange, count: number): Promise<Single[] | null> {
  const singles: Single[] = [];
  for (let single = 0; single < count; single++) {
    const inputs = randomInputs(signature, 1, range);
    if (inputs === null) return null;
    singles.push({ inputs, outputs: await run(inputs, 1) });
  }
  return singles;
}

async function compareJoined(signature: Signature, run: ProbeRun, singles: readonly Single[], range: InputRange): Promise<ProbeFinding> {
  for (const arrangement of ARRANGEMENTS) {
    const parts = arrangement.flatMap((index) => singles[index] ?? []);
    const inputs = signature.inputs.map((_, input) => joinRows(parts.flatMap((part) => part.inputs[input] ?? [])));
    const outputs = await run(inputs, parts.length);
    const difference = outputs
      .map((output, index) =>
        compareRows(
          output,
          parts.flatMap((part) => part.outputs[index] ?? []),
        ),
      )
      .find(Boolean);
    if (difference !== undefined && difference !== null) return no(difference, range);
  }
  return found(true, 'Joined rows gave the same outputs as separate runs.', range);
}

/** What speaks against `joined` being these rows, or null. */
function compareRows(joined: Tensor, rows: readonly Tensor[]): string | null {
  const shaped = joined.shape[0] === rows.length && rows.every((row) => row.shape[0] === 1 && sameTrailing(row, joined));
  if (!shaped) return `Output "${joined.name}" does not have one row per row of the inputs.`;
  const cut = splitRows(
    joined,
    rows.map(() => 1),
  );
  const equal = cut.every((row, index) => sameElements(row, rows[index]));
  return equal ? null : `Output "${joined.name}" of a row changes with the rows beside it.`;
}

function sameTrailing(a: Tensor, b: Tensor): boolean {
  return a.shape.slice(1).join() === b.shape.slice(1).join();
}

/** Fractions within 1e-5 + 1e-4 of the larger (FP16: 1e-3 + 1e-2), anything else byte for byte. */
function sameElements(a: Tensor, b: Tensor | undefined): boolean {
  if (b === undefined || a.data.length !== b.data.length) return false;
  const x = fractions(a);
  const y = fractions(b);
  if (x === null || y === null) return Buffer.compare(a.data, b.data) === 0;
  const [absolute, relative] = a.datatype === 'FP16' ? [1e-3, 1e-2] : [1e-5, 1e-4];
  return x.every((value, index) => {
    const other = y[index] ?? Number.NaN;
    return Object.is(value, other) || Math.abs(value - other) <= absolute + relative * Math.max(Math.abs(value), Math.abs(other));
  });
}

/** The elements of a tensor of fractions, which may lie unaligned in `data`; null for other datatypes. */
function fractions({ datatype, data }: Tensor): Float16Array | Float32Array | Float64Array | null {
  const { buffer } = data.slice();
  if (datatype === 'FP16') return new Float16Array(buffer);
  if (datatype === 'FP32') return new Float32Array(buffer);
  return datatype === 'FP64' ? new Float64Array(buffer) : null;
}
