import { describe, expect, it } from 'vitest';
import { node, tensor } from '../../src/inference/onnx/onnx.ts';
import { optimiseModel } from '../../src/training/optimise/optimise.ts';
import { answers, convModel, denseModel, modelOf, relativeError, rowsOf, uniform } from '../support/optimise.ts';

/** Four rows of 64, each of another size. */
const rows = [1, 100, 0.01, 0].map((size, index) => uniform(64, 20 + index, size));
const joined = Float32Array.from(rows.flatMap((row) => [...row]));

/** The largest |joined − alone| of a row over the largest |alone|. */
async function touch(bytes: Uint8Array): Promise<number> {
  const together = await answers(bytes, joined, [rows.length, 64]);
  const width = together.length / rows.length;
  const errors = rows.map(async (row, index) =>
    relativeError(await answers(bytes, row, [1, 64]), together.slice(index * width, (index + 1) * width)),
  );
  return Math.max(...(await Promise.all(errors)));
}

/** A dense layer by DynamicQuantizeLinear, as ONNX Runtime's own tool writes it. */
function oneScale(): Uint8Array {
  const nodes = [
    node('DynamicQuantizeLinear', ['x'], ['q', 's', 'z']),
    node('MatMulInteger', ['q', 'w', 'z'], ['i']),
    node('Cast', ['i'], ['f'], { to: 1 }),
    node('Mul', ['s', 'c'], ['u']),
    node('Mul', ['f', 'u'], ['y']),
  ];
  const weights = [tensor('w', 'INT8', [64, 32], Int8Array.from(uniform(64 * 32, 1, 126))), tensor('c', 'FP32', [32], uniform(32, 2))];
  return modelOf([64], [32], nodes, weights);
}

describe('rows of an optimised model', () => {
  it('keep their answers in any company, bit by bit', async () => {
    const { bytes } = await optimiseModel(denseModel(), 'DYNAMIC_INT8');
    expect(await touch(bytes)).toBe(0);
    const fixed = await optimiseModel(denseModel(), 'STATIC_INT8', { calibration: rowsOf([64]) });
    expect(await touch(fixed.bytes)).toBe(0);
  });

  it('are near those of the source, each on its own scale', async () => {
    const { bytes } = await optimiseModel(denseModel(), 'DYNAMIC_INT8');
    for (const row of rows)
      expect(relativeError(await answers(denseModel(), row, [1, 64]), await answers(bytes, row, [1, 64]))).toBeLessThan(0.03);
    const [source, made] = [await answers(denseModel(), joined, [4, 64]), await answers(bytes, joined, [4, 64])];
    for (const row of [0, 1, 2, 3]) {
      expect(relativeError(source.slice(row * 32, row * 32 + 32), made.slice(row * 32, row * 32 + 32))).toBeLessThan(0.03);
    }
  });

  it('would change with one scale for the batch, as DynamicQuantizeLinear takes it', async () => {
    expect(await touch(oneScale())).toBeGreaterThan(0.1);
  });

  it('do not touch in a conv net', async () => {
    const { bytes } = await optimiseModel(convModel(), 'STATIC_INT8', { calibration: rowsOf([1, 12, 12]) });
    const pictures = uniform(3 * 144, 30, 2);
    const together = await answers(bytes, pictures, [3, 1, 12, 12]);
    for (const row of [0, 1, 2]) {
      const alone = await answers(bytes, pictures.slice(row * 144, (row + 1) * 144), [1, 1, 12, 12]);
      expect([...together.slice(row * 10, (row + 1) * 10)]).toEqual([...alone]);
    }
  });
});
