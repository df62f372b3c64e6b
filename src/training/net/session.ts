import { InferenceSession, Tensor } from 'onnxruntime-node';
import { encodeModel, type OnnxModel } from '../../inference/onnx/onnx.ts';

export type Session = Awaited<ReturnType<typeof InferenceSession.create>>;

/**
 * Loads a graph into this process, which `run` then blocks: for commands and tests, never for the server. One thread, so that sums are
 * always added in the same order.
 */
export function openSession(source: OnnxModel | Uint8Array): Promise<Session> {
  const bytes = source instanceof Uint8Array ? source : encodeModel(source);
  return InferenceSession.create(bytes, { executionProviders: ['cpu'], intraOpNumThreads: 1, interOpNumThreads: 1 });
}

/** A tensor in the net's precision. */
export function floats(values: Float32Array | Float64Array, dims: readonly number[]): Tensor {
  return values instanceof Float32Array ? new Tensor('float32', values, dims) : new Tensor('float64', values, dims);
}

export { Tensor };
