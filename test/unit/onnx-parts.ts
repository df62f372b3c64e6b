import { MercatoError } from '../../src/base/errors.ts';
import {
  checkModel,
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

export type Parts = { nodes?: OnnxNode[]; inputs?: OnnxValue[]; outputs?: OnnxValue[]; initializers?: OnnxTensor[] };
export const x = value('x', 'FP32', ['N', 2]);
export const y = value('y', 'FP32', ['N', 2]);
export const identity = node('Identity', ['x'], ['y']);
export const external = [{ key: 'location', value: 'secret' }];
export const weights = tensor('w1', 'FP32', [2], Float32Array.of(1, 2));
export const outside: OnnxTensor = { ...weights, dataLocation: 1, externalData: external };
export const loopBody = (nodes: OnnxNode[], initializers: OnnxTensor[] = []) =>
  graph({ name: 'body', nodes, inputs: [], outputs: [], initializers });

export function makeGraph({ nodes = [identity], inputs = [x], outputs = [y], initializers = [] }: Parts = {}): OnnxGraph {
  return graph({ name: 'g', nodes, inputs, outputs, initializers });
}

export function makeFunction(name: string, nodes: OnnxNode[]): OnnxModel['functions'][number] {
  return {
    name,
    domain: 'own',
    input: ['x'],
    output: [],
    attribute: [],
    node: nodes,
    opsetImport: [],
    attributeProto: [],
    valueInfo: [],
    metadataProps: [],
  };
}

export const withParts = (parts: Parts): OnnxModel => model(makeGraph(parts));
export const withWeights = (one: OnnxTensor): OnnxModel => withParts({ initializers: [one] });
export const withNode = (one: OnnxNode): OnnxModel => withParts({ nodes: [identity, one] });
export const withGraph = (change: Partial<OnnxGraph>): OnnxModel => model({ ...makeGraph(), ...change });
export const withFunctions = (...functions: OnnxModel['functions'][number][]): OnnxModel => ({ ...model(makeGraph()), functions });
export const constant = (attributes: Parameters<typeof node>[3]) => node('Constant', [], ['c'], attributes);
export const call = (name: string) => node(name, [], [], {}, { domain: 'own' });
export const bad: OnnxTensor = { ...weights, dims: [3n] };
export const sparse = (values: OnnxTensor, indices = tensor('i', 'INT64', [2], BigInt64Array.of(0n, 1n))) => ({
  values,
  indices,
  dims: [4n],
});
export const sparseAttribute = (key: 'sparseTensor' | 'sparseTensors') => {
  const [one] = node('Constant', [], ['c'], { sparse_value: 1 }).attribute;
  const { i: _, ...rest } = one ?? { floats: [], ints: [], strings: [], tensors: [], graphs: [], typeProtos: [], sparseTensors: [] };
  return { ...constant({}), attribute: [{ ...rest, [key]: key === 'sparseTensor' ? sparse(outside) : [sparse(outside)] }] };
};
export const tensorType = (type: OnnxValue['type']): OnnxValue => ({
  name: 'x',
  metadataProps: [],
  ...(type === undefined ? {} : { type }),
});

/** What `checkModel` says; an Error where it accepts the bytes. */
export function refusalOf(bytes: Uint8Array): MercatoError {
  try {
    checkModel(bytes);
  } catch (error) {
    if (error instanceof MercatoError && error.code === 'MODEL_REJECTED') return error;
    throw error;
  }
  throw new Error('the model was accepted');
}
