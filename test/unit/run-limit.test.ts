import { expect, test } from 'vitest';
import { type Latency, runLimitOf } from '../../src/inference/profile.ts';
import type { Signature } from '../../src/inference/tensor.ts';

const x = { name: 'x', datatype: 'FP32', shape: [-1, 2], dimensions: ['N', null] } as const;
const rowsOf = (shape: number[]): Signature => ({ inputs: [{ ...x, shape }], outputs: [{ ...x, name: 'y' }], batchDimension: 'N' });
const upTo = (rows: number, p50Ms: number): Latency[] => [1, rows].map((one) => ({ rows: one, p50Ms, rowsPerSecond: 1 }));
const plain = { operators: [{ name: 'Gemm', count: 1 }] };

const longestMs = 40;

test.each([
  ['is 100 times its longest run', upTo(8, 30), rowsOf([-1, 2]), plain, 10_000, 3_000],
  ['is ten times its longest run, which may have been the first', upTo(8, 0.1), rowsOf([-1, 2]), plain, 10_000, 2_000],
  ['is 2 s at least', upTo(8, 0.1), rowsOf([-1, 2]), plain, 10_000, 2_000],
  ['is no more than was asked for', upTo(8, 30), rowsOf([-1, 2]), plain, 500, 500],
  ['is as asked where nothing was measured', [], rowsOf([-1, 2]), plain, 10_000, 10_000],
  ['is as asked where not every number of rows was measured', upTo(4, 30), rowsOf([-1, 2]), plain, 10_000, 10_000],
  ['is as asked where another dimension may be of any size', upTo(8, 30), rowsOf([-1, -1]), plain, 10_000, 10_000],
  [
    'is as asked where inputs say how long it takes',
    upTo(8, 30),
    rowsOf([-1, 2]),
    { operators: [{ name: 'Loop', count: 1 }] },
    10_000,
    10_000,
  ],
  ['counts the one size that there is', upTo(1, 30), { ...rowsOf([1, 2]), batchDimension: null }, plain, 10_000, 3_000],
  ['is as asked where rows are not known', upTo(1, 30), { ...rowsOf([-1, 2]), batchDimension: null }, plain, 10_000, 10_000],
])('the run limit of a version %s', (_, latencies, signature, contents, askedMs, limitMs) => {
  expect(runLimitOf({ signature, maxBatchRows: 8, latencies, longestMs }, contents, askedMs)).toBe(limitMs);
});
