import { LIMITS } from '../../base/limits.ts';
import { DATATYPES, type Storage, storageOf, type TypedField } from './datatypes.ts';
import { RANK_MAX } from './dims.ts';
import { firstOutside } from './elements.ts';
import { rejected } from './rejections.ts';
import type { OnnxSparseTensor, OnnxTensor } from './schema.ts';

const TYPED_FIELDS = ['floatData', 'int32Data', 'int64Data', 'doubleData', 'uint64Data', 'stringData'] as const;

/**
 * Holds a constant to what the file itself carries, and gives its number of elements.
 * Errors, in this order: external data, segmented, unknown element type, impossible shape, data in several fields or in the wrong one,
 * data in more parts than elements, data that is not as long as the shape wants.
 */
export function checkTensor(tensor: OnnxTensor, place: string): number {
  if ((tensor.dataLocation ?? 0) !== 0 || tensor.externalData.length > 0) {
    throw rejected('EXTERNAL_DATA', 'The tensor takes its data from another file; save the model with its weights inside.', place);
  }
  if (tensor.segment !== undefined) throw rejected('TENSOR_DATA', 'The tensor is one segment of a larger one.', place);
  const storage = storageOf(tensor.dataType ?? 0);
  if (storage === null) throw rejected('ELEMENT_TYPE', `The tensor has the unknown element type ${tensor.dataType ?? 0}.`, place);
  const elements = elementsOf(tensor.dims, place);
  const given = TYPED_FIELDS.filter((field) => tensor[field].length > 0);
  if (given.length + (tensor.rawData === undefined ? 0 : 1) > 1) {
    throw rejected('TENSOR_DATA', 'The tensor has data in more than one field.', place);
  }
  if (tensor.rawData !== undefined) checkRaw(tensor.rawData, elements, storage, place);
  else checkTyped(tensor, given[0], elements, storage, place);
  return elements;
}

/**
 * The same for a sparse constant, whose parts are `values` and `indices`; gives the number of stored values. Errors: a part is missing, those of
 * `checkTensor`, more bytes than a file when the runtime writes out the zeros, values that are no list or more than there are elements, indices that do not
 * fit.
 */
export function checkSparseTensor({ values, indices, dims }: OnnxSparseTensor, place: string): number {
  if (values === undefined || indices === undefined)
    throw rejected('SPARSE_TENSOR', 'The sparse tensor lacks its values or its indices.', place);
  const stored = checkTensor(values, `${place}.values`);
  checkTensor(indices, `${place}.indices`);
  const elements = elementsOf(dims, place);
  const bytes = (elements * (storageOf(values.dataType ?? 0)?.bits ?? 0)) / 8;
  if (bytes > LIMITS.modelBytesMax) {
    throw rejected('TENSOR_SIZE', `With its zeros the tensor has ${bytes} bytes.`, place, { limit: LIMITS.modelBytesMax, given: bytes });
  }
  if (values.dims.length !== 1) throw rejected('SPARSE_TENSOR', 'The values of a sparse tensor are a list.', `${place}.values`);
  if (stored > elements) {
    const text = `The tensor has ${elements} elements and ${stored} stored values.`;
    throw rejected('SPARSE_TENSOR', text, `${place}.values`, { limit: elements, given: stored });
  }
  checkIndices(indices, dims, stored, elements, `${place}.indices`);
  return stored;
}

/** One number for each stored value, or one for each of its dimensions. */
function checkIndices(indices: OnnxTensor, dims: readonly bigint[], stored: number, elements: number, place: string): void {
  const shape = indices.dims.map(Number);
  const linear = shape.length === 1;
  const fits = shape[0] === stored && (linear || (shape.length === 2 && shape[1] === dims.length));
  if (!fits || indices.dataType !== DATATYPES.INT64) throw rejected('SPARSE_TENSOR', 'The indices do not fit the values.', place);
  const outside = firstOutside(indices, linear ? [elements] : dims.map(Number));
  if (outside !== null) throw rejected('SPARSE_TENSOR', `The index ${outside} is outside the tensor.`, place);
}

/** Errors: more than 64 dimensions. */
export function checkRank(rank: number, place: string): void {
  if (rank <= RANK_MAX) return;
  throw rejected('DIMENSIONS', `The tensor has more than ${RANK_MAX} dimensions.`, place, { limit: RANK_MAX, given: rank });
}

function elementsOf(dims: readonly bigint[], place: string): number {
  checkRank(dims.length, place);
  let elements = 1n;
  for (const dim of dims) {
    if (dim < 0n) throw rejected('DIMENSIONS', `The tensor has the negative dimension ${dim}.`, place);
    elements *= dim;
    if (elements > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw rejected('TENSOR_SIZE', 'The tensor has more elements than any file holds.', place, { limit: Number.MAX_SAFE_INTEGER });
    }
  }
  return Number(elements);
}

function checkRaw(raw: Uint8Array, elements: number, { bits }: Storage, place: string): void {
  if (bits === null) throw rejected('TENSOR_DATA', 'The tensor of strings has raw data.', place);
  const wanted = Math.ceil((elements * bits) / 8);
  if (raw.length !== wanted)
    throw rejected('TENSOR_DATA', `The tensor's shape wants ${wanted} bytes of data and it has ${raw.length}.`, place);
}

function checkTyped(tensor: OnnxTensor, given: TypedField | undefined, elements: number, storage: Storage, place: string): void {
  if (given !== undefined && given !== storage.field)
    throw rejected('TENSOR_DATA', `The tensor's data is in ${given}, not in ${storage.field}.`, place);
  const wanted = Math.ceil(elements * storage.perElement);
  const parts = tensor[storage.field].length;
  // Empty ones would be joined again by every node that reads the tensor.
  if (parts > Math.max(1, wanted))
    throw rejected('TENSOR_DATA', `The tensor's data is in ${parts} parts and its shape wants ${wanted} entries.`, place);
  const entries = countEntries(storage.field, tensor[storage.field]);
  if (entries !== wanted) throw rejected('TENSOR_DATA', `The tensor's shape wants ${wanted} entries of data and it has ${entries}.`, place);
}

function countEntries(field: TypedField, chunks: readonly Uint8Array[]): number {
  if (field === 'stringData') return chunks.length;
  let entries = 0;
  for (const chunk of chunks) {
    if (field === 'floatData') entries += chunk.length / 4;
    else if (field === 'doubleData') entries += chunk.length / 8;
    else for (const byte of chunk) if (byte < 0x80) entries++;
  }
  return entries;
}
