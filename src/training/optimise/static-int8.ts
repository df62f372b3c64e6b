import { type OnnxNode, tensor } from '../../inference/onnx/onnx.ts';
import type { Rows } from './batches.ts';
import { rangesOf } from './calibrate.ts';
import { type Candidate, candidateOf } from './candidates.ts';
import { type Flow, flowOf } from './flow.ts';
import { raiseOpset } from './opset.ts';
import { type ByteScale, byteScale, quantiseBias } from './quantise.ts';
import { nothingToDo, Workpiece } from './workpiece.ts';

/** QuantizeLinear and DequantizeLinear have an axis from here on. */
const OPSET_MIN = 13;
const KIND = 'STATIC_INT8';
const LAYERS = 'Conv, MatMul or Gemm in FP32';

/**
 * Conv, MatMul and Gemm between QuantizeLinear and DequantizeLinear (QDQ), which ONNX Runtime fuses into integer kernels: weights int8 by
 * output channel, biases int32, activations as bytes with ranges from the calibration rows, fixed, so that rows do not touch. Errors, in
 * this order: BAD_USER_INPUT where nothing can be quantised; for an operator set that cannot be raised; those of `rangesOf`.
 */
export async function staticInt8(source: Uint8Array, calibration: Rows | null): Promise<{ bytes: Uint8Array; notes: string[] }> {
  const given = new Workpiece(source);
  if (!given.graph.node.some((one) => candidateOf(given, one) !== null)) throw nothingToDo(given, KIND, LAYERS);
  const piece = given.opset < OPSET_MIN ? new Workpiece(raiseOpset(source, OPSET_MIN, KIND)) : given;
  const candidates = new Map<OnnxNode, Candidate>();
  for (const one of piece.graph.node) {
    const candidate = candidateOf(piece, one);
    if (candidate !== null) candidates.set(one, candidate);
  }
  const flow = flowOf(piece, [...candidates.keys()]);
  const ranges = await rangesOf(piece.model, [...new Set(flow.range.values())], calibration);
  const scaleOf = (value: string): ByteScale => {
    const { min, max } = ranges.get(flow.range.get(value) ?? '') ?? { min: 0, max: 0 };
    return byteScale(min, max);
  };
  const pairs = new Pairs(piece, flow, scaleOf);
  const nodes: OnnxNode[] = [];
  for (const { name = '' } of piece.graph.input) pairs.after(nodes, name);
  const left: string[] = [];
  for (const one of piece.graph.node) {
    const candidate = candidates.get(one);
    const rewritten = candidate && pairs.around(nodes, candidate, scaleOf(one.input[0] ?? ''));
    if (rewritten === null) left.push(one.opType ?? '');
    nodes.push(rewritten ?? pairs.rewired(one));
    for (const name of one.output) pairs.after(nodes, name);
  }
  const done = candidates.size - left.length;
  if (done === 0) throw nothingToDo(piece, KIND, 'Conv, MatMul or Gemm with a bias that fits 32 bits');
  const notes = [`${done} layers compute in integers, with ranges from ${calibration?.rows ?? 0} rows.`];
  if (left.length > 0) notes.push(`${left.length} layers keep their weights: their bias does not fit 32 bits.`);
  return { bytes: piece.finish(nodes), notes };
}

/** Lays down the pairs of quantise and dequantise. */
class Pairs {
  readonly #piece: Workpiece;
  readonly #flow: Flow;
  readonly #scaleOf: (value: string) => ByteScale;
  /** Value → what stands for it behind its pair. */
  readonly #behind = new Map<string, string>();

  constructor(piece: Workpiece, flow: Flow, scaleOf: (value: string) => ByteScale) {
    this.#piece = piece;
    this.#flow = flow;
    this.#scaleOf = scaleOf;
  }

  /** Puts the pair behind a value that has one. */
  after(into: OnnxNode[], value: string): void {
    if (!this.#flow.range.has(value)) return;
    const piece = this.#piece;
    const { scale, zeroPoint } = this.#scaleOf(value);
    const parts = [
      piece.keep(tensor(piece.name('/scale'), 'FP32', [], Float32Array.of(scale))),
      piece.keep(tensor(piece.name('/zero'), 'UINT8', [], Uint8Array.of(zeroPoint))),
    ];
    const bytes = piece.op(into, 'QuantizeLinear', [value, ...parts]);
    this.#behind.set(value, piece.op(into, 'DequantizeLinear', [bytes, ...parts]));
  }

  /** A node as it is, reading behind the pairs where its place allows it. */
  rewired(one: OnnxNode): OnnxNode {
    const input = one.input.map((name) => (this.#flow.reads(one, name) ? (this.#behind.get(name) ?? name) : name));
    return { ...one, input };
  }

  /** The node on dequantised weights and bias; null where its bias does not fit. */
  around(into: OnnxNode[], { node, weights, dims, axis, bias }: Candidate, { scale }: ByteScale): OnnxNode | null {
    const biases = bias && quantiseBias(bias, scale, weights.scales);
    if (bias !== null && biases === null) return null;
    const [input = ''] = node.input;
    const parts = [this.#behind.get(input) ?? input, this.#constant(into, 'INT8', dims, axis, weights)];
    if (biases !== null) parts.push(this.#constant(into, 'INT32', [biases.integers.length], 0, biases));
    const attribute = node.attribute.filter(({ name }) => name !== 'alpha' && name !== 'beta');
    return { ...node, input: parts, attribute };
  }

  #constant(
    into: OnnxNode[],
    datatype: 'INT8' | 'INT32',
    dims: readonly number[],
    axis: number,
    { integers, scales }: { integers: Int8Array | Int32Array; scales: Float32Array },
  ): string {
    const piece = this.#piece;
    const zeros = datatype === 'INT8' ? new Int8Array(scales.length) : new Int32Array(scales.length);
    const parts = [
      piece.keep(tensor(piece.name('/weight'), datatype, dims, integers)),
      piece.keep(tensor(piece.name('/scale'), 'FP32', [scales.length], scales)),
      piece.keep(tensor(piece.name('/zero'), datatype, [scales.length], zeros)),
    ];
    return piece.op(into, 'DequantizeLinear', parts, { axis });
  }
}
