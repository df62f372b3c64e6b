import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  type AttributeValue,
  decodeModel,
  graph,
  model,
  node,
  type OnnxTensor,
  proveRows,
  type RowProof,
  tensor,
  value,
} from '../../src/inference/onnx/onnx.ts';

const MODELS = new URL('../../models/', import.meta.url);

const floats = (name: string, dims: number[]): OnnxTensor => tensor(name, 'FP32', dims, new Float32Array(dims.reduce((a, b) => a * b, 1)));
const ints = (name: string, values: number[]): OnnxTensor => tensor(name, 'INT64', [values.length], BigInt64Array.from(values, BigInt));

type Step = readonly [operator: string, inputs: string[], output: string, attributes?: Record<string, AttributeValue>];

/** What is proved of `y`, made of `x` [N, 4, 6] by the steps; the last one makes `y`. */
function prove(
  steps: readonly Step[],
  constants: readonly OnnxTensor[] = [],
  dims: (string | number)[] = ['N', 4, 6],
  opset = 17,
): RowProof {
  const nodes = steps.map(([operator, inputs, output, attributes]) => node(operator, inputs, output.split(' '), attributes));
  const main = graph({
    name: 'rows',
    nodes,
    inputs: [value('x', 'FP32', dims)],
    outputs: [value('y', 'FP32', ['N'])],
    initializers: constants,
  });
  return proveRows(model(main, { opset }));
}

describe('rows are proved not to touch', () => {
  test.each(readdirSync(MODELS))('in the shipped model %s', (name) => {
    expect(proveRows(decodeModel(readFileSync(new URL(`${name}/model.onnx`, MODELS))))).toEqual({ proved: true });
  });

  const PROVED: [string, Step[], OnnxTensor[]?][] = [
    [
      'elements by themselves',
      [
        ['Relu', ['x'], 'a'],
        ['Sigmoid', ['a'], 'y'],
      ],
    ],
    ['a constant of lower rank', [['Add', ['x', 'c'], 'y']], [floats('c', [4, 6])]],
    ['a constant whose batch axis is one', [['Mul', ['x', 'c'], 'y']], [floats('c', [1, 4, 6])]],
    [
      'two branches of the same rows',
      [
        ['Relu', ['x'], 'a'],
        ['Add', ['a', 'x'], 'y'],
      ],
    ],
    ['a product with weights', [['MatMul', ['x', 'w'], 'y']], [floats('w', [6, 2])]],
    [
      'attention of a row to itself',
      [
        ['Transpose', ['x'], 't', { perm: [0, 2, 1] }],
        ['MatMul', ['x', 't'], 'y'],
      ],
    ],
    [
      'a dense layer',
      [
        ['Flatten', ['x'], 'f'],
        ['Gemm', ['f', 'w', 'b'], 'y'],
      ],
      [floats('w', [24, 3]), floats('b', [3])],
    ],
    ['a convolution', [['Conv', ['x', 'w'], 'y']], [floats('w', [8, 4, 3])]],
    ['a reshape that keeps the batch', [['Reshape', ['x', 's'], 'y']], [ints('s', [0, -1])]],
    ['a reshape that leaves the batch over', [['Reshape', ['x', 's'], 'y']], [ints('s', [-1, 24])]],
    ['a softmax of the last axis', [['Softmax', ['x'], 'y', { axis: -1 }]]],
    ['a mean of a row', [['ReduceMean', ['x'], 'y', { axes: [1, 2] }]]],
    [
      'parts of a row put together',
      [
        ['Split', ['x'], 'a b', { axis: 1 }],
        ['Concat', ['b', 'a'], 'y', { axis: 1 }],
      ],
    ],
    [
      'a table of the file',
      [
        ['Cast', ['x'], 'i', { to: 7 }],
        ['Gather', ['t', 'i'], 'y'],
      ],
      [floats('t', [9, 5])],
    ],
    ['a pad behind the batch', [['Pad', ['x', 'p'], 'y']], [ints('p', [0, 1, 0, 0, 1, 0])]],
    [
      'one scale for all',
      [
        ['QuantizeLinear', ['x', 's', 'z'], 'q'],
        ['DequantizeLinear', ['q', 's', 'z'], 'y'],
      ],
      [floats('s', []), tensor('z', 'UINT8', [], Uint8Array.of(1))],
    ],
  ];
  test.each(PROVED)('by %s', (_, steps, constants) => {
    expect(prove(steps, constants)).toEqual({ proved: true });
  });
});

