/** The element types that tensors may have at the door of a model: Open Inference Protocol name → ONNX `TensorProto.DataType`. */
export const DATATYPES = {
  FP32: 1,
  UINT8: 2,
  INT8: 3,
  UINT16: 4,
  INT16: 5,
  INT32: 6,
  INT64: 7,
  BYTES: 8,
  BOOL: 9,
  FP16: 10,
  FP64: 11,
  UINT32: 12,
  UINT64: 13,
} as const;

export type Datatype = keyof typeof DATATYPES;

const names = new Map<number, Datatype>(Object.entries(DATATYPES).map(([name, value]) => [value, name as Datatype]));

/** The contract's name of an ONNX element type, or null where it has none. */
export function datatypeOf(elemType: number): Datatype | null {
  return names.get(elemType) ?? null;
}

/** The field of a TensorProto that holds elements one by one, where they are not in `raw_data`. */
export type TypedField = 'floatData' | 'int32Data' | 'int64Data' | 'doubleData' | 'uint64Data' | 'stringData';

/** How an element is stored: bits in `raw_data` (null: never there), and its typed field with the entries that one element takes. */
export type Storage = { bits: number | null; field: TypedField; perElement: number };

const small = (bits: number, perElement = 1): Storage => ({ bits, field: 'int32Data', perElement });

/** Every type that ONNX 1.22 knows, for weights inside a graph. Two 4-bit or four 2-bit elements share a byte, and an `int32_data` entry. */
const STORAGE: Record<number, Storage> = {
  1: { bits: 32, field: 'floatData', perElement: 1 },
  2: small(8),
  3: small(8),
  4: small(16),
  5: small(16),
  6: small(32),
  7: { bits: 64, field: 'int64Data', perElement: 1 },
  8: { bits: null, field: 'stringData', perElement: 1 },
  9: small(8),
  10: small(16),
  11: { bits: 64, field: 'doubleData', perElement: 1 },
  12: { bits: 32, field: 'uint64Data', perElement: 1 },
  13: { bits: 64, field: 'uint64Data', perElement: 1 },
  14: { bits: 64, field: 'floatData', perElement: 2 },
  15: { bits: 128, field: 'doubleData', perElement: 2 },
  16: small(16),
  17: small(8),
  18: small(8),
  19: small(8),
  20: small(8),
  21: small(4, 1 / 2),
  22: small(4, 1 / 2),
  23: small(4, 1 / 2),
  24: small(8),
  25: small(2, 1 / 4),
  26: small(2, 1 / 4),
};

/** How ONNX stores elements of this `TensorProto.DataType`, or null where there is no such type. */
export function storageOf(dataType: number): Storage | null {
  return STORAGE[dataType] ?? null;
}
