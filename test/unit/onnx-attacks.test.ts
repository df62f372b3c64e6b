import { describe, expect, it } from 'vitest';
import {
  encodeModel,
  model,
  node,
  type OnnxModel,
  type OnnxNode,
  type RejectionRule,
  tensor,
  value,
} from '../../src/inference/onnx/onnx.ts';
import {
  bad,
  call,
  constant,
  external,
  identity,
  loopBody,
  makeFunction,
  makeGraph,
  outside,
  refusalOf,
  sparse,
  sparseAttribute,
  tensorType,
  weights,
  withFunctions,
  withGraph,
  withNode,
  withParts,
  withWeights,
  x,
} from './onnx-parts.ts';

const refusals: [name: string, refused: OnnxModel, rule: RejectionRule, place: string, text: RegExp][] = [
  ['an external initializer', withWeights(outside), 'EXTERNAL_DATA', 'graph.initializer["w1"]', /another file/],
  [
    'external entries without a location flag',
    withWeights({ ...weights, externalData: external }),
    'EXTERNAL_DATA',
    'graph.initializer["w1"]',
    /another file/,
  ],
  ['an unknown data location', withWeights({ ...weights, dataLocation: 7 }), 'EXTERNAL_DATA', 'graph.initializer["w1"]', /another file/],
  [
    'external values of a sparse initializer',
    withGraph({ sparseInitializer: [sparse(outside)] }),
    'EXTERNAL_DATA',
    'graph.sparse_initializer["w1"].values',
    /another file/,
  ],
  [
    'external indices of a sparse initializer',
    withGraph({ sparseInitializer: [sparse(weights, outside)] }),
    'EXTERNAL_DATA',
    'graph.sparse_initializer["w1"].indices',
    /another file/,
  ],
  [
    'a sparse initializer without indices',
    withGraph({ sparseInitializer: [{ values: weights, dims: [] }] }),
    'SPARSE_TENSOR',
    'graph.sparse_initializer["w1"]',
    /lacks/,
  ],
  [
    'an external Constant',
    withNode(constant({ value: outside })),
    'EXTERNAL_DATA',
    'graph.node[1] (Constant).attribute value',
    /another file/,
  ],
  [
    'an external sparse Constant',
    withNode(sparseAttribute('sparseTensor')),
    'EXTERNAL_DATA',
    'graph.node[1] (Constant).attribute sparse_value.values',
    /another file/,
  ],
  [
    'an external one of many',
    withNode(sparseAttribute('sparseTensors')),
    'EXTERNAL_DATA',
    'graph.node[1] (Constant).attribute sparse_value[0].values',
    /another file/,
  ],
  [
    'an external Constant in a subgraph',
    withNode(node('Loop', [], [], { body: loopBody([identity, constant({ value: outside })]) }, { name: 'l' })),
    'EXTERNAL_DATA',
    'graph.node[1] (Loop "l").body.node[1] (Constant).attribute value',
    /another file/,
  ],
  [
    'an external initializer of a subgraph',
    withNode(node('If', [], [], { else_branch: loopBody([], [outside]) })),
    'EXTERNAL_DATA',
    'graph.node[1] (If).else_branch.initializer["w1"]',
    /another file/,
  ],
  [
    'an external Constant in a function',
    withFunctions(makeFunction('f', [constant({ value: outside })])),
    'EXTERNAL_DATA',
    'functions["f"].node[0] (Constant).attribute value',
    /another file/,
  ],
  [
    'an external default of a function',
    withFunctions({ ...makeFunction('f', []), attributeProto: constant({ value: outside }).attribute }),
    'EXTERNAL_DATA',
    'functions["f"].attribute value',
    /another file/,
  ],
  [
    'a compiled model in another file',
    withNode(node('EPContext', [], [], {}, { domain: 'com.microsoft' })),
    'EXTERNAL_DATA',
    'graph.node[1] (EPContext)',
    /another file/,
  ],
  ['an input without a type', withParts({ inputs: [tensorType(undefined)] }), 'NOT_A_TENSOR', 'graph.input["x"]', /type is not declared/],
  [
    'an input without a rank',
    withParts({ inputs: [tensorType({ tensorType: { elemType: 1 } })] }),
    'DIMENSIONS',
    'graph.input["x"]',
    /number of dimensions/,
  ],
  [
    'an input that is a sequence',
    withParts({ inputs: [tensorType({ sequenceType: new Uint8Array() })] }),
    'NOT_A_TENSOR',
    'graph.input["x"]',
    /not a tensor/,
  ],
  [
    'an output that is optional',
    withParts({ outputs: [tensorType({ optionalType: new Uint8Array() })] }),
    'NOT_A_TENSOR',
    'graph.output["x"]',
    /not a tensor/,
  ],
  [
    'a type that is two things',
    withParts({ inputs: [tensorType({ tensorType: { elemType: 1 }, mapType: new Uint8Array() })] }),
    'NOT_A_TENSOR',
    'graph.input["x"]',
    /not a tensor/,
  ],
  [
    'an input of bfloat16',
    withParts({ inputs: [tensorType({ tensorType: { elemType: 16, shape: { dim: [] } } })] }),
    'ELEMENT_TYPE',
    'graph.input["x"]',
    /element type 16/,
  ],
  [
    'an input without an element type',
    withParts({ inputs: [tensorType({ tensorType: { shape: { dim: [] } } })] }),
    'ELEMENT_TYPE',
    'graph.input["x"]',
    /element type 0/,
  ],
  ['a negative dimension of an input', withParts({ inputs: [value('x', 'FP32', [-1])] }), 'DIMENSIONS', 'graph.input["x"]', /negative/],
  [
    'a dimension larger than any tensor',
    withParts({ outputs: [value('y', 'FP32', [2 ** 31])] }),
    'TENSOR_SIZE',
    'graph.output["y"]',
    /larger than any tensor that this service carries/,
  ],
  ['an input given twice', withParts({ inputs: [x, x] }), 'NAME_TWICE', 'graph.input["x"]', /twice/],
  ['an input without a name', withParts({ inputs: [{ ...x, name: '' }] }), 'NAME_MISSING', 'graph.input[0]', /no name/],
  [
    'data in two fields',
    withWeights({ ...weights, floatData: [new Uint8Array(8)] }),
    'TENSOR_DATA',
    'graph.initializer["w1"]',
    /more than one field/,
  ],
  [
    'data in the wrong field',
    withWeights({ ...tensor('w1', 'INT64', [0], []), dims: [1n], int32Data: [Uint8Array.of(1)] }),
    'TENSOR_DATA',
    'graph.initializer["w1"]',
    /not in int64Data/,
  ],
  ['raw data shorter than the shape', withWeights(bad), 'TENSOR_DATA', 'graph.initializer["w1"]', /wants 12 bytes of data and it has 8/],
  [
    'typed data longer than the shape',
    withWeights({ ...tensor('w1', 'INT64', [1], []), int64Data: [Uint8Array.of(1, 0x80, 1)] }),
    'TENSOR_DATA',
    'graph.initializer["w1"]',
    /wants 1 entries of data and it has 2/,
  ],
  [
    'no data where the shape wants some',
    withWeights(tensor('w1', 'FP32', [2], [])),
    'TENSOR_DATA',
    'graph.initializer["w1"]',
    /wants 2 entries/,
  ],
  [
    'a negative dimension of a constant',
    withNode(constant({ value: { ...weights, dims: [-2n] } })),
    'DIMENSIONS',
    'graph.node[1] (Constant).attribute value',
    /negative dimension -2/,
  ],
  [
    'more elements than a file holds',
    withWeights({ ...weights, dims: [2n ** 40n, 2n ** 40n] }),
    'TENSOR_SIZE',
    'graph.initializer["w1"]',
    /more elements/,
  ],
  [
    'an element type that does not exist',
    withWeights({ ...weights, dataType: 99 }),
    'ELEMENT_TYPE',
    'graph.initializer["w1"]',
    /unknown element type 99/,
  ],
  ['strings as raw data', withWeights({ ...weights, dataType: 8 }), 'TENSOR_DATA', 'graph.initializer["w1"]', /strings has raw data/],
  ['a segment of a tensor', withWeights({ ...weights, segment: new Uint8Array() }), 'TENSOR_DATA', 'graph.initializer["w1"]', /segment/],
  [
    'an unknown domain',
    withNode(node('Evil', [], [], {}, { domain: 'evil.corp' })),
    'UNKNOWN_DOMAIN',
    'graph.node[1] (Evil)',
    /domain "evil.corp"/,
  ],
  [
    'a name that is no function of its domain',
    { ...withFunctions(makeFunction('f', [])), graph: makeGraph({ nodes: [call('g')] }) },
    'UNKNOWN_DOMAIN',
    'graph.node[0] (g)',
    /domain "own"/,
  ],
  ['a function that calls itself', withFunctions(makeFunction('f', [call('f')])), 'RECURSION', 'functions["f"]', /calls itself/],
  [
    'functions that call each other',
    withFunctions(makeFunction('f', [call('g')]), makeFunction('g', [node('If', [], [], { then_branch: loopBody([call('f')]) })])),
    'RECURSION',
    'functions["f"]',
    /calls itself/,
  ],
  [
    'functions that multiply',
    withFunctions(
      ...Array.from({ length: 30 }, (_, i) => makeFunction(`f${i}`, i === 29 ? [identity] : [call(`f${i + 1}`), call(`f${i + 1}`)])),
    ),
    'TOO_MANY',
    'functions["f10"]',
    /expand to more/,
  ],
  ['a function defined twice', withFunctions(makeFunction('f', []), makeFunction('f', [])), 'NAME_TWICE', 'functions[1]', /defined twice/],
  [
    'an IR version that no runtime knows',
    { ...model(makeGraph()), irVersion: 99n },
    'IR_VERSION_UNSUPPORTED',
    'ir_version',
    /IR version 99/,
  ],
  ['training information', { ...model(makeGraph()), trainingInfo: [new Uint8Array()] }, 'TRAINING_INFO', 'training_info', /training/],
];

