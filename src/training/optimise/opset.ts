import {
  decodeModel,
  encodeModel,
  node,
  type OnnxGraph,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
  tensor,
} from '../../inference/onnx/onnx.ts';
import { rejectedKind } from './refusals.ts';

const TO = 13;
const FROM = 9;
const IR_OF_TO = 7n;
/** Operators that mean the same from FROM to TO, with the same attributes. */
const SAME = new Set(
  (
    'Abs Add And ArgMax AveragePool BatchNormalization Cast Concat Constant ConstantOfShape Conv ConvTranspose Div ' +
    'Elu Equal Erf Exp Expand Flatten Floor Gather Gemm GlobalAveragePool GlobalMaxPool Greater Identity ' +
    'InstanceNormalization LRN LeakyRelu Less Log MatMul Max MaxPool Min Mul Neg Not Or PRelu Pow ' +
    'Reciprocal Relu Reshape Selu Shape Sigmoid Sin Softplus Sqrt Sub Sum Tanh Transpose'
  ).split(' '),
);
/** What they give has no more than one element behind axis 1, for which Softmax along it means the same in all versions. */
const GIVES_MATRIX = ['Gemm', 'Flatten', 'GlobalAveragePool', 'GlobalMaxPool'];

/**
 * The model on ONNX's operator set 13 where it is below `least`, else as it is. Errors: BAD_USER_INPUT naming the operator or version that
 * would have another meaning there.
 */
export function raiseOpset(source: Uint8Array, least: number, kind: string): Uint8Array {
  const model = decodeModel(source);
  const { graph } = model;
  const opset = Number(model.opsetImport.find(isOnnx)?.version ?? 1n);
  if (opset >= least || graph === undefined) return source;
  if (opset < FROM) throw tooOld(kind, `operator set ${opset}`);
  const made: OnnxTensor[] = [];
  const makers = new Map(graph.node.flatMap((one) => one.output.map((name) => [name, one.opType ?? ''] as const)));
  const read = new Set([...graph.node.flatMap(({ input }) => input), ...graph.output.map(({ name = '' }) => name)]);
  const nodes = graph.node.map((one) => raised(one, { makers, read, made, kind }));
  return encodeModel(withNodes(model, graph, nodes, made));
}

function withNodes(model: OnnxModel, graph: OnnxGraph, nodes: readonly OnnxNode[], made: readonly OnnxTensor[]): OnnxModel {
  const constants = new Set(graph.initializer.map(({ name }) => name));
  const old = (model.irVersion ?? 0n) < 4n;
  return {
    ...model,
    irVersion: (model.irVersion ?? 0n) < IR_OF_TO ? IR_OF_TO : (model.irVersion ?? 0n),
    opsetImport: model.opsetImport.map((one) => (isOnnx(one) ? { ...one, version: BigInt(TO) } : one)),
    graph: {
      ...graph,
      node: nodes,
      initializer: [...graph.initializer, ...made],
      input: old ? graph.input.filter(({ name }) => !constants.has(name)) : graph.input,
    },
  };
}

type Raising = { makers: ReadonlyMap<string, string>; read: ReadonlySet<string>; made: OnnxTensor[]; kind: string };

function raised(one: OnnxNode, { makers, read, made, kind }: Raising): OnnxNode {
  const { opType = '', attribute } = one;
  if (!isOnnx(one)) return one;
  if (SAME.has(opType)) return one;
  if (opType === 'Unsqueeze' || opType === 'Squeeze') {
    const axes = attribute.find(({ name }) => name === 'axes')?.ints;
    if (axes === undefined) return one;
    const constant = tensor(`${one.output[0]}/axes`, 'INT64', [axes.length], BigInt64Array.from(axes));
    made.push(constant);
    return { ...one, input: [...one.input, constant.name ?? ''], attribute: attribute.filter(({ name }) => name !== 'axes') };
  }
  if (opType === 'Dropout' && !one.output.slice(1).some((mask) => read.has(mask))) {
    return { ...one, output: one.output.slice(0, 1), attribute: attribute.filter(({ name }) => name !== 'ratio') };
  }
  const axis = attribute.find(({ name }) => name === 'axis')?.i ?? 1n;
  if (['Softmax', 'LogSoftmax'].includes(opType) && axis === 1n && GIVES_MATRIX.includes(makers.get(one.input[0] ?? '') ?? '')) {
    return { ...one, attribute: node(opType, [], [], { axis: 1 }).attribute };
  }
  throw tooOld(kind, `operator ${opType}`);
}

function isOnnx({ domain }: { domain?: string }): boolean {
  return (domain ?? '') === '' || domain === 'ai.onnx';
}

function tooOld(kind: string, what: string): Error {
  return rejectedKind(
    kind,
    `This needs operator set ${TO}, where the model's ${what} has another meaning.`,
    `a model exported with opset ${TO} or later`,
  );
}
