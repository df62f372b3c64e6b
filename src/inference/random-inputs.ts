import { type Datatype, elementCount, encodeBytes, type Signature, type SignatureTensor, type Tensor } from './tensor.ts';

/** `size`: of every dynamic dimension but the batch. Whole numbers are 0 … `wholeMax`; fractions lie in −1 … 1. */
export type InputRange = { size: number; wholeMax: number };

/** All inputs of a run together: more elements tell no more about a model. */
const ELEMENTS_MAX = 16 * 1024 * 1024;

/** Random inputs of `rows` rows; null where they have more than 16 Mi elements together, which is too large to try. */
export function randomInputs(signature: Signature, rows: number, range: InputRange): Tensor[] | null {
  const shapes = signature.inputs.map((input) => shapeOf(input, signature.batchDimension, rows, range.size));
  const elements = shapes.reduce((sum, shape) => sum + elementCount(shape), 0);
  // Sizes beyond any number, times 0, are not one.
  if (Number.isNaN(elements) || elements > ELEMENTS_MAX) return null;
  return signature.inputs.map(({ name, datatype }, index) => {
    const shape = shapes[index] ?? [];
    return { name, datatype, shape, data: randomData(datatype, elementCount(shape), range.wholeMax) };
  });
}

function shapeOf({ shape, dimensions }: SignatureTensor, batchDimension: string | null, rows: number, size: number): number[] {
  return shape.map((fixed, axis) => {
    if (batchDimension !== null && dimensions[axis] === batchDimension) return rows;
    return fixed >= 0 ? fixed : size;
  });
}

function randomData(datatype: Datatype, count: number, wholeMax: number): Uint8Array {
  const whole = () => Math.floor(Math.random() * (wholeMax + 1));
  const fraction = () => Math.random() * 2 - 1;
  const fill = <View extends { buffer: ArrayBuffer; [index: number]: unknown }>(view: View, next: () => View[number]) => {
    for (let index = 0; index < count; index++) view[index] = next();
    return new Uint8Array(view.buffer);
  };
  switch (datatype) {
    case 'BYTES':
      return randomWords(count, wholeMax, whole);
    case 'BOOL':
      return fill(new Uint8Array(count), () => Math.round(Math.random()));
    case 'INT8':
    case 'UINT8':
      return fill(new Uint8Array(count), whole);
    case 'INT16':
    case 'UINT16':
      return fill(new Uint16Array(count), whole);
    case 'INT32':
    case 'UINT32':
      return fill(new Uint32Array(count), whole);
    case 'INT64':
    case 'UINT64':
      return fill(new BigUint64Array(count), () => BigInt(whole()));
    case 'FP16':
      return fill(new Float16Array(count), fraction);
    case 'FP32':
      return fill(new Float32Array(count), fraction);
    case 'FP64':
      return fill(new Float64Array(count), fraction);
  }
}

/** As `encodeBytes` of words with a number each, without a string for each of millions. */
function randomWords(count: number, wholeMax: number, whole: () => number): Uint8Array {
  const words = Array.from({ length: wholeMax + 1 }, (_, number) => encodeBytes([`word${number}`]));
  const picked = Uint32Array.from({ length: count }, whole);
  const data = new Uint8Array(picked.reduce((size, number) => size + (words[number]?.length ?? 0), 0));
  let offset = 0;
  for (const number of picked) {
    const word = words[number] ?? new Uint8Array();
    data.set(word, offset);
    offset += word.length;
  }
  return data;
}
