import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { MercatoError } from '../../src/base/errors.ts';
import { checkModel, decodeModel, encodeModel, float, model, node, type OnnxValue, tensor, value } from '../../src/inference/onnx/onnx.ts';
import { call, constant, identity, makeFunction, makeGraph, refusalOf, weights, withParts, x } from './onnx-parts.ts';

/** Fails with anything but MODEL_REJECTED. */
function survives(bytes: Uint8Array): void {
  try {
    checkModel(bytes);
  } catch (error) {
    if (!(error instanceof MercatoError && error.code === 'MODEL_REJECTED' && error.data.place !== undefined)) throw error;
  }
}

const sound = encodeModel(withParts({ nodes: [node('Add', ['x', 'w1'], ['y'], {}, { name: 'plus' })], initializers: [weights] }));

describe('checkModel', () => {
  it('refuses a file without a graph', () => {
    const { graph: _, ...rest } = model(makeGraph());
    expect(refusalOf(encodeModel(rest)).data.place).toBe('graph');
  });

  it('summarises what a model is made of', () => {
    expect(checkModel(sound)).toEqual({
      irVersion: 8,
      opsets: [{ domain: '', version: 17 }],
      operators: [{ name: 'Add', count: 1 }],
      parameters: 2,
      inputs: [{ name: 'x', elemType: 1, datatype: 'FP32', dimensions: ['N', 2] }],
      outputs: [{ name: 'y', elemType: 1, datatype: 'FP32', dimensions: ['N', 2] }],
    });
  });

  it('does not take an initializer for an input, even of undeclared rank', () => {
    const undeclared: OnnxValue = { name: 'w1', metadataProps: [] };
    expect(checkModel(encodeModel(withParts({ inputs: [x, undeclared], initializers: [weights] }))).inputs).toHaveLength(1);
  });

  it('accepts a local function in a domain of its own, and ONNX by its long name', () => {
    const functions = [makeFunction('f', [node('Identity', ['x'], ['y'], {}, { domain: 'ai.onnx' })])];
    const summary = checkModel(encodeModel({ ...model(makeGraph({ nodes: [identity, call('f')] })), functions }));
    expect(summary.operators).toEqual([
      { name: 'Identity', count: 2 },
      { name: 'own.f', count: 1 },
    ]);
  });
});