const y = (name: string) => value(name, 'FP32', ['N', 2]);
const attribute = (change: object): OnnxNode => {
  const [one] = node('Softmax', [], [], { axis: 1 }).attribute;
  if (one === undefined) throw new Error('no attribute');
  return { ...node('Softmax', ['x'], ['z']), attribute: [{ ...one, ...change }] };
};
const softmax = 'graph.node[1] (Softmax)';
const indices = (dims: number[], ...numbers: bigint[]) => tensor('i', 'INT64', dims, BigInt64Array.from(numbers));
const imports = (...opsetImport: OnnxModel['opsetImport']): OnnxModel => ({ ...model(makeGraph()), opsetImport });
const ms = (one: OnnxNode): OnnxModel => {
  const whole = withNode(one);
  return { ...whole, opsetImport: [...whole.opsetImport, { domain: 'com.microsoft', version: 1n }] };
};
const ofVersion = (opset: number, one: OnnxNode): OnnxModel => model(makeGraph({ nodes: [identity, one] }), { opset });

const more: typeof refusals = [
  [
    'an external value of a sparse Constant in a branch of a branch',
    withNode(
      node('If', [], [], { then_branch: loopBody([node('If', [], [], { else_branch: loopBody([sparseAttribute('sparseTensor')]) })]) }),
    ),
    'EXTERNAL_DATA',
    'graph.node[1] (If).then_branch.node[0] (If).else_branch.node[0] (Constant).attribute sparse_value.values',
    /another file/,
  ],
  [
    'an external tensor in an attribute that no operator has',
    withNode({ ...node('Relu', ['x'], ['z'], { hidden: outside }) }),
    'EXTERNAL_DATA',
    'graph.node[1] (Relu).attribute hidden',
    /another file/,
  ],
  [
    'an external tensor in the body of a Scan',
    withNode(node('Scan', ['x'], ['z'], { body: loopBody([], [outside]), num_scan_inputs: 1 })),
    'EXTERNAL_DATA',
    'graph.node[1] (Scan).body.initializer["w1"]',
    /another file/,
  ],
  [
    'an external Constant in a branch within a function',
    withFunctions(makeFunction('f', [node('If', ['x'], [], { then_branch: loopBody([constant({ value: outside })]) })])),
    'EXTERNAL_DATA',
    'functions["f"].node[0] (If).then_branch.node[0] (Constant).attribute value',
    /another file/,
  ],
  [
    'an external tensor beside a value of the named type',
    withNode(attribute({ t: outside })),
    'EXTERNAL_DATA',
    `${softmax}.attribute axis`,
    /another file/,
  ],
  [
    'a tensor of more dimensions than any operator takes',
    withWeights({ ...weights, dims: new Array(65).fill(1n) }),
    'DIMENSIONS',
    'graph.initializer["w1"]',
    /more than 64/,
  ],
  [
    'a sparse initializer that fills memory with zeros',
    withGraph({ sparseInitializer: [{ ...sparse(weights), dims: [2n ** 40n] }] }),
    'TENSOR_SIZE',
    'graph.sparse_initializer["w1"]',
    /With its zeros/,
  ],
  [
    'a sparse index beyond the tensor',
    withGraph({ sparseInitializer: [sparse(weights, indices([2], 0n, 4n))] }),
    'SPARSE_TENSOR',
    'graph.sparse_initializer["w1"].indices',
    /index 4 is outside/,
  ],
  [
    'a negative sparse index',
    withGraph({ sparseInitializer: [sparse(weights, indices([2], -1n, 0n))] }),
    'SPARSE_TENSOR',
    'graph.sparse_initializer["w1"].indices',
    /index -1 is outside/,
  ],
  [
    'sparse indices for another number of values',
    withGraph({ sparseInitializer: [sparse(weights, indices([1], 0n))] }),
    'SPARSE_TENSOR',
    'graph.sparse_initializer["w1"].indices',
    /do not fit/,
  ],
  [
    'sparse indices for another number of dimensions',
    withGraph({ sparseInitializer: [sparse(weights, indices([2, 2], 0n, 0n, 1n, 0n))] }),
    'SPARSE_TENSOR',
    'graph.sparse_initializer["w1"].indices',
    /do not fit/,
  ],
  [
    'sparse values that are a matrix',
    withGraph({ sparseInitializer: [sparse({ ...weights, dims: [1n, 2n] })] }),
    'SPARSE_TENSOR',
    'graph.sparse_initializer["w1"].values',
    /a list/,
  ],
  ['an attribute with two values', withNode(attribute({ f: 1 })), 'ATTRIBUTE', `${softmax}.attribute axis`, /values in 2 fields/],
  [
    'an attribute whose value is not of its type',
    withNode(attribute({ type: 1 })),
    'ATTRIBUTE',
    `${softmax}.attribute axis`,
    /not of its type/,
  ],
  ['an attribute of an unknown type', withNode(attribute({ type: 99 })), 'ATTRIBUTE', `${softmax}.attribute axis`, /unknown type 99/],
  ['an attribute of no type', withNode(attribute({ type: 0 })), 'ATTRIBUTE', `${softmax}.attribute axis`, /unknown type 0/],
  [
    'an attribute that refers to one of no function',
    withNode(attribute({ i: undefined, refAttrName: 'a' })),
    'ATTRIBUTE',
    `${softmax}.attribute axis`,
    /this is none/,
  ],
  [
    'an attribute that is a value and a reference',
    withFunctions(makeFunction('f', [attribute({ refAttrName: 'a' })])),
    'ATTRIBUTE',
    'functions["f"].node[0] (Softmax).attribute axis',
    /refers to another/,
  ],
  ['an attribute without a name', withNode(attribute({ name: '' })), 'ATTRIBUTE', softmax, /no name/],
  [
    'an attribute given twice',
    withNode({ ...attribute({}), attribute: [...attribute({}).attribute, ...attribute({ i: 0n }).attribute] }),
    'ATTRIBUTE',
    softmax,
    /given twice/,
  ],
  ['an operator that does not exist', withNode(node('Evil', ['x'], ['z'])), 'UNKNOWN_OPERATOR', 'graph.node[1] (Evil)', /no operator Evil/],
  [
    'an operator before its version',
    ofVersion(12, node('Trilu', ['x'], ['z'])),
    'OPERATOR_VERSION',
    'graph.node[1] (Trilu)',
    /came with version 14/,
  ],
  [
    'an operator that the graph has and the function, of an older operator set, has not',
    {
      ...model(makeGraph({ nodes: [identity, node('Trilu', ['x'], ['z'])] })),
      functions: [{ ...makeFunction('f', [node('Trilu', ['x'], ['y'])]), opsetImport: [{ domain: '', version: 12n }] }],
    },
    'OPERATOR_VERSION',
    'functions["f"].node[0] (Trilu)',
    /came with version 14/,
  ],
  [
    'an operator after its last version',
    ofVersion(11, node('Scatter', ['x'], ['z'])),
    'OPERATOR_VERSION',
    'graph.node[1] (Scatter)',
    /ended with version 10/,
  ],
  [
    'an operator that came later, in a branch',
    ofVersion(19, node('If', [], [], { then_branch: loopBody([node('Gelu', ['x'], ['z'])]) })),
    'OPERATOR_VERSION',
    'graph.node[1] (If).then_branch.node[0] (Gelu)',
    /came with version 20/,
  ],
  [
    'an operator of ONNX-ML that ended',
    {
      ...withNode(node('TreeEnsembleRegressor', ['x'], ['z'], {}, { domain: 'ai.onnx.ml' })),
      opsetImport: [
        { domain: '', version: 17n },
        { domain: 'ai.onnx.ml', version: 5n },
      ],
    },
    'OPERATOR_VERSION',
    'graph.node[1] (TreeEnsembleRegressor)',
    /ended with version 4/,
  ],
  [
    'an operator of an undeclared operator set',
    withNode(node('Gelu', ['x'], ['z'], {}, { domain: 'com.microsoft' })),
    'OPSET_UNDECLARED',
    'graph.node[1] (Gelu)',
    /does not say which version/,
  ],
  [
    'an operator that only a device has',
    ms(node('QOrderedMatMul', ['x'], ['z'], {}, { domain: 'com.microsoft' })),
    'UNKNOWN_OPERATOR',
    'graph.node[1] (QOrderedMatMul)',
    /no operator com.microsoft.QOrderedMatMul/,
  ],
  [
    'a model for another engine',
    ms(node('Snpe', [], ['z'], {}, { domain: 'com.microsoft' })),
    'EXTERNAL_DATA',
    'graph.node[1] (Snpe)',
    /another file/,
  ],
  [
    'an operator of a layout of the runtime',
    withNode(node('Conv', ['x'], ['z'], {}, { domain: 'com.microsoft.nchwc' })),
    'UNKNOWN_DOMAIN',
    'graph.node[1] (Conv)',
    /domain/,
  ],
  ['a node without an operator', withNode(node('', ['x'], ['z'])), 'UNKNOWN_OPERATOR', 'graph.node[1] ("")', /names no operator/],
  [
    'an overload of an operator',
    withNode({ ...node('Relu', ['x'], ['z']), overload: 'fast' }),
    'UNKNOWN_OPERATOR',
    'graph.node[1] (Relu)',
    /no function/,
  ],
  ['no operator set', imports(), 'OPSET_UNDECLARED', 'graph.node[0] (Identity)', /does not say which version/],
  ['an operator set from the future', imports({ domain: '', version: 27n }), 'OPSET_UNSUPPORTED', 'opset_import[0]', /Version 27/],
  ['an operator set of version 0', imports({ domain: '', version: 0n }), 'OPSET_UNSUPPORTED', 'opset_import[0]', /Version 0/],
  ['an operator set of a negative version', imports({ domain: '', version: -1n }), 'OPSET_UNSUPPORTED', 'opset_import[0]', /Version -1/],
  [
    'an operator set imported twice by its two names',
    imports({ domain: '', version: 17n }, { domain: 'ai.onnx', version: 9n }),
    'NAME_TWICE',
    'opset_import[1]',
    /imported twice/,
  ],
  [
    'an operator set from the future in a function',
    withFunctions({ ...makeFunction('f', []), opsetImport: [{ version: 99n }] }),
    'OPSET_UNSUPPORTED',
    'functions["f"].opset_import[0]',
    /Version 99/,
  ],
  [
    'a function that stands for an operator',
    withFunctions({ ...makeFunction('Relu', []), domain: '' }),
    'FUNCTION_SHADOWS_OPERATOR',
    'functions[0]',
    /name of an operator/,
  ],
  [
    'a function that stands for an operator by the long name of its domain',
    withFunctions({ ...makeFunction('Relu', []), domain: 'ai.onnx' }),
    'FUNCTION_SHADOWS_OPERATOR',
    'functions[0]',
    /name of an operator/,
  ],
  ['a function without a name', withFunctions(makeFunction('', [])), 'NAME_MISSING', 'functions[0]', /no name/],
  [
    'a function that reads what it is not given',
    withFunctions(makeFunction('f', [node('Relu', ['y'], ['z'])])),
    'VALUE_UNDEFINED',
    'functions["f"].node[0] (Relu)',
    /reads "y"/,
  ],
  [
    'a function with two inputs of one name',
    withFunctions({ ...makeFunction('f', []), input: ['a', 'a'] }),
    'NAME_TWICE',
    'functions["f"]',
    /two inputs/,
  ],
  [
    'a function that does not make its output',
    withFunctions({ ...makeFunction('f', []), output: ['a'] }),
    'VALUE_UNDEFINED',
    'functions["f"].output[0]',
    /Nothing makes/,
  ],
  ['a value made twice', withNode(node('Relu', ['x'], ['y'])), 'NAME_TWICE', 'graph.node[1] (Relu)', /"y" is made twice/],
  ['a value in place of an input', withNode(node('Relu', ['y'], ['x'])), 'NAME_TWICE', 'graph.node[1] (Relu)', /"x" is made twice/],
  [
    'a value in place of a weight',
    withParts({ nodes: [identity, node('Relu', ['x'], ['w1'])], initializers: [weights] }),
    'NAME_TWICE',
    'graph.node[1] (Relu)',
    /"w1" is made twice/,
  ],
  ['two weights of one name', withParts({ initializers: [weights, weights] }), 'NAME_TWICE', 'graph.initializer[1]', /one name/],
  [
    'a weight and a sparse one of one name',
    withGraph({ initializer: [weights], sparseInitializer: [sparse(weights)] }),
    'NAME_TWICE',
    'graph.initializer[1]',
    /one name/,
  ],
  [
    'a value that is read before it is made',
    withParts({ nodes: [node('Relu', ['z'], ['y']), node('Relu', ['x'], ['z'])] }),
    'VALUE_UNDEFINED',
    'graph.node[0] (Relu)',
    /reads "z"/,
  ],
  ['a value that reads itself', withParts({ nodes: [node('Relu', ['y'], ['y'])] }), 'VALUE_UNDEFINED', 'graph.node[0] (Relu)', /reads "y"/],
  [
    'a value of a branch that is read outside it',
    withNode(node('Relu', ['inner'], ['z'])),
    'VALUE_UNDEFINED',
    'graph.node[1] (Relu)',
    /reads "inner"/,
  ],
  ['an output that nothing makes', withParts({ outputs: [y('nowhere')] }), 'VALUE_UNDEFINED', 'graph.output[0]', /Nothing makes/],
  [
    'an output of a branch that nothing makes',
    withNode(node('If', [], [], { then_branch: { ...loopBody([]), output: [y('nowhere')] } })),
    'VALUE_UNDEFINED',
    'graph.node[1] (If).then_branch.output[0]',
    /Nothing makes/,
  ],
  [
    'a dimension that is a size and a name',
    withParts({ inputs: [tensorType({ tensorType: { elemType: 1, shape: { dim: [{ dimValue: 1n, dimParam: 'N' }] } } })] }),
    'DIMENSIONS',
    'graph.input["x"]',
    /both a size and a name/,
  ],
  [
    'a dimension of an input larger than any tensor',
    withParts({ inputs: [tensorType({ tensorType: { elemType: 1, shape: { dim: [{ dimValue: 2n ** 60n }] } } })] }),
    'TENSOR_SIZE',
    'graph.input["x"]',
    /larger than any tensor/,
  ],
];

