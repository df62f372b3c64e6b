import { describe, expect, it } from 'vitest';
import type { CallResult } from '../../src/inference/connection.ts';
import { asFixed, type Latency, measure, rowsToFix } from '../../src/inference/profile.ts';
import type { Signature } from '../../src/inference/tensor.ts';

const x = { name: 'x', datatype: 'FP32', shape: [-1, 2], dimensions: ['N', null] } as const;
const signature: Signature = { inputs: [x], outputs: [{ ...x, name: 'y' }], batchDimension: 'N' };
const range = { size: 1, wholeMax: 1 };

/** Run times of ResNet-50's shape on an H200. */
const latencies = [2.5, 3.4, 3.6, 5.1, 8.5].map((p50Ms, index): Latency => {
  const rows = 2 ** index;
  return { rows, p50Ms, rowsPerSecond: (rows / p50Ms) * 1_000 };
});

/** Whose runs take `changeMs` longer where their rows are not those of the run before. */
function benchOf(changeMs: (run: number) => number) {
  let before = 0;
  let runs = 0;
  return {
    run: async (_: unknown, rows: number) => {
      const p50Ms = latencies.find((one) => one.rows === rows)?.p50Ms ?? 0;
      const computeMs = p50Ms + (rows === before ? 0 : changeMs(runs++));
      before = rows;
      return { computeMs } as CallResult;
    },
    peakBytes: async () => 0,
    deviceBytes: async () => null,
  };
}

const fixedAt = (changeMs: (run: number) => number, given = latencies) => rowsToFix(signature, range, given, benchOf(changeMs));

describe('the rows that every run should have', () => {
  it('are the fewest that are nearly the fastest, where a change costs more than to fill up', async () => {
    expect(await fixedAt(() => 50)).toBe(8);
    const flat = latencies.map((one) => ({ ...one, rowsPerSecond: Math.min(one.rowsPerSecond, 1_100) }));
    expect(await fixedAt(() => 50, flat)).toBe(4);
  });

  it('are not fixed where changes are cheap, or one of them was', async () => {
    expect(await fixedAt(() => 0)).toBeNull();
    expect(await fixedAt(() => 5)).toBeNull();
    expect(await fixedAt((run) => (run === 3 ? 0 : 50))).toBeNull();
  });

  it('are not fixed where one row is as fast as many, or nothing was measured', async () => {
    expect(await fixedAt(() => 50, latencies.slice(0, 1))).toBeNull();
    expect(await fixedAt(() => 50, [])).toBeNull();
    expect(
      await rowsToFix(
        signature,
        null,
        latencies,
        benchOf(() => 50),
      ),
    ).toBeNull();
  });

  it('are not fixed where a row can be of any size', async () => {
    const wide = { ...x, shape: [-1, -1], dimensions: ['N', 'K'] } as const;
    const texts = { ...x, datatype: 'BYTES' } as const;
    for (const input of [wide, texts]) {
      expect(
        await rowsToFix(
          { ...signature, inputs: [x, input] },
          range,
          latencies,
          benchOf(() => 50),
        ),
      ).toBeNull();
    }
  });

  it('are not fixed where a run fails by the model, and a fault of something else is not hidden', async () => {
    const failing = (code: string) => ({ ...benchOf(() => 50), run: () => Promise.reject(Object.assign(new Error(code), { code })) });
    expect(await rowsToFix(signature, range, latencies, failing('MODEL_FAILED'))).toBeNull();
    await expect(rowsToFix(signature, range, latencies, failing('EPIPE'))).rejects.toThrow('EPIPE');
  });

  it('take as long for every caller', () => {
    expect(asFixed(latencies, 4)).toEqual([
      { rows: 1, p50Ms: 3.6, rowsPerSecond: 1_000 / 3.6 },
      { rows: 2, p50Ms: 3.6, rowsPerSecond: 2_000 / 3.6 },
      { rows: 4, p50Ms: 3.6, rowsPerSecond: 4_000 / 3.6 },
    ]);
  });
});

describe('the sizes that are measured', () => {
  it('end before one that has no time left, or no memory', async () => {
    const slow = { ...benchOf(() => 0), run: async () => ({ computeMs: 700 }) as CallResult };
    expect(await measure(signature, range, 8, slow)).toMatchObject({ latencies: [{ rows: 1 }], failedRows: null, untriedRows: 2 });
    const wide = { ...x, shape: [-1, 16 * 1024 * 1024] };
    const large = { inputs: [wide], outputs: [{ ...wide, name: 'y' }], batchDimension: 'N' };
    expect(
      await measure(
        large,
        range,
        2,
        benchOf(() => 0),
      ),
    ).toMatchObject({ latencies: [{ rows: 1 }], untriedRows: 2 });
    expect(
      await measure(
        signature,
        range,
        4,
        benchOf(() => 0),
      ),
    ).toMatchObject({ failedRows: null, untriedRows: null });
  });
});
