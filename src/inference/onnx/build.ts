import { DATATYPES, type Datatype } from './datatypes.ts';
import type { OnnxAttribute, OnnxDimension, OnnxGraph, OnnxModel, OnnxNode, OnnxTensor, OnnxValue } from './schema.ts';

/** Attribute values: a whole number is an INT, any other a FLOAT; `float()` makes a FLOAT of a whole number. */
export type AttributeValue =
  | number
  | bigint
  | string
  | Float
  | OnnxTensor
  | OnnxGraph
  | readonly number[]
  | readonly bigint[]
  | readonly string[];
type Float = { readonly float: number };
type Attributes = Readonly<Record<string, AttributeValue>>;
type Elements = ArrayBufferView | readonly string[];

const ATTRIBUTE_TYPES = { float: 1, int: 2, string: 3, tensor: 4, graph: 5, floats: 6, ints: 7, strings: 8 } as const;
const encoder = new TextEncoder();

export function float(value: number): Float {
  return { float: value };
}

/** One operator. An empty input name leaves an optional input out. `domain`: '' is ONNX's own. */
export function node(
  opType: string,
  inputs: readonly string[],
  outputs: readonly string[],
  attributes: Attributes = {},
  { name, domain }: { name?: string; domain?: string } = {},
): OnnxNode {
  return {
    input: inputs,
    output: outputs,
    ...(name === undefined ? {} : { name }),
    opType,
    attribute: Object.entries(attributes).map(([key, value]) => attribute(key, value)),
    ...(domain === undefined ? {} : { domain }),
    metadataProps: [],
    deviceConfigurations: [],
  };
}

/** A tensor with its elements: little-endian, row by row, in a typed array of the type's width (FP16: its bits); BYTES as strings. */
export function tensor(name: string, datatype: Datatype, dims: readonly number[], data: Elements): OnnxTensor {
  const elements = ArrayBuffer.isView(data)
    ? { stringData: [], rawData: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) }
    : { stringData: data.map((text) => encoder.encode(text)) };
  return {
    dims: dims.map(BigInt),
    dataType: DATATYPES[datatype],
    floatData: [],
    int32Data: [],
    int64Data: [],
    name,
    ...elements,
    doubleData: [],
    uint64Data: [],
    externalData: [],
    metadataProps: [],
  };
}

/** A declared tensor. A number is a fixed dimension, a string a symbolic one, null an unknown one. */
export function value(name: string, datatype: Datatype, dims: readonly (number | string | null)[]): OnnxValue {
  const dim = dims.map((one): OnnxDimension => {
    if (one === null) return {};
    return typeof one === 'number' ? { dimValue: BigInt(one) } : { dimParam: one };
  });
  return { name, type: { tensorType: { elemType: DATATYPES[datatype], shape: { dim } } }, metadataProps: [] };
}

type GraphParts = {
  name: string;
  nodes: readonly OnnxNode[];
  inputs: readonly OnnxValue[];
  outputs: readonly OnnxValue[];
  initializers?: readonly OnnxTensor[];
};

/** A graph; nodes in an order in which each comes after what it reads. */
export function graph({ name, nodes, inputs, outputs, initializers = [] }: GraphParts): OnnxGraph {
  return {
    node: nodes,
    name,
    initializer: initializers,
    input: inputs,
    output: outputs,
    valueInfo: [],
    quantizationAnnotation: [],
    sparseInitializer: [],
    metadataProps: [],
  };
}

type ModelOptions = { opset?: number; irVersion?: number; producerName?: string };

const ML = { domain: 'ai.onnx.ml', version: 3n };

/**
 * A model on ONNX's own operators, and on those of ONNX-ML where a node names them. The defaults (opset 17, IR 8) are read by every runtime of the last
 * four years.
 */
export function model(main: OnnxGraph, { opset = 17, irVersion = 8, producerName = 'mercato' }: ModelOptions = {}): OnnxModel {
  const ml = main.node.some(({ domain }) => domain === ML.domain) ? [ML] : [];
  return {
    irVersion: BigInt(irVersion),
    producerName,
    graph: main,
    opsetImport: [{ domain: '', version: BigInt(opset) }, ...ml],
    metadataProps: [],
    trainingInfo: [],
    functions: [],
    configuration: [],
  };
}

function attribute(name: string, given: AttributeValue): OnnxAttribute {
  const empty = { name, floats: [], ints: [], strings: [], tensors: [], graphs: [], typeProtos: [], sparseTensors: [] };
  if (typeof given === 'string') return { ...empty, s: encoder.encode(given), type: ATTRIBUTE_TYPES.string };
  if (typeof given === 'bigint' || Number.isInteger(given)) return { ...empty, i: BigInt(given as number), type: ATTRIBUTE_TYPES.int };
  if (typeof given === 'number') return { ...empty, f: given, type: ATTRIBUTE_TYPES.float };
  if ('float' in given) return { ...empty, f: given.float, type: ATTRIBUTE_TYPES.float };
  if ('dims' in given) return { ...empty, t: given, type: ATTRIBUTE_TYPES.tensor };
  if ('node' in given) return { ...empty, g: given, type: ATTRIBUTE_TYPES.graph };
  if (isTexts(given)) return { ...empty, strings: given.map((text) => encoder.encode(text)), type: ATTRIBUTE_TYPES.strings };
  if (given.every((one) => typeof one === 'bigint' || Number.isInteger(one))) {
    return { ...empty, ints: given.map((one) => BigInt(one)), type: ATTRIBUTE_TYPES.ints };
  }
  return { ...empty, floats: given.map(Number), type: ATTRIBUTE_TYPES.floats };
}

function isTexts(given: readonly (number | bigint | string)[]): given is readonly string[] {
  return given.length > 0 && given.every((one) => typeof one === 'string');
}
