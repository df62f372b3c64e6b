import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { MercatoError } from '../../src/base/errors.ts';
import {
  checkModel,
  decodeModel,
  encodeModel,
  float,
  graph,
  model,
  node,
  type OnnxGraph,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValue,
  tensor,
  value,
} from '../../src/inference/onnx/onnx.ts';

type Parts = { nodes?: OnnxNode[]; inputs?: OnnxValue[]; outputs?: OnnxValue[]; initializers?: OnnxTensor[] };
const x = value('x', 'FP32', ['N', 2]);
const y = value('y', 'FP32', ['N', 2]);
const identity = node('Identity', ['x'], ['y']);
const external = [{ key: 'location', value: 'secret' }];
const weights = tensor('w1', 'FP32', [2], Float32Array.of(1, 2));
const outside: OnnxTensor = { ...weights, dataLocation: 1, externalData: external };
const loopBody = (nodes: OnnxNode[], initializers: OnnxTensor[] = []) =>
  graph({ name: 'body', nodes, inputs: [], outputs: [], initializers });

function makeGraph({ nodes = [identity], inputs = [x], outputs = [y], initializers = [] }: Parts = {}): OnnxGraph {
  return graph({ name: 'g', nodes, inputs, outputs, initializers });
}

function makeFunction(name: string, nodes: OnnxNode[]): OnnxModel['functions'][number] {
  return {
    name,
    domain: 'own',
    input: [],
    output: [],
    attribute: [],
    node: nodes,
    opsetImport: [],
    attributeProto: [],
    valueInfo: [],
    metadataProps: [],
  };
}

const withParts = (parts: Parts): OnnxModel => model(makeGraph(parts));
const withWeights = (one: OnnxTensor): OnnxModel => withParts({ initializers: [one] });
const withNode = (one: OnnxNode): OnnxModel => withParts({ nodes: [identity, one] });
const withGraph = (change: Partial<OnnxGraph>): OnnxModel => model({ ...makeGraph(), ...change });
const withFunctions = (...functions: OnnxModel['functions'][number][]): OnnxModel => ({ ...model(makeGraph()), functions });
const constant = (attributes: Parameters<typeof node>[3]) => node('Constant', [], ['c'], attributes);
const call = (name: string) => node(name, [], [], {}, { domain: 'own' });
const bad: OnnxTensor = { ...weights, dims: [3n] };
const sparse = (values: OnnxTensor, indices = tensor('i', 'INT64', [2], BigInt64Array.of(0n, 1n))) => ({ values, indices, dims: [4n] });
const sparseAttribute = (key: 'sparseTensor' | 'sparseTensors') => {
  const [one] = node('Constant', [], ['c'], { sparse_value: 1 }).attribute;
  const { i: _, ...rest } = one ?? { floats: [], ints: [], strings: [], tensors: [], graphs: [], typeProtos: [], sparseTensors: [] };
  return { ...constant({}), attribute: [{ ...rest, [key]: key === 'sparseTensor' ? sparse(outside) : [sparse(outside)] }] };
};
const tensorType = (type: OnnxValue['type']): OnnxValue => ({ name: 'x', metadataProps: [], ...(type === undefined ? {} : { type }) });

