import { DATATYPES, type OnnxNode, type OnnxTensor } from '../../inference/onnx/onnx.ts';
import { dimsOf, numbersOf, sizeOf } from './numbers.ts';
import { type Quantised, quantiseChannels } from './quantise.ts';
import { floatAttribute, intAttribute, isPlain, type Workpiece } from './workpiece.ts';

/** A node that can compute with bytes, its weights quantised along `axis`; `bias` in FP32, null where it has none. */
export type Candidate = { node: OnnxNode; weight: OnnxTensor; dims: number[]; axis: number; weights: Quantised; bias: Float64Array | null };

/** Smaller weights gain nothing in integers. */
const ELEMENTS_MIN = 64;

/** Conv, Gemm and MatMul with stored finite FP32 weights and, if any, a stored bias of one number for each output channel; else null. */
export function candidateOf({ constants }: Workpiece, node: OnnxNode): Candidate | null {
  const [input = '', weightName = '', biasName = ''] = node.input;
  const weight = constants.get(weightName);
  if (!isPlain(node) || weight?.dataType !== DATATYPES.FP32 || constants.has(input)) return null;
  const dims = dimsOf(weight);
  const axis = channelAxis(node, dims.length);
  if (axis === null || sizeOf(dims) < ELEMENTS_MIN) return null;
  const [alpha, beta] = node.opType === 'Gemm' ? [floatAttribute(node, 'alpha', 1), floatAttribute(node, 'beta', 1)] : [1, 1];
  const bias = biasOf(constants, biasName, dims[axis] ?? 0, beta);
  const values = numbersOf(weight);
  const weights = values && quantiseChannels(alpha === 1 ? values : values.map((one) => one * alpha), dims, axis);
  return weights === null || bias === undefined ? null : { node, weight, dims, axis, weights, bias };
}

function channelAxis(node: OnnxNode, rank: number): number | null {
  if (node.opType === 'Conv') return rank >= 3 ? 0 : null;
  if (rank !== 2) return null;
  if (node.opType === 'MatMul') return 1;
  if (node.opType !== 'Gemm' || intAttribute(node, 'transA', 0) !== 0) return null;
  return intAttribute(node, 'transB', 0) === 0 ? 1 : 0;
}

/** Null where there is none, undefined where it is not one stored number for each channel. */
function biasOf(constants: Workpiece['constants'], name: string, channels: number, beta: number): Float64Array | null | undefined {
  if (name === '' || beta === 0) return null;
  const tensor = constants.get(name);
  const values = tensor?.dataType === DATATYPES.FP32 ? numbersOf(tensor) : null;
  if (tensor === undefined || values === null) return undefined;
  const row = dimsOf(tensor)
    .slice(0, -1)
    .every((dim) => dim === 1);
  if (!row || (values.length !== channels && values.length !== 1)) return undefined;
  return Float64Array.from({ length: channels }, (_, channel) => beta * (values[values.length === 1 ? 0 : channel] ?? 0));
}
