/** The load, in a process of its own. Reads one order as JSON from standard input, writes what it measured as JSON. */
import { text } from 'node:stream/consumers';
import autocannon from 'autocannon';
import { type LoadOrder, measuredOf } from './load.ts';

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
  const measured = measuredOf(responsesMs, errors + timeouts + mismatches + non2xx, startedMs, before);
  process.stdout.write(JSON.stringify(measured));
});