describe('checkModel refuses', () => {
  it.each([...refusals, ...more])('%s', (_name, refused, rule, place, text) => {
    const error = refusalOf(encodeModel(refused));
    expect(error.data).toMatchObject({ rule, place });
    expect(error.message).toMatch(text);
  });
});

/** A field of a message: `id`, then its bytes. */
const field = (id: number, ...content: (Uint8Array | readonly number[])[]): Buffer => {
  const bytes = Buffer.concat(content.map((one) => Uint8Array.from(one)));
  return Buffer.concat([varint(id * 8 + 2), varint(bytes.length), bytes]);
};
function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Buffer.from([...bytes, rest]);
    bytes.push((rest % 128) | 0x80);
  }
}
function nested(depth: number): Buffer {
  let inner: Buffer = Buffer.alloc(0);
  // A graph in an attribute of a node of a graph.
  for (let level = 0; level < depth; level++) inner = field(1, field(5, field(6, inner)));
  return field(7, inner);
}
const many = (count: number, one: Uint8Array) => Buffer.alloc(count * one.length, one);
const sound = encodeModel(withParts({}));

const bombs: [name: string, bytes: Uint8Array, rule: RejectionRule, place: RegExp, text: RegExp][] = [
  [
    'graphs nested a thousand deep',
    nested(1_000),
    'TOO_DEEP',
    /^graph\.node\[0\]\.attribute\[0\]\.g\..*\.byte \d+$/,
    /nested deeper than 64/,
  ],
  [
    'a nameless input of nested sequences',
    field(7, field(11, field(2, field(4, field(1, field(4)))))),
    'NAME_MISSING',
    /^graph/,
    /no name/,
  ],
  ['more nodes than fit in memory', field(7, many(200_001, field(1))), 'TOO_MANY', /^graph\.node\[200000\]/, /more than 200000 nodes/],
  [
    'more tensors than fit in memory',
    field(7, many(200_001, field(5))),
    'TOO_MANY',
    /^graph\.initializer\[200000\]/,
    /more than 200000 tensors/,
  ],
  [
    'more attributes than fit in memory',
    field(7, field(1, many(500_001, field(5)))),
    'TOO_MANY',
    /^graph\.node\[0\]\.attribute\[500000\]/,
    /more than 500000 attributes/,
  ],
  ['more functions than any exporter writes', many(1_001, field(25)), 'TOO_MANY', /^functions\[1000\]/, /more than 1000 functions/],
  [
    'more dimensions than fit in memory',
    field(7, field(5, field(1, many(2_000_001, Buffer.of(1))))),
    'TOO_MANY',
    /^graph\.initializer\[0\]/,
    /more than 2000000 values/,
  ],
  ['more metadata than fits in memory', many(2_000_001, field(14)), 'TOO_MANY', /^byte 4000001$/, /more than 2000000 values/],
  [
    'a length of more than 32 bits',
    Uint8Array.of(0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01),
    'MALFORMED_FILE',
    /^byte 6$/,
    /longer than 32 bits/,
  ],
  ['a length of four gigabytes', Uint8Array.of(0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f), 'MALFORMED_FILE', /^byte 6$/, /ends inside/],
  [
    'a message that reaches beyond the one around it',
    Uint8Array.of(0x3a, 2, 0x0a, 0x09, 0, 0, 0, 0),
    'MALFORMED_FILE',
    /^graph\.byte 4$/,
    /ends inside/,
  ],
  ['a fixed number cut short', field(7, field(1, field(5, [0x15, 0, 0]))), 'MALFORMED_FILE', /attribute\[0\]\.byte \d+$/, /ends inside/],
  [
    'an integer that never ends',
    Buffer.concat([Buffer.of(0x08), many(1_000_000, Buffer.of(0x80))]),
    'MALFORMED_FILE',
    /^byte 11$/,
    /longer than 64 bits/,
  ],
  [
    'packed numbers that end inside one',
    field(7, field(5, [0x08, 1, 0x10, 1], field(4, [0, 0, 0]))),
    'MALFORMED_FILE',
    /initializer\[0\]/,
    /end inside an element/,
  ],
  [
    'packed integers that end inside one',
    field(7, field(5, [0x08, 1, 0x10, 7], field(7, [0x80]))),
    'MALFORMED_FILE',
    /initializer\[0\]/,
    /end inside an element/,
  ],
  [
    'raw data given twice',
    field(7, field(5, [0x08, 1, 0x10, 2], field(9, [0]), field(9, [0]))),
    'MALFORMED_FILE',
    /initializer\[0\]\.byte \d+$/,
    /given twice/,
  ],
  ['an element type given twice', field(7, field(5, [0x10, 1, 0x10, 2])), 'MALFORMED_FILE', /initializer\[0\]\.byte \d+$/, /given twice/],
  ['a second model behind the first', Buffer.concat([sound, sound]), 'MALFORMED_FILE', /^byte \d+$/, /given twice/],
  [
    'an ORT file whose first bytes are a field of ONNX',
    Buffer.concat([Buffer.of(0x12, 8, 0, 0), Buffer.from('ORTM'), Buffer.of(0, 0, ...sound)]),
    'ORT_FORMAT',
    /^byte 4$/,
    /ORT format/,
  ],
  ['nothing', new Uint8Array(), 'NO_GRAPH', /^graph$/, /no graph/],
  ['a pickle', Buffer.from('80049527000000000000008c05706f736978', 'hex'), 'MALFORMED_FILE', /^byte \d+$/, /not a readable/],
  ['a zip archive', Buffer.from('504b03041400000008000000', 'hex'), 'MALFORMED_FILE', /^byte \d+$/, /not a readable/],
];

