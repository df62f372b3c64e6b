import type { Targets } from './examples.ts';
import { LABEL, PROBABILITIES } from './export.ts';
import { type Bin, calibrationOf, classFigures } from './metrics.ts';
import { openSession, type Session, type Tensor } from './session.ts';
import { rSquared } from './validation.ts';

/** Raw inputs of the rows from `from` up to but not `to`. */
export type Feeds = (from: number, to: number) => Record<string, Tensor>;

/**
 * How a model did. `confusion[truth][answer]` counts rows; recall and precision are by class, null where a class was absent or never answered.
 * Squared and absolute errors are means over rows and targets, in the targets' units.
 */
export type Evaluation =
  | {
      kind: 'CLASSES';
      rows: number;
      classes: readonly string[];
      accuracy: number;
      logLoss: number;
      confusion: number[][];
      recall: (number | null)[];
      precision: (number | null)[];
      calibration: Bin[];
      expectedCalibrationError: number;
    }
  | { kind: 'NUMBERS'; rows: number; names: readonly string[]; meanSquaredError: number; meanAbsoluteError: number; r2: number };

const ROWS_PER_RUN = 500;

/** Runs a model with the outputs of `exportModel` on rows with known targets. Errors: RangeError for a model with others. */
export async function evaluate(model: Uint8Array, feeds: Feeds, targets: Targets): Promise<Evaluation> {
  const session = await openSession(model);
  try {
    return targets.kind === 'CLASSES' ? await evaluateClasses(session, feeds, targets) : await evaluateNumbers(session, feeds, targets);
  } finally {
    await session.release();
  }
}

async function evaluateClasses(session: Session, feeds: Feeds, targets: Targets & { kind: 'CLASSES' }): Promise<Evaluation> {
  const { values, classes } = targets;
  const probabilities = await answersOf(session, feeds, values.length, PROBABILITIES, classes.length);
  if (!session.outputNames.includes(LABEL)) throw new RangeError(`the model has no output ${LABEL}`);
  const calibration = calibrationOf(values, probabilities, classes.length);
  return { kind: 'CLASSES', classes, ...classFigures(values, probabilities, classes.length), ...calibration };
}

async function evaluateNumbers(session: Session, feeds: Feeds, targets: Targets & { kind: 'NUMBERS' }): Promise<Evaluation> {
  const { values, names } = targets;
  const rows = values.length / names.length;
  const answers = new Float64Array(values.length);
  for (const [column, name] of names.entries()) {
    for (const [row, answer] of (await answersOf(session, feeds, rows, name, 1)).entries()) answers[row * names.length + column] = answer;
  }
  let [squares, distances] = [0, 0];
  for (const [at, truth] of values.entries()) {
    const error = truth - (answers[at] ?? 0);
    squares += error * error;
    distances += Math.abs(error);
  }
  const means = { meanSquaredError: squares / values.length, meanAbsoluteError: distances / values.length };
  return { kind: 'NUMBERS', rows, names, ...means, r2: rSquared(values, answers, names.length) };
}

/** One output over all rows, rows × width. */
async function answersOf(session: Session, feeds: Feeds, rows: number, output: string, width: number): Promise<Float64Array> {
  if (!session.outputNames.includes(output)) throw new RangeError(`the model has no output ${output}`);
  const answers = new Float64Array(rows * width);
  for (let from = 0; from < rows; from += ROWS_PER_RUN) {
    const to = Math.min(from + ROWS_PER_RUN, rows);
    const data = (await session.run(feeds(from, to), [output]))[output]?.data;
    if (data?.length !== (to - from) * width) throw new RangeError(`output ${output} is not of ${width} numbers a row`);
    answers.set(Float64Array.from(data as Float32Array), from * width);
  }
  return answers;
}
