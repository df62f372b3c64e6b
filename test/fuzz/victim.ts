/**
 * A process that loads and runs one model after the other on the session thread of runners, until it dies: what a runner meets, without a new
 * process for each. On standard input a line of JSON per model, on standard output what became of it, and whether the bytes of its argument, in hexadecimal, are in an output.
 */
import { createInterface } from 'node:readline';
import { Worker } from 'node:worker_threads';
import { randomInputs } from '../../src/inference/random-inputs.ts';
import type { SessionAnswer, SessionOrder } from '../../src/inference/session-thread.ts';

const worker = new Worker(new URL('../../src/inference/session-thread.ts', import.meta.url));
const waiting: ((answer: SessionAnswer) => void)[] = [];
worker.on('message', (answer: SessionAnswer) => waiting.shift()?.(answer));
worker.on('error', () => process.exit(70));

const secret = Buffer.from(process.argv[2] ?? '', 'hex');
const answer = () => new Promise<SessionAnswer>((resolve) => waiting.push(resolve));
const order = (given: SessionOrder) => {
  worker.postMessage(given);
  return answer();
};

async function meet(model: Uint8Array): Promise<{ outcome: string; leaks: boolean }> {
  const loaded = await order({ kind: 'load', model, threads: 1, device: 'cpu' });
  if (loaded.kind !== 'loaded') return { outcome: 'NOT_LOADED', leaks: false };
  let leaks = false;
  let outcome = 'NOT_RUN';
  for (const range of [
    { size: 3, wholeMax: 3 },
    { size: 8, wholeMax: 1 },
  ]) {
    const inputs = randomInputs(loaded.loaded.signature, 2, range);
    if (inputs === null) continue;
    const ran = await order({ kind: 'run', batch: 1, inputs, outputs: null });
    if (ran.kind !== 'ran') continue;
    outcome = 'RAN';
    leaks ||= ran.outputs.some(({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength).includes(secret));
  }
  return { outcome, leaks };
}

await answer();
process.stdout.write('ready\n');
for await (const line of createInterface({ input: process.stdin })) {
  const { id, model } = JSON.parse(line) as { id: number; model: string };
  process.stdout.write(`${JSON.stringify({ id, ...(await meet(Buffer.from(model, 'base64'))) })}\n`);
}
process.exit(0);
