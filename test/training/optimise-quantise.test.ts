import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { byteScale, halfToEven, quantiseBias, quantiseChannels, transposed, WEIGHT_MAX } from '../../src/training/optimise/quantise.ts';

const numbers = fc.float({ noNaN: true, noDefaultInfinity: true, min: -1_000, max: 1_000 }).map((one) => (Math.abs(one) < 1e-20 ? 0 : one));
const matrix = fc
  .tuple(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 6 }), fc.integer({ min: 0, max: 1 }))
  .chain(([rows, columns, axis]) =>
    fc.record({
      dims: fc.constant([rows, columns] as const),
      axis: fc.constant(axis),
      values: fc.array(numbers, { minLength: rows * columns, maxLength: rows * columns }),
    }),
  );

describe('quantised weights', () => {
  it('are within half a step of each weight, in bounds, with the largest of a channel at the bound', () => {
    fc.assert(
      fc.property(matrix, ({ dims, axis, values }) => {
        const { integers, scales } = quantiseChannels(Float64Array.from(values), dims, axis) ?? { integers: [], scales: [] };
        expect(scales.length).toBe(dims[axis]);
        const largest = new Array<number>(scales.length).fill(0);
        for (const [at, value] of values.entries()) {
          const channel = axis === 1 ? at % dims[1] : Math.floor(at / dims[1]);
          const [integer, scale] = [integers[at] ?? Number.NaN, scales[channel] ?? Number.NaN];
          expect(Math.abs(integer)).toBeLessThanOrEqual(WEIGHT_MAX);
          expect(Math.abs(value - integer * scale)).toBeLessThanOrEqual(scale * (0.5 + 1e-5));
          largest[channel] = Math.max(largest[channel] ?? 0, Math.abs(integer));
          if (value !== 0) expect(largest[channel]).toBeDefined();
        }
        for (const [channel, most] of largest.entries()) {
          const any = values.some((value, at) => value !== 0 && (axis === 1 ? at % dims[1] : Math.floor(at / dims[1])) === channel);
          expect(most).toBe(any ? WEIGHT_MAX : 0);
        }
      }),
    );
  });

  it('are exact where weights are whole steps', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: -WEIGHT_MAX, max: WEIGHT_MAX }), { minLength: 1, maxLength: 40 }),
        fc.integer({ min: -20, max: 20 }),
        (steps, power) => {
          const all = [...steps, WEIGHT_MAX];
          const made = quantiseChannels(
            Float64Array.from(all, (one) => one * 2 ** power),
            [all.length, 1],
            1,
          );
          expect([...(made?.integers ?? [])].map(Math.abs)).toEqual(all.map(Math.abs));
          expect(made?.scales[0]).toBe(2 ** power);
        },
      ),
    );
  });

  it('fit two products of the largest byte in 16 bits', () => {
    expect(2 * 255 * WEIGHT_MAX).toBeLessThan(2 ** 15);
  });

  it.each([[Number.NaN], [Number.POSITIVE_INFINITY], [1e300], [1e-300]])('are none for %d', (value) => {
    expect(quantiseChannels(Float64Array.of(value), [1, 1], 1)).toBeNull();
  });
});

describe('scales of bytes', () => {
  it('hold zero exactly and every value of the range within a step', () => {
    fc.assert(
      fc.property(numbers, numbers, fc.float({ min: 0, max: 1, noNaN: true }), (a, b, part) => {
        const [min, max] = [Math.min(a, b, 0), Math.max(a, b, 0)];
        const { scale, zeroPoint } = byteScale(Math.min(a, b), Math.max(a, b));
        const value = min + part * (max - min);
        const byte = Math.min(255, Math.max(0, halfToEven(value / scale) + zeroPoint));
        expect(Number.isInteger(zeroPoint) && zeroPoint >= 0 && zeroPoint <= 255).toBe(true);
        expect(Math.abs((byte - zeroPoint) * scale - value)).toBeLessThanOrEqual(scale * 1.001);
      }),
    );
  });
});

describe('biases', () => {
  it('are within half a unit, and none where 32 bits do not hold them', () => {
    const made = quantiseBias(Float64Array.of(1, -0.5), 0.5, Float32Array.of(0.25, 0.125));
    expect([...(made?.integers ?? [])]).toEqual([8, -8]);
    expect(quantiseBias(Float64Array.of(1e9), 0.5, Float32Array.of(0.25))).toBeNull();
    expect(quantiseBias(Float64Array.of(1), 1e-30, Float32Array.of(1e-30))).toBeNull();
  });
});

it('rounds halves to even and transposes by rows', () => {
  expect([0.5, 1.5, -0.5, -1.5, 2.4, -2.6].map((one) => halfToEven(one) + 0)).toEqual([0, 2, 0, -2, 2, -3]);
  expect([...transposed(Float64Array.of(1, 2, 3, 4, 5, 6), 2, 3)]).toEqual([1, 4, 2, 5, 3, 6]);
});
