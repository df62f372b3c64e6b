/** A process that runs one model by ONNX Runtime itself, without Mercato's protocol around it: files of a case's model and inputs in, outputs as JSON out. */
import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import type { SessionAnswer, SessionOrder } from '../../src/inference/session-thread.ts';
import { readTensor } from './cases.ts';

const [model = '', ...rest] = process.argv.slice(2);
const inputs = rest.map((pair) => {
  const [name = '', file = ''] = pair.split('=');
  return readTensor(readFileSync(file), name);
});
const worker = new Worker(new URL('../../src/inference/session-thread.ts', import.meta.url));
const orders: SessionOrder[] = [
  { kind: 'load', model: new Uint8Array(readFileSync(model)), threads: 1, device: 'cpu' },
  { kind: 'run', batch: 1, inputs, outputs: null },
];
worker.on('message', (answer: SessionAnswer) => {
  if (answer.kind === 'ran') {
    process.stdout.write(JSON.stringify(answer.outputs.map(({ name, data }) => [name, Buffer.from(data).toString('base64')])));
    process.exit(0);
  }
  if (answer.kind === 'failed') process.exit(1);
  worker.postMessage(orders.shift());
});
