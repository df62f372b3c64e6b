import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { LIMITS } from '../../src/base/limits.ts';
import { openMarket } from '../support/server.ts';
import { startTinyServer } from '../support/tiny-server.ts';

const typeDefs = 'type Query { hello: String! wait: String! }';
type Context = { signal: AbortSignal; onAnswered(fn: () => void): void };

/** A resolver that waits until told to go on, and tells what it sees. */
function gate() {
  const entered = Promise.withResolvers<Context>();
  const go = Promise.withResolvers<string>();
  const resolvers = {
    Query: {
      hello: () => 'world',
      wait: (_: unknown, __: unknown, context: Context) => {
        entered.resolve(context);
        return go.promise;
      },
    },
  };
  return { entered: entered.promise, goOn: () => go.resolve('done'), resolvers };
}

const request = (query: string) => {
  const body = JSON.stringify({ query });
  return `POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
};
const open = async (url: string): Promise<Socket> => {
  const socket = connect(Number(new URL(url).port), '127.0.0.1').setEncoding('utf8');
  await once(socket, 'connect');
  return socket;
};

it('a drain answers calls in flight, takes no new connection, closes idle ones, and only then ends', async () => {
  const { entered, goOn, resolvers } = gate();
  await using server = await startTinyServer({ typeDefs, resolvers });
  const busy = await open(server.url);
  const idle = await open(server.url);
  idle.write(request('{ hello }'));
  expect((await once(idle, 'data'))[0]).toMatch(/^HTTP\/1\.1 200/);
  const idleClosed = once(idle.resume(), 'close');
  busy.write(request('{ wait }'));
  await entered;

  let drained = false;
  const drain = server.drain().then(() => {
    drained = true;
  });
  await idleClosed;
  await expect(fetch(server.url)).rejects.toThrow();
  expect(drained).toBe(false);

  goOn();
  const [answer] = await once(busy, 'data');
  expect(answer).toMatch(/^HTTP\/1\.1 200/);
  expect(answer).toMatch(/connection: close/i);
  expect(answer).toContain('{"data":{"wait":"done"}}');
  await once(busy.resume(), 'close');
  await drain;
});

it('a client that hangs up aborts the signal of its call, and the callbacks of the answer still run', async () => {
  const { entered, goOn, resolvers } = gate();
  await using server = await startTinyServer({ typeDefs, resolvers });
  const socket = await open(server.url);
  socket.write(request('{ wait }'));
  const context = await entered;
  expect(context.signal.aborted).toBe(false);
  const answered = new Promise<void>((resolve) => context.onAnswered(resolve));
  socket.destroy();
  await once(context.signal, 'abort');
  goOn();
  await answered;
});

it('callbacks of the answer run after it was handed to the socket, and the signal of an answered call is not aborted', async () => {
  const { entered, goOn, resolvers } = gate();
  await using server = await startTinyServer({ typeDefs, resolvers });
  const response = server.post({ query: '{ wait }' });
  const context = await entered;
  const { signal } = context;
  const answered = new Promise<void>((resolve) => context.onAnswered(resolve));
  goOn();
  expect((await response).status).toBe(200);
  await answered;
  await server.drain();
  expect(signal.aborted).toBe(false);
});

it('a drain does not wait for connections that have sent nothing, or half a request', async () => {
  const { entered, goOn, resolvers } = gate();
  await using server = await startTinyServer({ typeDefs, resolvers });
  const silent = await open(server.url);
  const half = await open(server.url);
  half.write('POST /graphql HTTP/1.1\r\nhost: x\r\n');
  const busy = await open(server.url);
  busy.write(request('{ wait }'));
  await entered;
  const closed = Promise.all([silent, half].map((socket) => once(socket.on('error', () => undefined).resume(), 'close')));
  const drain = server.drain();
  await closed;
  goOn();
  expect((await once(busy, 'data'))[0]).toMatch(/^HTTP\/1\.1 200/);
  await drain;
});

it('a drain cuts connections whose call is not done after the longest deadline', async () => {
  const { resolvers } = gate();
  await using server = await startTinyServer({ typeDefs, resolvers });
  const stuck = await open(server.url);
  stuck.write(`${request('{ hello }')}${request('{ hello }').slice(0, -1)}`);
  await once(stuck, 'data');
  const closed = once(stuck.on('error', () => undefined).resume(), 'close');
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  try {
    const drain = server.drain();
    vi.advanceTimersByTime(LIMITS.deadlineMsMax);
    expect(stuck.destroyed).toBe(false);
    vi.advanceTimersByTime(5_000);
    await closed;
    await drain;
  } finally {
    vi.useRealTimers();
  }
});

it('SIGTERM ends the process cleanly while a client is connected that sends nothing', async () => {
  await using market = await openMarket();
  const server = await market.start({ MERCATO_SEED: '0' });
  const silent = await open(server.url);
  silent.on('error', () => undefined).resume();
  expect(await server.kill('SIGTERM')).toBe(0);
});

it('an error during a drain leaves the calls in flight their answers, and the process ends with 1', async () => {
  await using market = await openMarket();
  const told = join(market.dataDir, 'told');
  const fault = `process.on('SIGUSR2', () => {
    Promise.reject(new Error('provoked by the test'));
    setImmediate(() => process.getBuiltinModule('node:fs').writeFileSync(${JSON.stringify(told)}, ''));
  })`;
  const server = await market.start({
    MERCATO_SEED: '0',
    MERCATO_LOG_LEVEL: 'silent',
    NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(fault)}`,
  });
  const socket = await open(server.url);
  const call = request('{ __typename }');
  const first = once(socket, 'data');
  socket.write(`${call}${call.slice(0, -1)}`); // the first answer tells that the second call has begun
  await first;
  const ended = server.kill('SIGTERM');
  await expect
    .poll(() =>
      fetch(server.url).then(
        () => 'taken',
        () => 'refused',
      ),
    )
    .toBe('refused');
  process.kill(server.pid, 'SIGUSR2');
  await expect.poll(() => existsSync(told)).toBe(true);
  socket.write(call.slice(-1));
  expect((await once(socket, 'data'))[0]).toContain('"__typename":"Query"');
  expect(await ended).toBe(1);
});
