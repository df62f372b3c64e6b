import { type Datatype, encodeModel, graph, model, node, tensor, value } from '../../src/inference/onnx/onnx.ts';

type Dimensions = readonly (number | string)[];
type Node = ReturnType<typeof node>;
type Constant = ReturnType<typeof tensor>;
type Value = readonly [name: string, datatype: Datatype, dimensions: Dimensions];

const values = (given: readonly Value[]) => given.map(([name, datatype, dimensions]) => value(name, datatype, dimensions));

/** A whole model of a few nodes. */
export function tinyModel(
  inputs: readonly Value[],
  outputs: readonly Value[],
  nodes: readonly Node[],
  initializers: readonly Constant[] = [],
) {
  return encodeModel(model(graph({ name: 'tiny', nodes, inputs: values(inputs), outputs: values(outputs), initializers })));
}

/** `y = x`. */
export function identityModel(datatype: Datatype = 'FP32', dimensions: Dimensions = ['N', 2]): Uint8Array {
  return tinyModel([['x', datatype, dimensions]], [['y', datatype, dimensions]], [node('Identity', ['x'], ['y'])]);
}

/**
 * `y = x` after as many turns of an empty loop as the largest element of `x`, or their number, says beyond `free`, `each` times, or always `turns`; a turn takes about a microsecond.
 */
export function loopModel(turns?: number, each = 1, free = 0, by: 'ReduceMax' | 'Size' = 'ReduceMax'): Uint8Array {
  const body = graph({
    name: 'turn',
    nodes: [node('Identity', ['on'], ['still']), node('Identity', ['carried'], ['carry'])],
    inputs: values([
      ['turn', 'INT64', []],
      ['on', 'BOOL', []],
      ['carried', 'INT64', ['N']],
    ]),
    outputs: values([
      ['still', 'BOOL', []],
      ['carry', 'INT64', ['N']],
    ]),
  });
  const most = node(by, ['x'], ['most'], by === 'Size' ? {} : { keepdims: 0 });
  const beyond = node('Sub', ['most', 'free'], ['beyond']);
  const some = node('Max', ['beyond', 'none'], ['some']);
  const many = node('Mul', ['some', 'each'], ['many']);
  const loop = node('Loop', [turns === undefined ? 'many' : 'fixed', 'on', 'x'], ['y'], { body });
  const fixed = tensor('fixed', 'INT64', [], BigInt64Array.of(BigInt(turns ?? 0)));
  return tinyModel([['x', 'INT64', ['N']]], [['y', 'INT64', ['N']]], turns === undefined ? [most, beyond, some, many, loop] : [loop], [
    tensor('on', 'BOOL', [], Uint8Array.of(1)),
    fixed,
    tensor('each', 'INT64', [], BigInt64Array.of(BigInt(each))),
    tensor('free', 'INT64', [], BigInt64Array.of(BigInt(free))),
    tensor('none', 'INT64', [], BigInt64Array.of(0n)),
  ]);
}

/** `y = table[x + from]`, a table of four: another index fails the whole run. */
export function tableModel(from = 0): Uint8Array {
  const table = tensor('table', 'FP32', [4], Float32Array.of(10, 11, 12, 13));
  const base = tensor('from', 'INT64', [], BigInt64Array.of(BigInt(from)));
  const nodes = [node('Add', ['x', 'from'], ['at']), node('Gather', ['table', 'at'], ['y'])];
  return tinyModel([['x', 'INT64', ['N']]], [['y', 'FP32', ['N']]], nodes, [table, base]);
}

/** `y` = as many zeros as `x` says. */
export function bombModel(): Uint8Array {
  return tinyModel([['x', 'INT64', [1]]], [['y', 'FP32', ['M']]], [node('ConstantOfShape', ['x'], ['y'])]);
}

/** `y` = the largest of `k` copies of `x`, for which memory is needed. */
export function hogModel(): Uint8Array {
  const nodes = [node('Expand', ['x', 'k'], ['copies']), node('ReduceMax', ['copies'], ['y'], { keepdims: 1, axes: [0] })];
  return tinyModel(
    [
      ['x', 'FP32', [1]],
      ['k', 'INT64', [1]],
    ],
    [['y', 'FP32', [1]]],
    nodes,
  );
}

/** `y` = the largest of each pair of `x`. With `i`, which says where it was, WebGPU takes it and fails in its runs (onnxruntime-node 1.30.0). */
export function poolModel(tellsWhere = true): Uint8Array {
  const outputs: Value[] = [
    ['y', 'FP32', ['N', 1, 1]],
    ['i', 'INT64', ['N', 1, 1]],
  ];
  const count = tellsWhere ? 2 : 1;
  const pool = node('MaxPool', ['x'], ['y', 'i'].slice(0, count), { kernel_shape: [2] });
  return tinyModel([['x', 'FP32', ['N', 1, 2]]], outputs.slice(0, count), [pool]);
}

/** `y` = the part of each row in the sum over all rows: rows of a run touch. */
export function mixingModel(): Uint8Array {
  return tinyModel([['x', 'FP32', ['N', 2]]], [['y', 'FP32', ['N', 2]]], [node('Softmax', ['x'], ['y'], { axis: 0 })]);
}

/** `double = x + x` and `square = x · x`. */
export function twoOutputsModel(): Uint8Array {
  const outputs: Value[] = [
    ['double', 'FP32', ['N', 2]],
    ['square', 'FP32', ['N', 2]],
  ];
  return tinyModel([['x', 'FP32', ['N', 2]]], outputs, [node('Add', ['x', 'x'], ['double']), node('Mul', ['x', 'x'], ['square'])]);
}
