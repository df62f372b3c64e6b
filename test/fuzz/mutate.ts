import { DATATYPES, encodeModel, type OnnxGraph, type OnnxModel, type OnnxNode, type OnnxTensor } from '../../src/inference/onnx/onnx.ts';
import type { OnnxAttribute, OnnxValue } from '../../src/inference/onnx/schema.ts';
import type { Dice } from './random.ts';

/** A file that a mutant may try to read; no output may ever hold what is in it. */
export const SECRET_FILE = 'secret.bin';

/** A graph as the mutations change it. */
type Loose<T> = { -readonly [K in keyof T]: T[K] };
type Change = (graph: Loose<OnnxGraph>, dice: Dice, model: Loose<OnnxModel>) => void;

const OPERATORS = [
  ...[
    'Add',
    'MatMul',
    'Gemm',
    'Conv',
    'Relu',
    'Reshape',
    'Transpose',
    'Concat',
    'Split',
    'Slice',
    'Gather',
    'Einsum',
    'Expand',
    'Tile',
    'Pad',
  ],
  ...[
    'ConstantOfShape',
    'Range',
    'Loop',
    'If',
    'Scan',
    'Resize',
    'TopK',
    'NonZero',
    'ScatterND',
    'GRU',
    'LSTM',
    'Cast',
    'CumSum',
    'OneHot',
  ],
  ...[
    'ReduceSum',
    'Softmax',
    'MaxPool',
    'AveragePool',
    'ConvTranspose',
    'QLinearConv',
    'DynamicQuantizeLinear',
    'Unique',
    'StringNormalizer',
  ],
];
const SIZES = [0n, 1n, -1n, 2n, 3n, 7n, 255n, 65_536n, 2n ** 31n, -(2n ** 31n), 2n ** 40n, 2n ** 62n, -(2n ** 63n)];
const TYPES = [...Object.values(DATATYPES), 0, 14, 15, 16, 17, 21, 99];

/** What structure-aware mutation does to a graph; each leaves a well-formed file. */
const CHANGES: readonly Change[] = [
  (graph, dice) => changeNode(graph, dice, (node) => ({ ...node, opType: dice.pick(OPERATORS) })),
  (graph, dice) => changeNode(graph, dice, (node) => ({ ...node, input: rewired(graph, node.input, dice) })),
  (graph, dice) =>
    changeNode(graph, dice, (node) => ({
      ...node,
      attribute: node.attribute.map((one) => (dice.next() < 0.5 ? changedAttribute(one, dice) : one)),
    })),
  (graph, dice) =>
    changeNode(graph, dice, (node) => ({ ...node, attribute: node.attribute.slice(0, dice.below(node.attribute.length + 1)) })),
  (graph, dice) => changeNode(graph, dice, (node) => ({ ...node, input: node.input.slice(0, dice.below(node.input.length + 1)) })),
  (graph, dice) => changeNode(graph, dice, (node) => ({ ...node, input: [...node.input, ...node.input] })),
  (graph, dice) => changeNode(graph, dice, (node) => ({ ...node, domain: dice.pick(['', 'ai.onnx.ml', 'com.microsoft', 'unknown']) })),
  (graph, dice) => {
    graph.node = [...graph.node, dice.pick(graph.node)];
  },
  (graph, dice) => {
    graph.node = graph.node.filter((_, index) => index !== dice.below(graph.node.length));
  },
  (graph, dice) => {
    graph.node = graph.node.toSorted(() => dice.next() - 0.5);
  },
  (graph, dice) =>
    changeTensor(graph, dice, (tensor) => ({ ...tensor, dims: tensor.dims.map((dim) => (dice.next() < 0.5 ? dice.pick(SIZES) : dim)) })),
  (graph, dice) => changeTensor(graph, dice, (tensor) => ({ ...tensor, dataType: dice.pick(TYPES) })),
  (graph, dice) => changeTensor(graph, dice, (tensor) => ({ ...tensor, rawData: noise(tensor.rawData ?? new Uint8Array(8), dice) })),
  (graph, dice) => changeTensor(graph, dice, external),
  (graph, dice) => changeValue(graph, dice, 'input'),
  (graph, dice) => changeValue(graph, dice, 'output'),
  (graph, dice) => {
    const [name, ...rest] = [dice.pick(graph.node).output[0] ?? 'x', ...graph.output];
    graph.output = rest.map((value) => ({ ...value, name }));
  },
  (graph, dice) => {
    const inner = dice.pick(graph.node);
    const body: OnnxAttribute = { ...EMPTY, name: dice.pick(['body', 'then_branch', 'else_branch']), g: { ...graph }, type: 5 };
    graph.node = graph.node.map((node) =>
      node === inner ? { ...node, opType: dice.pick(['Loop', 'If', 'Scan']), attribute: [...node.attribute, body] } : node,
    );
  },
  (_graph, dice, model) => {
    model.opsetImport = model.opsetImport.map((opset) => ({ ...opset, version: dice.pick([...SIZES, 7n, 13n, 21n]) }));
  },
];

