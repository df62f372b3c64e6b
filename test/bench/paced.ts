/** A load of even pace, in a process of its own: each connection asks again a while after its answer. As `sender.ts`, but that any answer is one. */
import { Agent, request } from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { type LoadOrder, measuredOf } from './load.ts';

const { url, headers, body, connections, seconds, pauseMs = 0 }: LoadOrder = JSON.parse(await text(process.stdin));
const agent = new Agent({ keepAlive: true, maxSockets: connections });
const options = {
  method: 'POST',
  agent,
  headers: { 'content-type': 'application/json', ...headers, 'content-length': Buffer.byteLength(body) },
};
const responsesMs: number[] = [];
let failed = 0;

function ask(): Promise<void> {
  return new Promise((resolve, reject) => {
    const sent = request(url, options, (answer) => answer.resume().once('end', resolve).once('error', reject));
    sent.once('error', reject).end(body);
  });
}

const before = process.cpuUsage();
const startedMs = performance.now();
const endMs = startedMs + seconds * 1_000;
await Promise.all(
  Array.from({ length: connections }, async () => {
    while (performance.now() < endMs) {
      const askedMs = performance.now();
      await ask().catch(() => failed++);
      responsesMs.push(performance.now() - askedMs);
      await sleep(pauseMs);
    }
  }),
);
const measured = measuredOf(responsesMs, failed, startedMs, before);
agent.destroy();
process.stdout.write(JSON.stringify(measured));