describe('rows are not said to be apart', () => {
  const body = graph({ name: 'b', nodes: [node('Identity', ['x'], ['o'])], inputs: [], outputs: [value('o', 'FP32', ['N'])] });
  const MIXED: [string, Step[], OnnxTensor[]?, number?][] = [
    [
      'a mean over the batch',
      [
        ['ReduceMean', ['x'], 'm', { axes: [0] }],
        ['Sub', ['x', 'm'], 'y'],
      ],
    ],
    [
      'a mean over everything',
      [
        ['ReduceMean', ['x'], 'm'],
        ['Sub', ['x', 'm'], 'y'],
      ],
    ],
    ['a mean over the batch, counted from behind', [['ReduceMean', ['x'], 'y', { axes: [-3] }]]],
    ['a softmax over the batch', [['Softmax', ['x'], 'y', { axis: 0 }]]],
    ['a running sum over the batch', [['CumSum', ['x', 'zero'], 'y']], [ints('zero', [0])]],
    ['the batch turned to the back', [['Transpose', ['x'], 'y', { perm: [2, 1, 0] }]]],
    ['a transpose without a word', [['Transpose', ['x'], 'y']]],
    [
      'a product of rows with rows',
      [
        ['Flatten', ['x'], 'f'],
        ['Transpose', ['f'], 't', { perm: [1, 0] }],
        ['MatMul', ['f', 't'], 'y'],
      ],
    ],
    [
      'a product with transposed rows',
      [
        ['Flatten', ['x'], 'f'],
        ['Gemm', ['f', 'w'], 'y', { transA: 1 }],
      ],
      [floats('w', [4, 4])],
    ],
    ['a reshape that lets rows flow together', [['Reshape', ['x', 's'], 'y']], [ints('s', [1, -1])]],
    ['a reshape into other rows', [['Reshape', ['x', 's'], 'y']], [ints('s', [-1, 12])]],
    ['a flattened batch', [['Flatten', ['x'], 'y', { axis: 2 }]]],
    ['a neighbour picked by index', [['Gather', ['x', 'i'], 'y']], [ints('i', [1, 0])]],
    [
      'rows that pick from the batch',
      [
        ['Cast', ['x'], 'i', { to: 7 }],
        ['Gather', ['x', 'i'], 'y'],
      ],
    ],
    ['rows behind rows', [['Concat', ['x', 'x'], 'y', { axis: 0 }]]],
    ['a slice of the batch', [['Slice', ['x', 'a', 'b', 'c'], 'y']], [ints('a', [0]), ints('b', [1]), ints('c', [0])]],
    ['a slice of axes that it does not name', [['Slice', ['x', 'a', 'b'], 'y']], [ints('a', [0]), ints('b', [1])]],
    ['a batch split in two', [['Split', ['x'], 'a y', { axis: 0 }]]],
    ['a constant for each place in the batch', [['Add', ['x', 'c'], 'y']], [floats('c', [2, 4, 6])]],
    ['a constant of higher rank', [['Add', ['x', 'c'], 'y']], [floats('c', [2, 1, 4, 6])]],
    [
      'ranks that shift the batch',
      [
        ['ReduceSum', ['x', 'axes'], 'r', { keepdims: 0 }],
        ['Add', ['x', 'r'], 'y'],
      ],
      [ints('axes', [1, 2])],
    ],
    [
      'the number of rows',
      [
        ['Shape', ['x'], 's'],
        ['Reshape', ['x', 's'], 'y'],
      ],
    ],
    ['a scale of the whole tensor', [['DynamicQuantizeLinear', ['x'], 'y s z']]],
    [
      'a scale for each row by its place',
      [['QuantizeLinear', ['x', 's', 'z'], 'y', { axis: 0 }]],
      [floats('s', [2]), tensor('z', 'UINT8', [2], Uint8Array.of(1, 1))],
    ],
    ['a pad of the batch', [['Pad', ['x', 'p'], 'y']], [ints('p', [1, 0, 0, 0, 0, 0])]],
    ['the places of maxima in the whole tensor', [['MaxPool', ['x'], 'a y', { kernel_shape: [2] }]]],
    ['the largest of the batch', [['TopK', ['x', 'k'], 'y i', { axis: 0 }]], [ints('k', [1])]],
    ['a training batch normalisation', [['BatchNormalization', ['x', 'c', 'c', 'c', 'c'], 'y', { training_mode: 1 }]], [floats('c', [4])]],
    ['a normalisation over the batch', [['LayerNormalization', ['x', 'c'], 'y', { axis: 0 }]], [floats('c', [1])]],
    ['a branch', [['If', ['k'], 'y', { then_branch: body, else_branch: body }]], [tensor('k', 'BOOL', [], Uint8Array.of(1))]],
    ['random numbers', [['RandomNormalLike', ['x'], 'y']]],
    ['an equation', [['Einsum', ['x', 'x'], 'y', { equation: 'nab,mab->nab' }]]],
    ['an operator of another domain', [['FusedMatMul', ['x', 'x'], 'y']]],
    [
      'a name given twice',
      [
        ['Relu', ['x'], 'a'],
        ['Sigmoid', ['x'], 'a'],
        ['Relu', ['a'], 'y'],
      ],
    ],
    ['a squeeze of no axes, which is one of all', [['Squeeze', ['x', 'a'], 'y']], [ints('a', [])]],
    ['a squeeze that names an axis twice', [['Squeeze', ['x', 'a'], 'y']], [ints('a', [1, -2])]],
    ['a sum over an axis that is named twice', [['ReduceSum', ['x', 'a'], 'y', { keepdims: 0 }]], [ints('a', [1, 1])]],
    [
      'a slice of no axes, which is one of the first',
      [['Slice', ['x', 'b', 'e', 'a'], 'y']],
      [ints('b', [1]), ints('e', [2]), ints('a', [])],
    ],
    ['an output that is a constant', [['Identity', ['c'], 'y']], [floats('c', [4])]],
  ];
  test.each(MIXED)('by %s, and the operator is named', (_, steps, constants) => {
    const proof = prove(steps, constants);
    expect(proof).toMatchObject({ proved: false, node: expect.stringMatching(/^graph\.(node\[\d\] \(\w+\)|output y)$/) });
  });

  const VALUELESS: [string, Step, OnnxTensor[]?][] = [
    ['Softmax', ['Softmax', ['x'], 'y', { axis: 0 }]],
    ['LayerNormalization', ['LayerNormalization', ['x', 'c'], 'y', { axis: 0 }], [floats('c', [6])]],
    ['LpNormalization', ['LpNormalization', ['x'], 'y', { axis: 0 }]],
    ['TopK', ['TopK', ['x', 'k'], 'y i', { axis: 0 }], [ints('k', [1])]],
    ['OneHot', ['OneHot', ['x', 'd', 'v'], 'y', { axis: 0 }], [ints('d', [3]), floats('v', [2])]],
    ['Flatten', ['Flatten', ['x'], 'y', { axis: 0 }]],
    ['ReduceSum', ['ReduceSum', ['x', 'a'], 'y', { keepdims: 0 }], [ints('a', [1])]],
    ['ArgMax', ['ArgMax', ['x'], 'y', { axis: 0 }]],
    ['QuantizeLinear', ['QuantizeLinear', ['x', 's'], 'y', { axis: 0 }], [floats('s', [4])]],
  ];
  test.each(VALUELESS)(
    'by an attribute of %s without a value, which a runtime takes for 0',
    (_, [operator, inputs, output, attributes], constants) => {
      const one = node(operator, inputs, output.split(' '), attributes);
      for (const attribute of one.attribute) delete attribute.i;
      const io = { inputs: [value('x', 'FP32', ['N', 4, 6])], outputs: [value('y', 'FP32', ['N'])] };
      const main = graph({ name: 'rows', nodes: [one], initializers: constants ?? [], ...io });
      expect(proveRows(model(main, { opset: 17 }))).toMatchObject({ proved: false });
    },
  );

  test('by an attribute of another type', () => {
    expect(prove([['Softmax', ['x'], 'y', { axis: 'one' }]])).toMatchObject({ proved: false });
  });

  test('where the batch is not named alike', () => {
    expect(prove([['Relu', ['x'], 'y']], [], [2, 4])).toMatchObject({ proved: false });
    expect(prove([['Relu', ['x'], 'y']], [], ['M', 4])).toMatchObject({ proved: false });
  });
});
