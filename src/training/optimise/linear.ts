import type { OnnxNode } from '../../inference/onnx/onnx.ts';
import { dimsOf, numbersOf, sizeOf } from './numbers.ts';
import { type Quantised, quantiseChannels, transposed } from './quantise.ts';
import { floatAttribute, intAttribute, isPlain, type Workpiece } from './workpiece.ts';

/** Smaller matrices gain nothing in integers. */
const ELEMENTS_MIN = 1_024;

/** A product with stored weights: y = alpha · x · W + beta · bias. `weights` are [inputs, outputs], quantised by output. */
export type Linear = {
  input: string;
  /** Of x, W and y: ONNX's number. */
  dataType: number;
  inputs: number;
  outputs: number;
  weights: Quantised;
  alpha: number;
  beta: number;
  bias: string | null;
};

/** What a MatMul or Gemm computes where integers can do it, else null: weights of rank 2, finite, of FP32, FP16 or FP64, not few. */
export function linearOf({ constants }: Workpiece, one: OnnxNode): Linear | null {
  const gemm = one.opType === 'Gemm';
  if (!isPlain(one) || !(gemm || one.opType === 'MatMul') || (gemm && intAttribute(one, 'transA', 0) !== 0)) return null;
  const [input = '', weight = '', bias = ''] = one.input;
  const constant = constants.get(weight);
  if (constant === undefined || constants.has(input)) return null;
  const dims = dimsOf(constant);
  const [rows = 0, columns = 0] = dims;
  if (dims.length !== 2 || sizeOf(dims) < ELEMENTS_MIN) return null;
  const turned = gemm && intAttribute(one, 'transB', 0) !== 0;
  const values = numbersOf(constant);
  if (values === null) return null;
  const [inputs, outputs] = turned ? [columns, rows] : [rows, columns];
  const weights = quantiseChannels(turned ? transposed(values, rows, columns) : values, [inputs, outputs], 1);
  if (weights === null) return null;
  const [alpha, beta] = gemm ? [floatAttribute(one, 'alpha', 1), floatAttribute(one, 'beta', 1)] : [1, 1];
  const { dataType = 0 } = constant;
  return { input, dataType, inputs, outputs, weights, alpha, beta, bias: gemm && bias !== '' && beta !== 0 ? bias : null };
}
