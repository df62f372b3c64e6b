import { createRandom, shuffled } from '../net/net.ts';

/** Rows by their use; each is in one of the three. */
export type Split = { train: Uint32Array; validation: Uint32Array; test: Uint32Array };

const STREAM = 4;

/**
 * Shuffles rows by the seed and cuts: test, validation, train. A share above 0 gets at least one row. Errors: RangeError where no row is left to train on.
 */
export function splitRows(rows: number, shares: { seed: number; validationShare: number; testShare: number }): Split {
  const order = shuffled(rows, createRandom(shares.seed, STREAM));
  const count = (share: number) => (share === 0 ? 0 : Math.max(1, Math.round(rows * share)));
  const test = count(shares.testShare);
  const validation = count(shares.validationShare);
  if (test + validation >= rows) throw new RangeError(`testShare: ${rows} rows are too few to train, validate and test on`);
  return { test: order.slice(0, test), validation: order.slice(test, test + validation), train: order.slice(test + validation) };
}
