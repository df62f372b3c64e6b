import { openSession, Tensor } from './session.ts';

/** One row through an exported classifier of UINT8 rows: its class and how sure the model is of it, 0 to 1. */
export async function classify(
  bytes: Uint8Array,
  row: Uint8Array,
  dims: readonly number[],
): Promise<{ label: number; probability: number }> {
  const session = await openSession(bytes);
  try {
    const [input = ''] = session.inputNames;
    const result = await session.run({ [input]: new Tensor('uint8', row, [1, ...dims]) });
    const label = Number(result.label?.data[0]);
    return { label, probability: Number(result.probabilities?.data[label]) };
  } finally {
    await session.release();
  }
}
