/** The load, in a process of its own. Reads one order as JSON from standard input, writes what it measured as JSON. */
import { text } from 'node:stream/consumers';
import autocannon from 'autocannon';
import type { LoadOrder, Measured } from './load.ts';

const { url, headers, body, connections, seconds }: LoadOrder = JSON.parse(await text(process.stdin));
const responsesMs: number[] = [];
const before = process.cpuUsage();
const startedMs = performance.now();
const instance = autocannon({
  url,
  method: 'POST',
  headers: { 'content-type': 'application/json', ...headers },
  body,
  connections,
  duration: seconds,
  timeout: 60,
  verifyBody: (answer) => answer.startsWith('{"data":{'),
});
instance.on('response', (_client, _status, _bytes, responseMs) => responsesMs.push(responseMs));
instance.on('done', ({ errors, timeouts, mismatches, non2xx }) => {
  const elapsed = (performance.now() - startedMs) / 1000;
  const { user, system } = process.cpuUsage(before);
  responsesMs.sort((a, b) => a - b);
  const at = (share: number) => responsesMs[Math.min(responsesMs.length - 1, Math.floor(responsesMs.length * share))] ?? Number.NaN;
  const measured: Measured = {
    requests: responsesMs.length,
    perSecond: responsesMs.length / elapsed,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    failed: errors + timeouts + mismatches + non2xx,
    senderSeconds: (user + system) / 1e6,
  };
  process.stdout.write(JSON.stringify(measured));
});
