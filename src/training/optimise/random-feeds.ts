import { MercatoError } from '../../base/errors.ts';
import { checkModel, type Datatype } from '../../inference/onnx/onnx.ts';
import { createRandom, Tensor } from '../net/net.ts';
import { fixedRows, type Rows } from './batches.ts';

const SEED = 1;
const ROWS = 64;
/** Valid for most models as numbers, indices and tokens. */
const WHOLE_MAX = 1;

/**
 * Rows for a model that none are known for: fractions from −2 to 2, whole numbers 0 and 1, the same ones each time. Dimensions that vary,
 * but for the leading one, are 1. Errors: MODEL_FAILED for inputs of texts.
 */
export function randomFeeds(model: Uint8Array): Rows {
  const { inputs } = checkModel(model);
  const fixed = fixedRows(model);
  const feeds = (from: number, to: number): Record<string, Tensor> =>
    Object.fromEntries(
      inputs.map(({ name, datatype, dimensions }, index) => {
        const dims = dimensions.map((one, at) => (typeof one === 'number' ? one : at === 0 ? to - from : 1));
        return [name, randomTensor(datatype, dims, SEED + from * inputs.length + index)];
      }),
    );
  return { rows: fixed ?? ROWS, feeds };
}

function randomTensor(datatype: Datatype, dims: readonly number[], seed: number): Tensor {
  const random = createRandom(seed);
  const size = dims.reduce((product, dim) => product * dim, 1);
  const fractions = Float64Array.from({ length: size }, () => 4 * random.uniform() - 2);
  const whole = fractions.map((one) => (one < 0 ? 0 : WHOLE_MAX));
  const shape = [...dims];
  switch (datatype) {
    case 'FP32':
      return new Tensor('float32', Float32Array.from(fractions), shape);
    case 'FP64':
      return new Tensor('float64', fractions, shape);
    case 'FP16':
      return new Tensor('float16', new Uint16Array(Float16Array.from(fractions).buffer), shape);
    case 'INT64':
      return new Tensor('int64', BigInt64Array.from(whole, BigInt), shape);
    case 'UINT64':
      return new Tensor('uint64', BigUint64Array.from(whole, BigInt), shape);
    case 'INT32':
      return new Tensor('int32', Int32Array.from(whole), shape);
    case 'UINT32':
      return new Tensor('uint32', Uint32Array.from(whole), shape);
    case 'INT16':
      return new Tensor('int16', Int16Array.from(whole), shape);
    case 'UINT16':
      return new Tensor('uint16', Uint16Array.from(whole), shape);
    case 'INT8':
      return new Tensor('int8', Int8Array.from(whole), shape);
    case 'UINT8':
      return new Tensor('uint8', Uint8Array.from(whole), shape);
    case 'BOOL':
      return new Tensor('bool', Uint8Array.from(whole), shape);
    case 'BYTES':
      throw new MercatoError('MODEL_FAILED', 'There are no rows for this model: texts cannot be made up.');
  }
}
