import { describe, expect, it } from 'vitest';
import { type Datatype, encodeBytes, type Signature, type Tensor } from '../../src/inference/inference.ts';
import { checkAgainst, type GivenTensor, parseInputs, toBase64, toJson } from '../../src/inference/tensor-input.ts';

function parsed(datatype: Datatype, data: unknown, shape?: number[]): Tensor {
  const [tensor] = parseInputs([{ name: 'x', datatype, data, shape }]);
  if (!tensor) throw new Error('nothing was parsed');
  return tensor;
}

/** The error of a call; it must name its input, what was given and what is expected. */
function refusal(fn: () => unknown): { field: string; given: string; expected: string; message: string } {
  try {
    fn();
  } catch (error) {
    expect(error).toMatchObject({
      code: 'BAD_USER_INPUT',
      data: { field: expect.any(String), given: expect.any(String), expected: expect.any(String) },
    });
    const { data, message } = error as { data: { field: string; given: string; expected: string }; message: string };
    return { ...data, message };
  }
  throw new Error('nothing was refused');
}

const NUMBERS: [Datatype, unknown[], string][] = [
  ['BOOL', [true, false], '0100'],
  ['UINT8', [0, 255], '00ff'],
  ['UINT16', [0, 1, 65_535], '00000100ffff'],
  ['UINT32', [0, 4_294_967_295], '00000000ffffffff'],
  ['UINT64', ['0', '18446744073709551615'], '0000000000000000ffffffffffffffff'],
  ['INT8', [-128, 127], '807f'],
  ['INT16', [-32_768, 32_767], '0080ff7f'],
  ['INT32', [-2_147_483_648, 2_147_483_647], '00000080ffffff7f'],
  ['INT64', ['-9223372036854775808', '9223372036854775807'], '0000000000000080ffffffffffffff7f'],
  ['FP16', [1, -2, 65_504, 'NaN', 'Infinity', '-Infinity'], '003c00c0ff7b007e007c00fc'],
  ['FP32', [1, 1.5, 'NaN', 'Infinity', '-Infinity'], '0000803f0000c03f0000c07f0000807f000080ff'],
  ['FP64', [1, 'NaN', '-Infinity'], '000000000000f03f000000000000f87f000000000000f0ff'],
  ['BYTES', ['', 'aé', '😀'], '000000000300000061c3a904000000f09f9880'],
];

describe('every datatype', () => {
  it.each(NUMBERS)('%s is little-endian, and the same from JSON and base64, both ways', (datatype, values, hex) => {
    const json = parsed(datatype, values);
    expect(json).toMatchObject({ datatype, shape: [values.length] });
    expect(Buffer.from(json.data).toString('hex')).toBe(hex);
    const base64 = Buffer.from(hex, 'hex').toString('base64');
    expect(toBase64(json)).toBe(base64);
    const binary = parsed(datatype, base64, [values.length]);
    expect(Buffer.from(binary.data).toString('hex')).toBe(hex);
    expect(toJson(binary)).toEqual(values);
  });

  it.each<[Datatype, unknown[]]>([
    ['BOOL', [0, 1, 'true', null]],
    ['UINT8', [-1, 256, 1.5, '1', true, null, Number.NaN, Number.POSITIVE_INFINITY]],
    ['UINT16', [-1, 65_536]],
    ['UINT32', [-1, 4_294_967_296]],
    ['UINT64', ['-1', '18446744073709551616', 2 ** 53, 1.5, '1.0', '0x1', '', ' 1', '1e3', '1'.repeat(21)]],
    ['INT8', [-129, 128]],
    ['INT16', [-32_769, 32_768]],
    ['INT32', [-2_147_483_649, 2_147_483_648]],
    ['INT64', ['-9223372036854775809', '9223372036854775808', 2 ** 53, '--1', '+1']],
    ['FP16', [65_520, -65_520, '1', 'nan', 'inf', true, null, {}]],
    ['FP32', [3.5e38, '1.0', Number.NaN, Number.POSITIVE_INFINITY]],
    ['FP64', [Number.NEGATIVE_INFINITY, 'Nan', '+Infinity']],
    ['BYTES', [1, null, true, 'a\0b', '\ud800', {}]],
  ])('%s refuses what it cannot hold, and says where', (datatype, values) => {
    const good = datatype === 'BOOL' ? true : datatype === 'BYTES' ? 'good' : 1;
    for (const value of values) {
      const { field, message } = refusal(() => parsed(datatype, [good, value]));
      expect(field).toBe('inputs[0].data');
      expect(message).toContain('Input "x" has at element 1 what is no');
    }
  });

  it('rounds floats to the nearest that the datatype has, and takes exact numbers for 64-bit integers', () => {
    expect(toJson(parsed('FP32', [0.1]))).toEqual([Math.fround(0.1)]);
    expect(toJson(parsed('FP16', [65_519]))).toEqual([65_504]);
    expect(toJson(parsed('INT64', [-5, 2 ** 53 - 1, '-0']))).toEqual(['-5', '9007199254740991', '0']);
  });
});

