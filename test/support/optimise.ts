import { encodeModel, graph, model, node, type OnnxNode, type OnnxTensor, tensor, value } from '../../src/inference/onnx/onnx.ts';
import { createRandom, openSession, Tensor } from '../../src/training/net/net.ts';
import type { Rows } from '../../src/training/optimise/optimise.ts';

/** Uniform in [−size / 2, size / 2), the same ones for the same seed. */
export function uniform(count: number, seed: number, size = 1): Float32Array {
  const random = createRandom(seed);
  return Float32Array.from({ length: count }, () => (random.uniform() - 0.5) * size);
}

/** A model of FP32 rows [N, …dims] to `y` [N, …out]. */
export function modelOf(
  dims: readonly number[],
  out: readonly number[],
  nodes: readonly OnnxNode[],
  initializers: readonly OnnxTensor[],
  opset = 17,
): Uint8Array {
  const inputs = [value('x', 'FP32', ['N', ...dims])];
  return encodeModel(model(graph({ name: 'g', nodes, inputs, outputs: [value('y', 'FP32', ['N', ...out])], initializers }), { opset }));
}

/** Dense 64 → 48 with ReLU → 32, with biases, on signed input. */
export function denseModel(opset = 17): Uint8Array {
  const nodes = [node('Gemm', ['x', 'w1', 'b1'], ['l']), node('Relu', ['l'], ['h']), node('Gemm', ['h', 'w2', 'b2'], ['y'], { transB: 1 })];
  const weights = [
    tensor('w1', 'FP32', [64, 48], uniform(64 * 48, 1)),
    tensor('b1', 'FP32', [48], uniform(48, 2)),
    tensor('w2', 'FP32', [32, 48], uniform(48 * 32, 3)),
    tensor('b2', 'FP32', [32], uniform(32, 4)),
  ];
  return modelOf([64], [32], nodes, weights, opset);
}

/** Pictures 1×12×12: Conv, ReLU, MaxPool, Conv, ReLU, Flatten, Gemm 10. */
export function convModel(): Uint8Array {
  const nodes = [
    node('Conv', ['x', 'k1', 'c1'], ['a'], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] }),
    node('Relu', ['a'], ['ar']),
    node('MaxPool', ['ar'], ['p'], { kernel_shape: [2, 2], strides: [2, 2] }),
    node('Conv', ['p', 'k2', 'c2'], ['b'], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] }),
    node('Relu', ['b'], ['br']),
    node('Flatten', ['br'], ['f']),
    node('Gemm', ['f', 'w', 'wb'], ['y']),
  ];
  const weights = [
    tensor('k1', 'FP32', [8, 1, 3, 3], uniform(72, 1)),
    tensor('c1', 'FP32', [8], uniform(8, 2)),
    tensor('k2', 'FP32', [8, 8, 3, 3], uniform(576, 3)),
    tensor('c2', 'FP32', [8], uniform(8, 4)),
    tensor('w', 'FP32', [288, 10], uniform(2880, 5)),
    tensor('wb', 'FP32', [10], uniform(10, 6)),
  ];
  return modelOf([1, 12, 12], [10], nodes, weights);
}

/** Rows for `x`, of the same size each. */
export function rowsOf(dims: readonly number[], rows = 64): Rows {
  const size = dims.reduce((product, dim) => product * dim, 1);
  const values = uniform(rows * size, 9, 2);
  return { rows, feeds: (from, to) => ({ x: new Tensor('float32', values.slice(from * size, to * size), [to - from, ...dims]) }) };
}

/** The output `y` for rows of `x`. */
export async function answers(bytes: Uint8Array, x: Float32Array, dims: readonly number[]): Promise<Float32Array> {
  const session = await openSession(bytes);
  try {
    const { y } = await session.run({ x: new Tensor('float32', x, dims) });
    return y?.data as Float32Array;
  } finally {
    await session.release();
  }
}

/** The largest |a − b| over the largest |a|. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [worst, largest] = [a.length === b.length ? 0 : Number.POSITIVE_INFINITY, 0];
  for (let at = 0; at < a.length; at++) {
    worst = Math.max(worst, Math.abs((a[at] ?? 0) - (b[at] ?? 0)));
    largest = Math.max(largest, Math.abs(a[at] ?? 0));
  }
  return worst === 0 ? 0 : worst / largest;
}
