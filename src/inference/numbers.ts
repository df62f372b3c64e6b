import type { Datatype } from './tensor.ts';

/** Writes a JSON value as a little-endian element, false where it is none of the datatype; reads an element as a JSON value. */
export type NumberCodec = {
  size: number;
  expected: string;
  write(view: DataView, offset: number, value: unknown): boolean;
  read(view: DataView, offset: number): unknown;
};

const SPECIAL = new Map<unknown, number>([
  ['NaN', Number.NaN],
  ['Infinity', Number.POSITIVE_INFINITY],
  ['-Infinity', Number.NEGATIVE_INFINITY],
]);

function integer(
  size: number,
  min: number,
  max: number,
  set: (view: DataView, at: number, n: number) => void,
  get: (view: DataView, at: number) => number,
): NumberCodec {
  return {
    size,
    expected: `a whole number, ${min} to ${max}`,
    write(view, offset, value) {
      if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) return false;
      set(view, offset, value);
      return true;
    },
    read: get,
  };
}

/** 64-bit integers are decimal strings, since a JSON number is exact only to 2^53; such a number is taken too. */
function wide(
  min: bigint,
  max: bigint,
  set: (view: DataView, at: number, n: bigint) => void,
  get: (view: DataView, at: number) => bigint,
): NumberCodec {
  return {
    size: 8,
    expected: `a whole number as a decimal string, ${min} to ${max}`,
    write(view, offset, value) {
      const valid = (typeof value === 'string' && /^-?\d{1,20}$/.test(value)) || (typeof value === 'number' && Number.isSafeInteger(value));
      if (!valid) return false;
      const exact = BigInt(value as string | number);
      if (exact < min || exact > max) return false;
      set(view, offset, exact);
      return true;
    },
    read: (view, offset) => get(view, offset).toString(),
  };
}

/** A finite number beyond the datatype's range is refused rather than made infinite. */
function float(
  size: number,
  set: (view: DataView, at: number, n: number) => void,
  get: (view: DataView, at: number) => number,
): NumberCodec {
  return {
    size,
    expected: 'a finite number in range, "NaN", "Infinity" or "-Infinity"',
    write(view, offset, value) {
      const special = SPECIAL.get(value);
      if (special !== undefined) {
        set(view, offset, special);
        return true;
      }
      if (typeof value !== 'number' || !Number.isFinite(value)) return false;
      set(view, offset, value);
      return Number.isFinite(get(view, offset));
    },
    read(view, offset) {
      const value = get(view, offset);
      return Number.isFinite(value) ? value : String(value);
    },
  };
}

const BOOL: NumberCodec = {
  size: 1,
  expected: 'true or false',
  write(view, offset, value) {
    if (typeof value !== 'boolean') return false;
    view.setUint8(offset, value ? 1 : 0);
    return true;
  },
  read: (view, offset) => view.getUint8(offset) !== 0,
};

const CODECS: Record<Exclude<Datatype, 'BYTES'>, NumberCodec> = {
  BOOL,
  UINT8: integer(
    1,
    0,
    0xff,
    (v, at, n) => v.setUint8(at, n),
    (v, at) => v.getUint8(at),
  ),
  UINT16: integer(
    2,
    0,
    0xffff,
    (v, at, n) => v.setUint16(at, n, true),
    (v, at) => v.getUint16(at, true),
  ),
  UINT32: integer(
    4,
    0,
    0xffff_ffff,
    (v, at, n) => v.setUint32(at, n, true),
    (v, at) => v.getUint32(at, true),
  ),
  INT8: integer(
    1,
    -0x80,
    0x7f,
    (v, at, n) => v.setInt8(at, n),
    (v, at) => v.getInt8(at),
  ),
  INT16: integer(
    2,
    -0x8000,
    0x7fff,
    (v, at, n) => v.setInt16(at, n, true),
    (v, at) => v.getInt16(at, true),
  ),
  INT32: integer(
    4,
    -0x8000_0000,
    0x7fff_ffff,
    (v, at, n) => v.setInt32(at, n, true),
    (v, at) => v.getInt32(at, true),
  ),
  UINT64: wide(
    0n,
    2n ** 64n - 1n,
    (v, at, n) => v.setBigUint64(at, n, true),
    (v, at) => v.getBigUint64(at, true),
  ),
  INT64: wide(
    -(2n ** 63n),
    2n ** 63n - 1n,
    (v, at, n) => v.setBigInt64(at, n, true),
    (v, at) => v.getBigInt64(at, true),
  ),
  FP16: float(
    2,
    (v, at, n) => v.setFloat16(at, n, true),
    (v, at) => v.getFloat16(at, true),
  ),
  FP32: float(
    4,
    (v, at, n) => v.setFloat32(at, n, true),
    (v, at) => v.getFloat32(at, true),
  ),
  FP64: float(
    8,
    (v, at, n) => v.setFloat64(at, n, true),
    (v, at) => v.getFloat64(at, true),
  ),
};

export function numberCodec(datatype: Exclude<Datatype, 'BYTES'>): NumberCodec {
  return CODECS[datatype];
}