describe('shape', () => {
  it('is that of nested lists where it is left out, and may be given for flat ones', () => {
    expect(
      parsed('UINT8', [
        [1, 2, 3],
        [4, 5, 6],
      ]).shape,
    ).toEqual([2, 3]);
    expect(parsed('UINT8', [1, 2, 3, 4, 5, 6], [3, 2])).toMatchObject({ shape: [3, 2] });
    expect(parsed('UINT8', [[1], [2]], [2, 1])).toMatchObject({ shape: [2, 1] });
    expect(parsed('UINT8', [7], [])).toMatchObject({ shape: [], data: new Uint8Array([7]) });
    expect(parsed('UINT8', [[], []]).shape).toEqual([2, 0]);
    expect(parsed('UINT8', [], [0, 28, 28]).shape).toEqual([0, 28, 28]);
    expect(
      parsed(
        'UINT8',
        Array.from({ length: 16 }).reduce<unknown>((inner) => [inner], 1),
      ).shape,
    ).toEqual(Array(16).fill(1));
  });

  it.each<[string, unknown, number[] | undefined]>([
    ['lists of different lengths', [[1, 2], [3]], undefined],
    ['a list beside a number', [1, [2]], undefined],
    ['a number beside a list', [[1], 2], undefined],
    ['different depths', [[[1]], [2]], undefined],
    [
      'nested data of another shape',
      [
        [1, 2, 3],
        [4, 5, 6],
      ],
      [3, 2],
    ],
    ['too few flat elements', [1, 2, 3], [2, 2]],
    ['too many flat elements', [1, 2, 3], [2]],
    ['17 dimensions of lists', Array.from({ length: 17 }).reduce<unknown>((inner) => [inner], 1), undefined],
    ['a million dimensions of lists', Array.from({ length: 1_000_000 }).reduce<unknown>((inner) => [inner], 1), undefined],
    ['17 dimensions', [1], Array(17).fill(1)],
    ['a negative size', [1], [-1]],
    ['half a row', [1], [0.5]],
    ['more elements than any tensor may have', [1], [2 ** 26 + 1]],
    ['a product beyond all numbers', [1], Array(16).fill(2 ** 31)],
    ['a billion rows of nothing', [], [1_000_000_000, 0]],
    ['base64 without a shape', 'AAAA', undefined],
  ])('refuses %s', (_, data, shape) => {
    expect(refusal(() => parsed('UINT8', data, shape)).message).toContain('Input "x"');
  });
});

describe('base64', () => {
  it.each(['AQ=', 'AQ', 'A', 'AQ===', 'AQ==\n', ' AQ==', 'A Q==', 'AR==', 'AQF=', 'AQ==AQ==', '____', 'AQ=A', 'é'])(
    'refuses %j',
    (data) => {
      const { field, message } = refusal(() => parsed('UINT8', data, [1]));
      expect([field, message]).toEqual(['inputs[0].data', 'Input "x" is not valid base64.']);
    },
  );

  it('refuses another number of bytes than shape and datatype need', () => {
    const { given, expected, message } = refusal(() => parsed('FP32', Buffer.alloc(11).toString('base64'), [3]));
    expect([given, expected]).toEqual(['11 bytes', '12 bytes']);
    expect(message).toContain('FP32 [3]');
    expect(refusal(() => parsed('UINT8', '', [1])).given).toBe('0 bytes');
    expect(parsed('UINT8', '', [0]).data).toHaveLength(0);
  });

  it('refuses a BOOL that is neither 0 nor 1', () => {
    expect(refusal(() => parsed('BOOL', Buffer.from([0, 2]).toString('base64'), [2]))).toMatchObject({ given: '2', expected: '0 or 1' });
  });

  it.each<[string, number[], number]>([
    ['a length past the end', [5, 0, 0, 0, 97], 1],
    ['a length of four billion', [255, 255, 255, 255, 97], 1],
    ['a cut length', [1, 0, 0], 1],
    ['bytes left over', [1, 0, 0, 0, 97, 98], 1],
    ['an element too few', [1, 0, 0, 0, 97], 2],
    ['an element too many', [1, 0, 0, 0, 97, 0, 0, 0, 0], 1],
    ['a broken UTF-8 sequence', [1, 0, 0, 0, 0xff], 1],
    ['half a surrogate in UTF-8', [3, 0, 0, 0, 0xed, 0xa0, 0x80], 1],
    ['a NUL', [1, 0, 0, 0, 0], 1],
  ])('refuses BYTES with %s', (_, bytes, count) => {
    const { message, expected } = refusal(() => parsed('BYTES', Buffer.from(bytes).toString('base64'), [count]));
    expect(message).toContain(`Input "x" is no BYTES tensor of ${count} UTF-8 elements`);
    expect(expected).toContain('length');
  });

  it('is what a string is, whatever the datatype: a scalar text comes as a list of one', () => {
    expect(toJson(parsed('BYTES', ['word'], []))).toEqual(['word']);
    expect(toJson(parsed('BYTES', Buffer.from(encodeBytes(['word'])).toString('base64'), []))).toEqual(['word']);
    for (const text of ['word', 'words']) refusal(() => parsed('BYTES', text, []));
  });
});

