import {
  type Arbitrary,
  array,
  assert,
  bigInt,
  boolean,
  constantFrom,
  double,
  float,
  integer,
  oneof,
  property,
  record,
  string,
  tuple,
} from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DATATYPES, type Datatype } from '../../src/inference/tensor.ts';
import { parseInputs, toBase64, toJson } from '../../src/inference/tensor-input.ts';

const special = constantFrom('NaN', 'Infinity', '-Infinity');
const digits = (min: bigint, max: bigint) => bigInt(min, max).map(String);
const ELEMENTS: Record<Datatype, Arbitrary<unknown>> = {
  BOOL: boolean(),
  UINT8: integer({ min: 0, max: 0xff }),
  UINT16: integer({ min: 0, max: 0xffff }),
  UINT32: integer({ min: 0, max: 0xffff_ffff }),
  UINT64: digits(0n, 2n ** 64n - 1n),
  INT8: integer({ min: -0x80, max: 0x7f }),
  INT16: integer({ min: -0x8000, max: 0x7fff }),
  INT32: integer({ min: -0x8000_0000, max: 0x7fff_ffff }),
  INT64: digits(-(2n ** 63n), 2n ** 63n - 1n),
  // Every number that a half has: ± m × 2^e with 11 bits of m.
  FP16: oneof(
    special,
    tuple(integer({ min: -2_047, max: 2_047 }), integer({ min: -24, max: 5 })).map(([m, e]) => m * 2 ** e),
  ),
  FP32: oneof(special, float({ noNaN: true, noDefaultInfinity: true })),
  FP64: oneof(special, double({ noNaN: true, noDefaultInfinity: true })),
  BYTES: string({ unit: 'binary' }).filter((text) => !text.includes('\0')),
};

/** A shape, as many elements, and the same elements nested. */
const tensors = (datatype: Datatype) =>
  array(integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 4 }).chain((shape) => {
    const count = shape.reduce((product, size) => product * size, 1);
    return record({
      shape: constantFrom(shape),
      flat: array(ELEMENTS[datatype], { minLength: count, maxLength: count }),
    });
  });

function nest(flat: readonly unknown[], shape: readonly number[]): unknown {
  const [size = 1, ...inner] = shape;
  if (shape.length === 0) return flat[0];
  const part = flat.length / size;
  return Array.from({ length: size }, (_, i) => nest(flat.slice(i * part, (i + 1) * part), inner));
}

const parse = (datatype: Datatype, data: unknown, shape?: number[]) => parseInputs([{ name: 'x', datatype, data, shape }])[0];

describe('what is decoded is what was encoded', () => {
  it.each(DATATYPES)('%s, flat, nested and in base64', (datatype) => {
    assert(
      property(tensors(datatype), ({ shape, flat }) => {
        const fromFlat = parse(datatype, flat, shape);
        const fromNested = parse(datatype, nest(flat, shape));
        if (!fromFlat || !fromNested) throw new Error('nothing was parsed');
        expect(fromNested).toEqual(fromFlat);
        expect(fromFlat.shape).toEqual(shape);
        expect(toJson(fromFlat)).toEqual(flat);
        const fromBase64 = parse(datatype, toBase64(fromFlat), shape);
        expect(Buffer.compare(fromBase64?.data ?? Buffer.alloc(0), fromFlat.data)).toBe(0);
      }),
    );
  });

  it('any bytes in base64 are taken as they are, or refused; nothing is repaired', () => {
    assert(
      property(string({ unit: constantFrom(...'AQgw+/=B') }), (text) => {
        const bytes = Buffer.from(text, 'base64');
        const take = () => parse('UINT8', text, [bytes.length]);
        if (bytes.toString('base64') === text) expect(Buffer.compare(take()?.data ?? Buffer.alloc(1), bytes)).toBe(0);
        else expect(take).toThrow('base64');
      }),
    );
  });
});
