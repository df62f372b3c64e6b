import { expect, test } from 'vitest';
import { Pace } from '../../src/inference/pace.ts';

const paceOf = (runs: readonly (readonly [rows: number, ms: number])[]): Pace => {
  const pace = new Pace();
  for (const [rows, ms] of runs) pace.add(rows, ms);
  return pace;
};

test('the pace of runs is known by their rows, where none were seen by those of the next smaller, else larger number', () => {
  expect([new Pace().runMs(1), new Pace().rowMs]).toEqual([0, 0]);
  const pace = paceOf([
    [8, 10],
    [64, 32],
  ]);
  expect([1, 6, 8, 11, 40, 64, 1_000].map((rows) => pace.runMs(rows))).toEqual([10, 10, 10, 10, 10, 32, 32]);
  expect(pace.rowMs).toBe(0.5);
});

test('the first run of a size says little of the next, and later ones change the mean slowly', () => {
  const pace = paceOf([
    [4, 1_000],
    [4, 8],
  ]);
  expect([pace.runMs(4), pace.rowMs]).toEqual([8, 2]);
  pace.add(4, 16);
  expect([pace.runMs(4), pace.rowMs]).toEqual([9, 2.25]);
});

test('a size that was slow once is taken for no slower than smaller runs that do as much, or than larger ones', () => {
  const pace = paceOf([
    [16, 20],
    [32, 120],
  ]);
  expect([16, 23, 32, 40].map((rows) => pace.runMs(rows))).toEqual([20, 40, 40, 60]);
  const cold = paceOf([
    [1, 1_000],
    [8, 10],
  ]);
  expect([cold.runMs(1), cold.runMs(8)]).toEqual([10, 10]);
});

test('a run without rows counts as one of one', () => {
  const pace = paceOf([[0, 3]]);
  expect([pace.runMs(0), pace.runMs(1), pace.rowMs]).toEqual([3, 3, 3]);
});
