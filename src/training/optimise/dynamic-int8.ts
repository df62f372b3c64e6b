import { DATATYPES, type OnnxNode, tensor } from '../../inference/onnx/onnx.ts';
import { type Linear, linearOf } from './linear.ts';
import { raiseOpset } from './opset.ts';
import { signs } from './sign.ts';
import { nothingToDo, Workpiece } from './workpiece.ts';

/** ReduceMax takes its axes as an input from here on. */
const OPSET_AXES_INPUT = 18;
const OPSET_MIN = 11;
const ZERO_POINT = 128;
const KIND = 'DYNAMIC_INT8';

/**
 * MatMul and Gemm with stored weights, on integers: weights as int8 by output channel, each row of the activation as bytes by a scale of
 * its own, s = max|x| / 127 over the last axis, byte = x / s rounded + 128; where the graph keeps x from being negative, max x / 255 and
 * no 128: a bit more. DynamicQuantizeLinear would take one scale for the whole batch, and a row's answer would change with the rows beside
 * it. Bytes rather than int8 activations: ONNX Runtime's signed kernel is 4 to 20 times slower. Errors: BAD_USER_INPUT where nothing can
 * be quantised; then for an operator set that cannot be raised.
 */
export function dynamicInt8(source: Uint8Array): { bytes: Uint8Array; notes: string[] } {
  const given = new Workpiece(source);
  if (!given.graph.node.some((one) => linearOf(given, one) !== null)) throw nothingToDo(given, KIND, 'MatMul or Gemm');
  const piece = given.opset < OPSET_MIN ? new Workpiece(raiseOpset(source, OPSET_MIN, KIND)) : given;
  const laid = new Rows(piece);
  const nodes: OnnxNode[] = [];
  let changed = 0;
  for (const one of piece.graph.node) {
    const linear = linearOf(piece, one);
    if (linear === null) nodes.push(one);
    else {
      laid.linear(nodes, one, linear);
      changed++;
    }
  }
  return { bytes: piece.finish(nodes), notes: [`${changed} matrix products compute in integers, each row by itself.`] };
}

/** `zero`: the zero point, where it is not 0. */
type Activation = { bytes: string; scale: string; zero: readonly string[] };

/** Lays down what is computed from rows; an activation that several products read is quantised once. */
class Rows {
  readonly #piece: Workpiece;
  readonly #positive: (value: string) => boolean;
  readonly #activations = new Map<string, Activation>();
  readonly #constants = new Map<string, string>();

  constructor(piece: Workpiece) {
    this.#piece = piece;
    this.#positive = signs(piece);
  }

  linear(into: OnnxNode[], { output }: OnnxNode, { input, dataType, inputs, outputs, weights, alpha, beta, bias }: Linear): void {
    const piece = this.#piece;
    const { bytes, scale, zero } = this.#activation(into, input, dataType);
    const integers = piece.keep(tensor(piece.name('/weight'), 'INT8', [inputs, outputs], weights.integers));
    const worth = weights.scales.map((one) => one * alpha);
    const scales = piece.keep(tensor(piece.name('/scale'), 'FP32', [outputs], worth));
    const sum = piece.op(into, 'MatMulInteger', [bytes, integers, ...zero]);
    const whole = piece.op(into, 'Cast', [sum], { to: DATATYPES.FP32 });
    const [result = ''] = output;
    const plain = dataType === DATATYPES.FP32;
    // As a product of both scales the runtime fuses it into a form that is less accurate.
    const columns = piece.op(into, 'Mul', [whole, scales]);
    const product = piece.op(into, 'Mul', [columns, scale], {}, plain && bias === null ? result : undefined);
    const typed = plain ? product : piece.op(into, 'Cast', [product], { to: dataType }, bias === null ? result : undefined);
    if (bias === null) return;
    const times = beta === 1 ? bias : piece.op(into, 'Mul', [bias, this.#typed(into, beta, dataType)]);
    piece.op(into, 'Add', [typed, times], {}, result);
  }

  #activation(into: OnnxNode[], input: string, dataType: number): Activation {
    const known = this.#activations.get(input);
    if (known !== undefined) return known;
    const piece = this.#piece;
    const x = dataType === DATATYPES.FP32 ? input : piece.op(into, 'Cast', [input], { to: DATATYPES.FP32 });
    const positive = this.#positive(input);
    const size = positive ? x : piece.op(into, 'Abs', [x]);
    const late = piece.opset >= OPSET_AXES_INPUT;
    const largest = piece.op(into, 'ReduceMax', late ? [size, this.#axes()] : [size], { ...(late ? {} : { axes: [-1] }), keepdims: 1 });
    const worth = piece.op(into, 'Mul', [largest, this.#constant(positive ? 'part255' : 'part127', 'FP32', 1 / (positive ? 255 : 127))]);
    const scale = piece.op(into, 'Max', [worth, this.#constant('least', 'FP32', 1e-30)]);
    const steps = piece.op(into, 'Round', [piece.op(into, 'Div', [x, scale])]);
    const shifted = positive ? steps : piece.op(into, 'Add', [steps, this.#constant('middle', 'FP32', ZERO_POINT)]);
    const bytes = piece.op(into, 'Cast', [shifted], { to: DATATYPES.UINT8 });
    const made = { bytes, scale, zero: positive ? [] : [this.#constant('zero', 'UINT8', ZERO_POINT)] };
    this.#activations.set(input, made);
    return made;
  }

  #typed(into: OnnxNode[], value: number, dataType: number): string {
    const constant = this.#constant(`beta_${value}`, 'FP32', value);
    return dataType === DATATYPES.FP32 ? constant : this.#piece.op(into, 'Cast', [constant], { to: dataType });
  }

  #axes(): string {
    return this.#once('axes', (name) => tensor(name, 'INT64', [1], BigInt64Array.of(-1n)));
  }

  #constant(about: string, datatype: 'FP32' | 'UINT8', value: number): string {
    return this.#once(about, (name) => tensor(name, datatype, [], datatype === 'FP32' ? Float32Array.of(value) : Uint8Array.of(value)));
  }

  #once(about: string, make: (name: string) => Parameters<Workpiece['keep']>[0]): string {
    const known = this.#constants.get(about) ?? this.#piece.keep(make(this.#piece.name(`/${about}`)));
    this.#constants.set(about, known);
    return known;
  }
}
