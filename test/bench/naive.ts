/**
 * The baseline of P4 and P12: each request is decoded and run alone, in this process, by a session that the first request loads.
 * Arguments: the model file, the input's datatype, intra-op threads (0: ONNX Runtime's own choice).
 */
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { serve } from './apollo.ts';

const [path = '', datatype, threads = '1'] = process.argv.slice(2);
let loading: Promise<InferenceSession> | null = null;

function load(): Promise<InferenceSession> {
  loading ??= InferenceSession.create(path, { intraOpNumThreads: Number(threads) });
  return loading;
}

function tensorOf({ shape, data }: { shape: number[]; data: string }): Tensor {
  const bytes = Uint8Array.from(Buffer.from(data, 'base64'));
  if (datatype === 'UINT8') return new Tensor('uint8', bytes, shape);
  return new Tensor('float32', new Float32Array(bytes.buffer), shape);
}

await serve(async ({ input }) => {
  const session = await load();
  const feeds = Object.fromEntries(input.inputs.map((one) => [one.name, tensorOf(one)]));
  const results = await session.run(feeds, input.outputs);
  const outputs = Object.entries(results).map(([name, { data }]) => ({ name, data: Array.from(data as Iterable<unknown>, String) }));
  return { prediction: { outputs, usage: { units: input.inputs[0]?.shape[0] ?? 1 } } };
});
