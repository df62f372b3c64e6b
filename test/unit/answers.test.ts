import { once } from 'node:events';
import { type ClientRequest, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import type { Database } from '../../src/base/database.ts';
import { LIMITS } from '../../src/base/limits.ts';
import { createLog } from '../../src/base/log.ts';
import { Call } from '../../src/graphql/call.ts';
import { Answers } from '../../src/prediction/answers.ts';

const bytes = (count: number) => [{ name: 'y', datatype: 'UINT8', shape: [count], data: new Uint8Array(count) }] as const;
/** Nothing is read. */
const NO_DATABASE = null as unknown as Database;
const BASE64 = { json: 0, base64: 1 };

test('answers that nobody has read refuse further large ones until one has left, and no small one', () => {
  const answers = new Answers();
  const large = bytes(LIMITS.answerBytes);
  const half = Math.floor(LIMITS.answersBytes / 2 / LIMITS.answerBytes);
  const overloaded = expect.objectContaining({ code: 'OVERLOADED', data: { rule: 'UNREAD_ANSWERS', retryAfterMs: 1_000 } });
  const leaves = Array.from({ length: half }, () => answers.admit('one', large, BASE64));
  expect(() => answers.admit('one', large, BASE64)).toThrow(overloaded);
  for (let i = 0; i < half; i++) answers.admit('another', large, BASE64);
  answers.admit('a third', large, BASE64);
  expect(() => answers.admit('a third', bytes(LIMITS.answerBytes), BASE64)).toThrow(overloaded);
  expect(answers.admit('one', bytes(1_000), BASE64)).toBeNull();
  leaves[0]?.();
  expect(answers.admit('a third', large, BASE64)).toBeTypeOf('function');
});

test('outputs that are not written take room of their bytes alone', () => {
  expect(new Answers().admit('one', bytes(LIMITS.answerBytes), { json: 0, base64: 0 })).toBeNull();
});

test.each([
  ['the answer has left', (response: ServerResponse) => void response.end('done')],
  ['the client has left', (_: ServerResponse, client: ClientRequest) => void client.destroy()],
])('the room of an answer is free when %s, and at once where that was before', async (_, over) => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  const { port } = server.address() as AddressInfo;
  const client = request({ port, host: '127.0.0.1' });
  client.on('error', () => {});
  client.on('response', (answer) => answer.resume());
  client.end();
  const [, response] = (await once(server, 'request')) as [IncomingMessage, ServerResponse];
  const call = new Call(NO_DATABASE, createLog('silent'), 'id', null, response);
  let gone = 0;
  call.onGone(() => gone++);
  expect(gone).toBe(0);
  over(response, client);
  await once(response, 'close');
  expect(gone).toBe(1);
  call.onGone(() => gone++);
  expect(gone).toBe(2);
});
