/** The baseline of P3 and P5: a loop of `session.run` and nothing else. One order as JSON on standard input; answers what it measured. */
import { text } from 'node:stream/consumers';
import { InferenceSession, Tensor } from 'onnxruntime-node';

/** `batches`: rows of a run, each tried for `seconds`. `dims`: of one row. `threads`: intra-op. */
export type LoopOrder = {
  path: string;
  input: { name: string; datatype: 'UINT8' | 'FP32'; dims: readonly number[] };
  outputs: readonly string[];
  batches: readonly number[];
  threads: number;
  seconds: number;
};
export type LoopMeasured = { batch: number; rowsPerSecond: number; p50Ms: number }[];

const { path, input, outputs, batches, threads, seconds }: LoopOrder = JSON.parse(await text(process.stdin));
const session = await InferenceSession.create(path, { intraOpNumThreads: threads, interOpNumThreads: 1 });
const measured: LoopMeasured = [];
for (const batch of batches) measured.push(await loop(batch));
process.stdout.write(JSON.stringify(measured));

async function loop(batch: number): Promise<LoopMeasured[number]> {
  const size = batch * input.dims.reduce((product, dim) => product * dim, 1);
  const shape = [batch, ...input.dims];
  const tensor =
    input.datatype === 'UINT8'
      ? new Tensor(
          'uint8',
          Uint8Array.from({ length: size }, (_, index) => index % 251),
          shape,
        )
      : new Tensor(
          'float32',
          Float32Array.from({ length: size }, (_, index) => (index % 251) / 251),
          shape,
        );
  const feeds = { [input.name]: tensor };
  for (let warm = 0; warm < 3; warm++) await session.run(feeds, [...outputs]);
  const runsMs: number[] = [];
  const startedMs = performance.now();
  let nowMs = startedMs;
  while (nowMs - startedMs < seconds * 1000) {
    await session.run(feeds, [...outputs]);
    const endedMs = performance.now();
    runsMs.push(endedMs - nowMs);
    nowMs = endedMs;
  }
  runsMs.sort((a, b) => a - b);
  const rowsPerSecond = (runsMs.length * batch) / ((nowMs - startedMs) / 1000);
  return { batch, rowsPerSecond, p50Ms: runsMs[Math.floor(runsMs.length / 2)] ?? Number.NaN };
}