describe('decodeModel', () => {
  it('gives back what encodeModel wrote', () => {
    const whole = withParts({
      nodes: [
        constant({
          value: weights,
          i: -3,
          big: 2n ** 62n,
          f: 0.5,
          one: float(1),
          s: 'text',
          ints: [1, -1],
          floats: [0.5, 2],
          body: makeGraph(),
        }),
      ],
      inputs: [x, value('t', 'BYTES', [null, 3])],
      initializers: [tensor('s', 'BYTES', [2], ['a', 'ö'])],
    });
    expect(decodeModel(encodeModel(whole))).toEqual(whole);
  });

  it('reads names of any length and letters, wherever in the file they are', () => {
    const names = Array.from({ length: 3_000 }, (_, index) => `${index % 7 === 0 ? 'ä' : ''}${'n'.repeat(index % 70)}${index}`);
    const nodes = names.map((name, index) => node('Identity', [names[index - 1] ?? 'x'], [name], {}, { name }));
    const padding = tensor('p', 'UINT8', [20_000], new Uint8Array(20_000).fill(0x80));
    const whole = withParts({ nodes: [...nodes, constant({ value: padding }), ...nodes] });
    expect(decodeModel(encodeModel(whole))).toEqual(whole);
  });

  it('leaves weights where they are: they change with the input', () => {
    const bytes = sound.slice();
    const raw = decodeModel(bytes).graph?.initializer[0]?.rawData;
    expect(raw?.buffer).toBe(bytes.buffer);
  });

  it('reads repeated numbers packed and one by one alike', () => {
    // TensorProto.dims, field 1: twice as varint, then packed; inside graph (7) and initializer (5).
    const dims = [0x08, 2, 0x08, 3, 0x0a, 2, 4, 5];
    const bytes = Uint8Array.of(0x3a, dims.length + 2, 0x2a, dims.length, ...dims);
    expect(decodeModel(bytes).graph?.initializer[0]?.dims).toEqual([2n, 3n, 4n, 5n]);
  });

  it.each([
    ['an ORT format file', [0x18, 0, 0, 0, 0x4f, 0x52, 0x54, 0x4d], 'byte 4', /ORT format/],
    ['a field that ONNX does not have', [...sound, 0x9a, 0x06, 0x00], `byte ${sound.length + 2}`, /field 99/],
    ['a zero tag, as padding has', [...sound, 0], `byte ${sound.length + 1}`, /field 0/],
    ['a group', [0x3b], 'byte 1', /wrong wire type/],
    ['a graph given twice', [0x3a, 0, 0x3a, 0], 'byte 3', /given twice/],
    ['a length beyond the file', [0x3a, 0x7f], 'byte 2', /ends inside/],
    [
      'an enum of more than 32 bits',
      [0x3a, 10, 0x2a, 8, 0x70, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 1],
      'graph.initializer[0].byte 12',
      /out of its range/,
    ],
    ['a string that is not UTF-8', [0x12, 1, 0xff], 'byte 3', /UTF-8/],
    ['an integer of 11 bytes', [0x08, ...new Array(10).fill(0x80), 1], 'byte 11', /longer than 64 bits/],
  ])('refuses %s', (_name, bytes, place, text) => {
    const error = refusalOf(Uint8Array.from(bytes));
    expect(error.data.place).toBe(place);
    expect(error.message).toMatch(text);
  });

  it('refuses graphs nested deeper than 64 messages', () => {
    let inner = makeGraph();
    for (let depth = 0; depth < 30; depth++) inner = makeGraph({ nodes: [node('If', [], [], { then_branch: inner })] });
    expect(refusalOf(encodeModel(model(inner))).message).toMatch(/nested deeper than 64/);
  });

  it('refuses more nodes than it would keep in memory', () => {
    // A graph (field 7) of 200,001 empty nodes (field 1); 400,002 as a varint.
    const bytes = Buffer.concat([Buffer.of(0x3a, 0x82, 0xb5, 0x18), Buffer.alloc(400_002, Buffer.of(0x0a, 0x00))]);
    const error = refusalOf(bytes);
    expect(error.message).toMatch(/more than 200000 nodes/);
    expect(error.data.place).toMatch(/^graph\.node\[200000\]/);
  });

  it('survives a cut at every byte', () => {
    for (let length = 0; length < sound.length; length++) survives(sound.subarray(0, length));
  });

  it('survives random bytes', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), survives), { numRuns: 2_000 });
  });

  it('survives changed bytes of a sound model', () => {
    const change = fc.tuple(fc.nat(sound.length - 1), fc.nat(255));
    const property = fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
      const bytes = sound.slice();
      for (const [at, byte] of changes) bytes[at] = byte;
      survives(bytes);
    });
    fc.assert(property, { numRuns: 5_000 });
  });
});

describe('encodeModel', () => {
  it('writes what ONNX Runtime loads and runs', async () => {
    const session = await InferenceSession.create(sound);
    const result = await session.run({ x: new Tensor('float32', Float32Array.of(1, 2, 3, 4), [2, 2]) });
    expect([...(result.y?.data ?? [])]).toEqual([2, 4, 4, 6]);
    await session.release();
  });
});

const folder = join(process.env.MERCATO_TEST_DATA ?? '../shared/data', 'onnx');

describe.skipIf(process.env.MERCATO_TEST_DATA === undefined && !existsSync(folder))('models made by others', () => {
  it.each(['densenet121', 'resnet50', 'squeezenet'])('%s passes and is written back byte for byte', (name) => {
    const bytes = readFileSync(join(folder, `light_${name}.onnx`));
    expect(checkModel(bytes).inputs).toMatchObject([{ datatype: 'FP32', dimensions: [1, 3, 224, 224] }]);
    expect(Buffer.compare(encodeModel(decodeModel(bytes)), bytes)).toBe(0);
  });
});
