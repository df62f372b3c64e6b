import { type Storage, storageOf, type TypedField } from './datatypes.ts';
import { rejected } from './read.ts';
import type { OnnxSparseTensor, OnnxTensor } from './schema.ts';

const TYPED_FIELDS = ['floatData', 'int32Data', 'int64Data', 'doubleData', 'uint64Data', 'stringData'] as const;

/**
 * Holds a constant to what the file itself carries, and gives its number of elements.
 * Errors, in this order: external data, segmented, unknown element type, impossible shape, data in several fields or in the wrong one,
 * data that is not as long as the shape wants.
 */
export function checkTensor(tensor: OnnxTensor, place: string): number {
  if ((tensor.dataLocation ?? 0) !== 0 || tensor.externalData.length > 0) {
    throw rejected('The tensor takes its data from another file; save the model with its weights inside.', place);
  }
  if (tensor.segment !== undefined) throw rejected('The tensor is one segment of a larger one.', place);
  const storage = storageOf(tensor.dataType ?? 0);
  if (storage === null) throw rejected(`The tensor has the unknown element type ${tensor.dataType ?? 0}.`, place);
  const elements = elementsOf(tensor.dims, place);
  const given = TYPED_FIELDS.filter((field) => tensor[field].length > 0);
  if (given.length + (tensor.rawData === undefined ? 0 : 1) > 1) throw rejected('The tensor has data in more than one field.', place);
  if (tensor.rawData !== undefined) checkRaw(tensor.rawData, elements, storage, place);
  else checkTyped(tensor, given[0], elements, storage, place);
  return elements;
}

/** The same for a sparse constant, whose parts are `values` and `indices`; gives the number of stored values. */
export function checkSparseTensor({ values, indices, dims }: OnnxSparseTensor, place: string): number {
  if (values === undefined || indices === undefined) throw rejected('The sparse tensor lacks its values or its indices.', place);
  const stored = checkTensor(values, `${place}.values`);
  checkTensor(indices, `${place}.indices`);
  elementsOf(dims, place);
  return stored;
}

function elementsOf(dims: readonly bigint[], place: string): number {
  let elements = 1n;
  for (const dim of dims) {
    if (dim < 0n) throw rejected(`The tensor has the negative dimension ${dim}.`, place);
    elements *= dim;
    if (elements > BigInt(Number.MAX_SAFE_INTEGER)) throw rejected('The tensor has more elements than any file holds.', place);
  }
  return Number(elements);
}

function checkRaw(raw: Uint8Array, elements: number, { bits }: Storage, place: string): void {
  if (bits === null) throw rejected('The tensor of strings has raw data.', place);
  const wanted = Math.ceil((elements * bits) / 8);
  if (raw.length !== wanted) throw rejected(`The tensor's shape wants ${wanted} bytes of data and it has ${raw.length}.`, place);
}

function checkTyped(tensor: OnnxTensor, given: TypedField | undefined, elements: number, storage: Storage, place: string): void {
  if (given !== undefined && given !== storage.field) throw rejected(`The tensor's data is in ${given}, not in ${storage.field}.`, place);
  const wanted = Math.ceil(elements * storage.perElement);
  const entries = countEntries(storage.field, tensor[storage.field]);
  if (entries !== wanted) throw rejected(`The tensor's shape wants ${wanted} entries of data and it has ${entries}.`, place);
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