const refusals: [name: string, refused: OnnxModel, place: string, text: RegExp][] = [
  ['an external initializer', withWeights(outside), 'graph.initializer["w1"]', /another file/],
  [
    'external entries without a location flag',
    withWeights({ ...weights, externalData: external }),
    'graph.initializer["w1"]',
    /another file/,
  ],
  ['an unknown data location', withWeights({ ...weights, dataLocation: 7 }), 'graph.initializer["w1"]', /another file/],
  [
    'external values of a sparse initializer',
    withGraph({ sparseInitializer: [sparse(outside)] }),
    'graph.sparse_initializer["w1"].values',
    /another file/,
  ],
  [
    'external indices of a sparse initializer',
    withGraph({ sparseInitializer: [sparse(weights, outside)] }),
    'graph.sparse_initializer["w1"].indices',
    /another file/,
  ],
  [
    'a sparse initializer without indices',
    withGraph({ sparseInitializer: [{ values: weights, dims: [] }] }),
    'graph.sparse_initializer["w1"]',
    /lacks/,
  ],
  ['an external Constant', withNode(constant({ value: outside })), 'graph.node[1] (Constant).attribute value', /another file/],
  [
    'an external sparse Constant',
    withNode(sparseAttribute('sparseTensor')),
    'graph.node[1] (Constant).attribute sparse_value.values',
    /another file/,
  ],
  [
    'an external one of many',
    withNode(sparseAttribute('sparseTensors')),
    'graph.node[1] (Constant).attribute sparse_value[0].values',
    /another file/,
  ],
  [
    'an external Constant in a subgraph',
    withNode(node('Loop', [], [], { body: loopBody([identity, constant({ value: outside })]) }, { name: 'l' })),
    'graph.node[1] (Loop "l").body.node[1] (Constant).attribute value',
    /another file/,
  ],
  [
    'an external initializer of a subgraph',
    withNode(node('If', [], [], { else_branch: loopBody([], [outside]) })),
    'graph.node[1] (If).else_branch.initializer["w1"]',
    /another file/,
  ],
  [
    'an external Constant in a function',
    withFunctions(makeFunction('f', [constant({ value: outside })])),
    'functions["f"].node[0] (Constant).attribute value',
    /another file/,
  ],
  [
    'an external default of a function',
    withFunctions({ ...makeFunction('f', []), attributeProto: constant({ value: outside }).attribute }),
    'functions["f"].attribute value',
    /another file/,
  ],
  [
    'a compiled model in another file',
    withNode(node('EPContext', [], [], {}, { domain: 'com.microsoft' })),
    'graph.node[1] (EPContext)',
    /another file/,
  ],
  ['an input without a type', withParts({ inputs: [tensorType(undefined)] }), 'graph.input["x"]', /type is not declared/],
  [
    'an input without a rank',
    withParts({ inputs: [tensorType({ tensorType: { elemType: 1 } })] }),
    'graph.input["x"]',
    /number of dimensions/,
  ],
  [
    'an input that is a sequence',
    withParts({ inputs: [tensorType({ sequenceType: new Uint8Array() })] }),
    'graph.input["x"]',
    /not a tensor/,
  ],
  [
    'an output that is optional',
    withParts({ outputs: [tensorType({ optionalType: new Uint8Array() })] }),
    'graph.output["x"]',
    /not a tensor/,
  ],
  [
    'a type that is two things',
    withParts({ inputs: [tensorType({ tensorType: { elemType: 1 }, mapType: new Uint8Array() })] }),
    'graph.input["x"]',
    /not a tensor/,
  ],
  [
    'an input of bfloat16',
    withParts({ inputs: [tensorType({ tensorType: { elemType: 16, shape: { dim: [] } } })] }),
    'graph.input["x"]',
    /element type 16/,
  ],
  [
    'an input without an element type',
    withParts({ inputs: [tensorType({ tensorType: { shape: { dim: [] } } })] }),
    'graph.input["x"]',
    /element type 0/,
  ],
  ['a negative dimension of an input', withParts({ inputs: [value('x', 'FP32', [-1])] }), 'graph.input["x"]', /negative/],
  [
    'a dimension larger than any tensor',
    withParts({ outputs: [value('y', 'FP32', [2 ** 31])] }),
    'graph.output["y"]',
    /larger than any tensor that this service carries/,
  ],
  ['an input given twice', withParts({ inputs: [x, x] }), 'graph.input["x"]', /twice/],
  ['an input without a name', withParts({ inputs: [{ ...x, name: '' }] }), 'graph.input[0]', /no name/],
  ['data in two fields', withWeights({ ...weights, floatData: [new Uint8Array(8)] }), 'graph.initializer["w1"]', /more than one field/],
  [
    'data in the wrong field',
    withWeights({ ...tensor('w1', 'INT64', [0], []), dims: [1n], int32Data: [Uint8Array.of(1)] }),
    'graph.initializer["w1"]',
    /not in int64Data/,
  ],
  ['raw data shorter than the shape', withWeights(bad), 'graph.initializer["w1"]', /wants 12 bytes of data and it has 8/],
  [
    'typed data longer than the shape',
    withWeights({ ...tensor('w1', 'INT64', [1], []), int64Data: [Uint8Array.of(1, 0x80, 1)] }),
    'graph.initializer["w1"]',
    /wants 1 entries of data and it has 2/,
  ],
  ['no data where the shape wants some', withWeights(tensor('w1', 'FP32', [2], [])), 'graph.initializer["w1"]', /wants 2 entries/],
  [
    'a negative dimension of a constant',
    withNode(constant({ value: { ...weights, dims: [-2n] } })),
    'graph.node[1] (Constant).attribute value',
    /negative dimension -2/,
  ],
  [
    'more elements than a file holds',
    withWeights({ ...weights, dims: [2n ** 40n, 2n ** 40n] }),
    'graph.initializer["w1"]',
    /more elements/,
  ],
  ['an element type that does not exist', withWeights({ ...weights, dataType: 99 }), 'graph.initializer["w1"]', /unknown element type 99/],
  ['strings as raw data', withWeights({ ...weights, dataType: 8 }), 'graph.initializer["w1"]', /strings has raw data/],
  ['a segment of a tensor', withWeights({ ...weights, segment: new Uint8Array() }), 'graph.initializer["w1"]', /segment/],
  ['an unknown domain', withNode(node('Evil', [], [], {}, { domain: 'evil.corp' })), 'graph.node[1] (Evil)', /domain "evil.corp"/],
  [
    'a name that is no function of its domain',
    { ...withFunctions(makeFunction('f', [])), graph: makeGraph({ nodes: [call('g')] }) },
    'graph.node[0] (g)',
    /domain "own"/,
  ],
  ['a function that calls itself', withFunctions(makeFunction('f', [call('f')])), 'functions["f"]', /calls itself/],
  [
    'functions that call each other',
    withFunctions(makeFunction('f', [call('g')]), makeFunction('g', [node('If', [], [], { then_branch: loopBody([call('f')]) })])),
    'functions["f"]',
    /calls itself/,
  ],
  [
    'functions that multiply',
    withFunctions(
      ...Array.from({ length: 30 }, (_, i) => makeFunction(`f${i}`, i === 29 ? [identity] : [call(`f${i + 1}`), call(`f${i + 1}`)])),
    ),
    'functions["f10"]',
    /expand to more/,
  ],
  ['a function defined twice', withFunctions(makeFunction('f', []), makeFunction('f', [])), 'functions[1]', /defined twice/],
  ['training information', { ...model(makeGraph()), trainingInfo: [new Uint8Array()] }, 'training_info', /training/],
];

function refusalOf(bytes: Uint8Array): MercatoError {
  try {
    checkModel(bytes);
  } catch (error) {
    if (error instanceof MercatoError && error.code === 'MODEL_REJECTED') return error;
    throw error;
  }
  throw new Error('the model was accepted');
}

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
  it.each(refusals)('refuses %s', (_name, refused, place, text) => {
    const error = refusalOf(encodeModel(refused));
    expect(error.data.place).toBe(place);
    expect(error.message).toMatch(text);
  });

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
    const summary = checkModel(encodeModel({ ...model(makeGraph({ nodes: [call('f')] })), functions }));
    expect(summary.operators).toEqual([
      { name: 'Identity', count: 1 },
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