describe('a call', () => {
  const given = (name: string): GivenTensor => ({ name, datatype: 'UINT8', data: [1] });

  it('has at most 256 inputs, each with a name of its own', () => {
    expect(refusal(() => parseInputs(Array.from({ length: 257 }, (_, i) => given(`x${i}`)))).given).toBe('257');
    expect(parseInputs(Array.from({ length: 256 }, (_, i) => given(`x${i}`)))).toHaveLength(256);
    expect(refusal(() => parseInputs([given('x'), given('y'), given('x')]))).toMatchObject({ field: 'inputs[2].name', given: 'x' });
    expect(refusal(() => parseInputs([given('')])).field).toBe('inputs[0].name');
    expect(refusal(() => parseInputs([given('n'.repeat(256))])).given).toBe('256 characters');
  });

  const signature: Signature = {
    inputs: [
      { name: 'image', datatype: 'UINT8', shape: [-1, 2, -1], dimensions: ['N', null, 'W'] },
      { name: 'mask', datatype: 'BOOL', shape: [-1, -1], dimensions: ['N', 'W'] },
    ],
    outputs: [
      { name: 'label', datatype: 'INT64', shape: [-1], dimensions: ['N'] },
      { name: 'score', datatype: 'FP32', shape: [-1], dimensions: ['N'] },
    ],
    batchDimension: 'N',
  };
  const tensor = (name: string, datatype: Datatype, shape: number[]): Tensor => ({ name, datatype, shape, data: new Uint8Array() });
  const image = tensor('image', 'UINT8', [3, 2, 4]);
  const mask = tensor('mask', 'BOOL', [3, 4]);
  const check = (inputs: Tensor[], outputs: string[] | null = null) => checkAgainst(signature, inputs, outputs);

  it('has the rows of its batch dimension, in whatever order its inputs come; without one it has one', () => {
    expect(check([image, mask])).toBe(3);
    expect(check([mask, image], ['score'])).toBe(3);
    expect(checkAgainst({ ...signature, batchDimension: null }, [image, mask], null)).toBe(1);
  });

  it('has no more rows than a run may, where they are not split into runs', () => {
    expect(checkAgainst(signature, [image, mask], null, 3)).toBe(3);
    const given = { field: 'inputs', given: '3 rows', expected: '2 rows or fewer' };
    expect(() => checkAgainst(signature, [image, mask], null, 2)).toThrow(expect.objectContaining({ code: 'BAD_USER_INPUT', data: given }));
  });

  it.each<[string, Tensor[], string[] | null, { field: string; given: string; expected: string }]>([
    [
      'an unknown input',
      [image, mask, tensor('extra', 'UINT8', [3])],
      null,
      { field: 'inputs[2].name', given: 'extra', expected: 'image, mask' },
    ],
    ['a missing input', [image], null, { field: 'inputs', given: 'image', expected: 'image, mask' }],
    [
      'another datatype',
      [image, tensor('mask', 'UINT8', [3, 4])],
      null,
      { field: 'inputs[1]', given: 'UINT8 [3,4]', expected: 'BOOL [N,W]' },
    ],
    [
      'another rank',
      [tensor('image', 'UINT8', [3, 8]), mask],
      null,
      { field: 'inputs[0]', given: 'UINT8 [3,8]', expected: 'UINT8 [N,2,W]' },
    ],
    [
      'another fixed size',
      [tensor('image', 'UINT8', [3, 1, 4]), mask],
      null,
      { field: 'inputs[0]', given: 'UINT8 [3,1,4]', expected: 'UINT8 [N,2,W]' },
    ],
    ['a dimension that disagrees', [image, tensor('mask', 'BOOL', [3, 5])], null, { field: 'inputs[1]', given: '5', expected: '4' }],
    ['rows that disagree', [image, tensor('mask', 'BOOL', [2, 4])], null, { field: 'inputs[1]', given: '2', expected: '3' }],
    ['an unknown output', [image, mask], ['label', 'logits'], { field: 'outputs[1]', given: 'logits', expected: 'label, score' }],
    ['an output twice', [image, mask], ['label', 'label'], { field: 'outputs[1]', given: 'label', expected: 'each output once' }],
    ['no output', [image, mask], [], { field: 'outputs', given: '[]', expected: 'label, score' }],
    [
      'no row',
      [tensor('image', 'UINT8', [0, 2, 4]), tensor('mask', 'BOOL', [0, 4])],
      null,
      { field: 'inputs', given: '0 rows', expected: '1 row or more' },
    ],
  ])('is refused with %s', (_, inputs, outputs, expected) => {
    expect(refusal(() => check(inputs, outputs))).toMatchObject(expected);
  });

  it('says in a disagreement which dimension it is, and of which inputs', () => {
    const { message } = refusal(() => check([image, tensor('mask', 'BOOL', [3, 5])]));
    expect(message).toBe('Dimension W is 4 in input "image", but 5 in "mask".');
  });
});