describe('decodeModel refuses', () => {
  it.each(bombs)('%s', (_name, bytes, rule, place, text) => {
    const error = refusalOf(bytes);
    expect(error.data).toMatchObject({ rule, place: expect.stringMatching(place) });
    expect(error.message).toMatch(text);
  });
});

it('is tried on at least 60 attacks, no two of one name', () => {
  const names = [...refusals, ...more, ...bombs].map(([name]) => name);
  expect(new Set(names).size).toBe(names.length);
  expect(names.length).toBeGreaterThanOrEqual(60);
});

it.each<[name: string, bytes: Uint8Array, figures: object]>([
  [
    'a dimension beyond an Int',
    encodeModel(withParts({ outputs: [value('y', 'FP32', [2 ** 31])] })),
    { limit: '2147483647', given: '2147483648' },
  ],
  ['an IR version', encodeModel({ ...model(makeGraph()), irVersion: 99n }), { limit: '13', given: '99' }],
  ['an operator set', encodeModel(imports({ domain: '', version: 27n })), { limit: '26', given: '27' }],
  ['an operator', encodeModel(ofVersion(12, node('Trilu', ['x'], ['z']))), { limit: '14', given: '12' }],
  [
    'zeros',
    encodeModel(withGraph({ sparseInitializer: [{ ...sparse(weights), dims: [2n ** 40n] }] })),
    { limit: '536870912', given: '4398046511104' },
  ],
  ['depth', nested(100), { limit: '64' }],
])('tells the figures of a refusal of %s', (_name, bytes, figures) => {
  expect(refusalOf(bytes).data).toMatchObject(figures);
});
