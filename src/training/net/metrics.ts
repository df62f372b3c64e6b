/** Rows whose answered probability lies in [from, to): their mean probability, and the share that was right. */
export type Bin = { from: number; to: number; rows: number; confidence: number; accuracy: number };

const BINS = 10;
/** No probability is 0: one wrong answer would make the mean infinite. */
const SMALLEST = 1e-7;

/** The figures of answers, by rows × classes of probabilities. */
export function classFigures(truths: Int32Array, probabilities: Float64Array, classes: number) {
  const confusion = Array.from({ length: classes }, () => new Array<number>(classes).fill(0));
  let logs = 0;
  for (const [row, truth] of truths.entries()) {
    const answers = probabilities.subarray(row * classes, (row + 1) * classes);
    const counts = confusion[truth];
    const label = largest(answers);
    if (counts !== undefined) counts[label] = (counts[label] ?? 0) + 1;
    logs -= Math.log(Math.max(SMALLEST, answers[truth] ?? 0));
  }
  const ratio = (part: number, whole: number) => (whole === 0 ? null : part / whole);
  const right = confusion.map((row, index) => row[index] ?? 0);
  const given = confusion.map((_, index) => sum(confusion.map((row) => row[index] ?? 0)));
  return {
    rows: truths.length,
    accuracy: sum(right) / truths.length,
    logLoss: logs / truths.length,
    confusion,
    recall: right.map((count, index) => ratio(count, sum(confusion[index] ?? []))),
    precision: right.map((count, index) => ratio(count, given[index] ?? 0)),
  };
}

/** Ten bins of equal width; the error is Σ rows/n |confidence − accuracy| (Guo et al. 2017). Empty bins are left out. */
export function calibrationOf(
  truths: Int32Array,
  probabilities: Float64Array,
  classes: number,
): { calibration: Bin[]; expectedCalibrationError: number } {
  const bins = Array.from({ length: BINS }, () => ({ rows: 0, confidence: 0, right: 0 }));
  for (const [row, truth] of truths.entries()) {
    const answers = probabilities.subarray(row * classes, (row + 1) * classes);
    const label = largest(answers);
    const confidence = answers[label] ?? 0;
    const bin = bins[Math.min(BINS - 1, Math.max(0, Math.floor(confidence * BINS)))];
    if (bin === undefined) continue;
    bin.rows++;
    bin.confidence += confidence;
    bin.right += Number(label === truth);
  }
  const calibration = bins.flatMap(({ rows, confidence, right }, index): Bin[] =>
    rows === 0 ? [] : [{ from: index / BINS, to: (index + 1) / BINS, rows, confidence: confidence / rows, accuracy: right / rows }],
  );
  const distance = calibration.map((bin) => (bin.rows / truths.length) * Math.abs(bin.confidence - bin.accuracy));
  return { calibration, expectedCalibrationError: sum(distance) };
}

function largest(values: Float64Array): number {
  let best = 0;
  for (const [index, value] of values.entries()) if (value > (values[best] ?? 0)) best = index;
  return best;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, one) => total + one, 0);
}
