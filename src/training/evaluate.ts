import { type Dataset, sizeOf } from './dataset.ts';
import { openSession, Tensor } from './session.ts';

/** `confusion[truth][answer]` counts rows. Recall and precision are by class, null where a class was absent or never answered. */
export type Evaluation = {
  rows: number;
  accuracy: number;
  confusion: number[][];
  recall: (number | null)[];
  precision: (number | null)[];
};

const ROWS_PER_RUN = 1_000;

/** Runs an exported classifier (outputs `label`) on every row of data that it was not trained on. */
export async function evaluate(bytes: Uint8Array, data: Dataset, classes: number): Promise<Evaluation> {
  const session = await openSession(bytes);
  const confusion = Array.from({ length: classes }, () => new Array<number>(classes).fill(0));
  try {
    const [input = ''] = session.inputNames;
    for (let from = 0; from < data.rows; from += ROWS_PER_RUN) {
      const to = Math.min(from + ROWS_PER_RUN, data.rows);
      const size = sizeOf(data.dims);
      const images = new Tensor('uint8', data.values.slice(from * size, to * size), [to - from, ...data.dims]);
      const answers = (await session.run({ [input]: images }, ['label'])).label?.data;
      for (let row = from; row < to; row++) {
        const counts = confusion[data.labels[row] ?? 0];
        const answer = Number(answers?.[row - from]);
        if (counts !== undefined) counts[answer] = (counts[answer] ?? 0) + 1;
      }
    }
  } finally {
    await session.release();
  }
  return summarise(confusion);
}

/** The figures of a confusion matrix. */
function summarise(confusion: number[][]): Evaluation {
  const ratio = (part: number, whole: number) => (whole === 0 ? null : part / whole);
  const diagonal = confusion.map((row, index) => row[index] ?? 0);
  const truths = confusion.map(sum);
  const answers = confusion.map((_, index) => sum(confusion.map((row) => row[index] ?? 0)));
  const rows = sum(truths);
  return {
    rows,
    accuracy: ratio(sum(diagonal), rows) ?? 0,
    confusion,
    recall: diagonal.map((right, index) => ratio(right, truths[index] ?? 0)),
    precision: diagonal.map((right, index) => ratio(right, answers[index] ?? 0)),
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, one) => total + one, 0);
}
