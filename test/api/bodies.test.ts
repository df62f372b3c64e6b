import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { codeOf, startTinyServer, type TinyServer } from '../support/tiny-server.ts';

/** All bodies together have 16 times that, and those of one tenant half of it: 11 of these, and 22 in all. */
const BODY_BYTES_MAX = 100_000;
const BODY = { query: '{ wait }', variables: { text: 'x'.repeat(70_000) } };

let server: TinyServer;
let waiting = 0;
let answered: PromiseWithResolvers<string>;
beforeAll(async () => {
  const wait = () => {
    waiting++;
    return answered.promise;
  };
  server = await startTinyServer(
    { typeDefs: 'type Query { wait: String }', resolvers: { Query: { wait } } },
    { maxBodyBytes: BODY_BYTES_MAX },
  );
});
beforeEach(() => {
  waiting = 0;
  answered = Promise.withResolvers();
});
afterEach(() => answered.resolve(''));
afterAll(() => server[Symbol.asyncDispose]());

/** As many calls that wait for their answer; of a tenant where they have its key. */
async function hold(count: number, headersOf: (index: number) => Record<string, string>): Promise<Promise<string>[]> {
  const before = waiting;
  const calls = Array.from({ length: count }, async (_, index) => codeOf(await server.post(BODY, headersOf(index))));
  await expect.poll(() => waiting).toBe(before + count);
  return calls;
}

/** What a call is answered at once; LET IN where it waits as the others do. */
async function atOnce(headers: Record<string, string>): Promise<string> {
  const before = waiting;
  const letIn = vi.waitUntil(() => waiting > before, { timeout: 20_000 }).then(() => 'LET IN');
  return Promise.race([server.post(BODY, headers).then(codeOf), letIn.catch(() => 'SILENT')]);
}

const known = (index: number) => ({ 'x-api-key': 'good', authorization: `another ${index}` });
const someone = (index: number) => ({ authorization: `someone ${index}` });

test('of one tenant, whatever it sends as credentials, large bodies hold half of the room; others the other half; small ones none', async () => {
  const calls = await hold(11, known);
  expect(await atOnce(known(11))).toBe('OVERLOADED');
  calls.push(...(await hold(11, someone)));
  const full = await server.post(BODY, someone(11));
  expect([full.status, await codeOf(full)]).toEqual([503, 'OVERLOADED']);
  expect(await codeOf(await server.post({ query: '{ __typename }' }, known(0)))).toBe('OK');
  answered.resolve('');
  expect(await Promise.all(calls)).toEqual(Array(22).fill('OK'));
  await expect.poll(async () => codeOf(await server.post(BODY, known(0)))).toBe('OK');
});

test('a body that comes in parts is counted as it comes, and one whose sender has gone holds nothing', async () => {
  const gone = new AbortController();
  const text = JSON.stringify(BODY);
  const send = (key: string, signal: AbortSignal | null = null) => {
    const body = new Blob([text]).stream();
    const headers = { 'content-type': 'application/json', authorization: key };
    return fetch(`${server.url}/graphql`, { method: 'POST', headers, body, duplex: 'half', signal } as RequestInit);
  };
  const calls = Array.from({ length: 11 }, () => send('one', gone.signal).catch(() => null));
  await expect.poll(() => waiting).toBe(11);
  expect((await send('one')).status).toBe(503);
  gone.abort();
  expect(await Promise.all(calls)).toEqual(Array(11).fill(null));
  answered.resolve('');
  await expect.poll(async () => (await send('one')).status).toBe(200);
});

test('what is answered before its body has come holds nothing of it', async () => {
  const { port } = new URL(server.url);
  const body = Buffer.alloc(90_000, 'x');
  const head = (type: string, length: number) =>
    `POST /graphql HTTP/1.1\r\nhost: here\r\ncontent-type: ${type}\r\ncontent-length: ${length}\r\nauthorization: late\r\n\r\n`;
  await Promise.all(
    Array.from({ length: 40 }, async () => {
      const socket = connect(Number(port), '127.0.0.1');
      socket.on('error', () => {});
      socket.write(head('text/plain', body.length));
      const [answer] = (await once(socket, 'data')) as [Buffer];
      expect(answer.toString()).toContain(' 415 ');
      socket.write(body);
      socket.end();
      await once(socket.resume(), 'close');
    }),
  );
  answered.resolve('');
  expect(await codeOf(await server.post(BODY, { authorization: 'late' }))).toBe('OK');
});
