import { exampleDigit } from '../../src/commands/seed.ts';
import type { PredictCall } from './market.ts';

/** The digit of `npm start`, as one row or as `rows` equal ones: to the net they cost the same as different ones. */
export async function digitCall(model: string, rows: number, shape: readonly number[] = [28, 28]): Promise<PredictCall> {
  const { base64 } = await exampleDigit();
  const pixels = Buffer.from(base64, 'base64');
  const data = Buffer.concat(Array.from({ length: rows }, () => pixels)).toString('base64');
  return { model, outputs: ['label'], input: { name: 'image', datatype: 'UINT8', shape: [rows, ...shape], data } };
}

/** One picture of 3 × 224 × 224 numbers for `resNet50`. */
export function pictureCall(model: string): PredictCall {
  const shape = [1, 3, 224, 224];
  const pixels = Float32Array.from({ length: 3 * 224 * 224 }, (_, index) => (index % 251) / 251);
  const data = Buffer.from(pixels.buffer).toString('base64');
  return { model, outputs: ['scores'], input: { name: 'image', datatype: 'FP32', shape, data } };
}