const EMPTY: OnnxAttribute = { floats: [], ints: [], strings: [], tensors: [], graphs: [], typeProtos: [], sparseTensors: [] };

/** A mutant of a model, by one to four changes; null where it cannot be written down. */
export function mutant(base: OnnxModel, dice: Dice): Uint8Array | null {
  const model: Loose<OnnxModel> = { ...base };
  const graph: Loose<OnnxGraph> = { ...(base.graph as OnnxGraph) };
  model.graph = graph;
  for (let change = dice.below(4); change >= 0; change--) if (graph.node.length > 0) dice.pick(CHANGES)(graph, dice, model);
  try {
    return encodeModel(model);
  } catch {
    return null;
  }
}

function changeNode(graph: Loose<OnnxGraph>, dice: Dice, change: (node: OnnxNode) => OnnxNode): void {
  const chosen = dice.below(graph.node.length);
  graph.node = graph.node.map((node, index) => (index === chosen ? change(node) : node));
}

function changeTensor(graph: Loose<OnnxGraph>, dice: Dice, change: (tensor: OnnxTensor) => OnnxTensor): void {
  const chosen = dice.below(Math.max(1, graph.initializer.length));
  graph.initializer = graph.initializer.map((tensor, index) => (index === chosen ? change(tensor) : tensor));
  graph.node = graph.node.map((node) => ({
    ...node,
    attribute: node.attribute.map((one) => (one.t && dice.next() < 0.5 ? { ...one, t: change(one.t) } : one)),
  }));
}

function changeValue(graph: Loose<OnnxGraph>, dice: Dice, where: 'input' | 'output'): void {
  const chosen = dice.below(Math.max(1, graph[where].length));
  graph[where] = graph[where].map((value, index) => (index === chosen ? changedValue(value, dice) : value));
}

function changedValue(value: OnnxValue, dice: Dice): OnnxValue {
  const tensorType = value.type?.tensorType;
  const dim = (tensorType?.shape?.dim ?? []).map((one) => (dice.next() < 0.5 ? { dimValue: dice.pick(SIZES) } : one));
  const elemType = dice.next() < 0.3 ? dice.pick(TYPES) : (tensorType?.elemType ?? 1);
  return {
    ...value,
    type: { tensorType: { elemType, ...(dice.next() < 0.2 ? {} : { shape: { dim: dice.next() < 0.2 ? [...dim, {}] : dim } }) } },
  };
}

function changedAttribute(one: OnnxAttribute, dice: Dice): OnnxAttribute {
  return {
    ...one,
    ...(one.i === undefined ? {} : { i: dice.pick(SIZES) }),
    ...(one.f === undefined ? {} : { f: dice.pick([0, -1, Number.NaN, Number.POSITIVE_INFINITY, 1e38]) }),
    ...(one.s === undefined
      ? {}
      : { s: new TextEncoder().encode(dice.pick(['', 'ij->ji', 'i,j->', '...', 'SAME_UPPER', 'linear', SECRET_FILE])) }),
    ints: one.ints.map((value) => (dice.next() < 0.5 ? dice.pick(SIZES) : value)),
    floats: one.floats.map((value) => (dice.next() < 0.5 ? Number.NaN : value)),
  };
}

function external(tensor: OnnxTensor): OnnxTensor {
  const { rawData: _, ...rest } = tensor;
  const externalData = [
    { key: 'location', value: SECRET_FILE },
    { key: 'offset', value: '0' },
  ];
  return { ...rest, dataLocation: 1, externalData };
}

function noise(bytes: Uint8Array, dice: Dice): Uint8Array {
  return bytes.map((byte) => (dice.next() < 0.3 ? dice.below(256) : byte));
}

/** Other edges: names from anywhere in the graph. */
function rewired(graph: OnnxGraph, inputs: readonly string[], dice: Dice): string[] {
  const names = [
    ...graph.input.map(({ name }) => name ?? ''),
    ...graph.initializer.map(({ name }) => name ?? ''),
    ...graph.node.flatMap(({ output }) => output),
  ];
  return inputs.map((name) => (names.length > 0 && dice.next() < 0.5 ? dice.pick(names) : name));
}
