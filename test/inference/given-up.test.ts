import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { connectRunner, type RunnerConnection, type RunnerLost, type RunnerOverran } from '../../src/inference/connection.ts';
import { FRAME, type Frame, frameReader, NO_STATS, writeFrame } from '../../src/inference/frames.ts';

/** A connection to something that speaks as a runner does, and a call on it that was given up. */
async function givenUp(answer: (socket: Socket, frame: Frame) => void) {
  const folder = await mkdtemp(join(tmpdir(), 'mercato-'));
  const server = createServer((socket) => {
    const read = frameReader((frame) => answer(socket, frame));
    socket.on('data', read);
    socket.on('error', () => {});
  });
  await new Promise<void>((resolve) => server.listen(join(folder, 's'), resolve));
  const connection = await connectRunner({ path: join(folder, 's'), device: 'cpu' }, () => {});
  onTestFinished(async () => {
    connection.close();
    server.close();
    await rm(folder, { recursive: true, force: true });
  });
  const leaving = new AbortController();
  const { promise: ended, resolve: onLate } = Promise.withResolvers<Ended>();
  const call = callOf(connection, leaving.signal, onLate);
  leaving.abort();
  await expect(call).rejects.toMatchObject({ code: 'CANCELLED' });
  return { connection, ended };
}

type Ended = RunnerLost | RunnerOverran;

function callOf(connection: RunnerConnection, signal?: AbortSignal, onLate?: (ended: Ended) => void) {
  const request = { tenantKey: 'hostile', priority: 0, outputs: null, alone: false, rows: 1, inputs: [] };
  return connection.call(request, { expiresMs: performance.now() + 60_000, signal, ...(onLate && { onLate }) });
}

test.each([
  ['the run limit', 'MODEL_FAILED', (socket: Socket, id: number) => writeFrame(socket, FRAME.failed, id, overran)],
  ['a crash', 'RunnerLost', (socket: Socket) => socket.end()],
])('a run whose beginning is told after its caller gave up is still told to end by %s', async (_, name, end) => {
  const { connection, ended } = await givenUp((socket, { kind, call }) => {
    if (kind !== FRAME.call) return;
    writeFrame(socket, FRAME.started, 0, { calls: [call], mixed: false });
    end(socket, call);
  });
  const error = await ended;
  expect('code' in error ? error.code : error.name).toBe(name);
  expect(connection.pending).toBe(0);
});
const overran = { code: 'MODEL_FAILED', message: 'The model exceeded its run limit.', fatal: true };

test('a call that was given up before it began is forgotten, and not told of a crash', async () => {
  const { connection } = await givenUp((socket, { kind, call }) => {
    if (kind === FRAME.call) writeFrame(socket, FRAME.forgotten, call, {});
    if (kind === FRAME.ping) writeFrame(socket, FRAME.pong, 0, NO_STATS);
  });
  expect(connection.pending).toBe(1);
  await connection.stats();
  expect(connection.pending).toBe(0);

  const { connection: crashed, ended } = await givenUp((socket, { kind }) => void (kind === FRAME.call && socket.end()));
  void ended.then(() => expect.unreachable('it never began'));
  await expect.poll(() => crashed.pending).toBe(0);
});

test('a runner that forgets a call which somebody waits for is left', async () => {
  const { connection } = await givenUp((socket, { kind, call }) => {
    if (kind === FRAME.call) writeFrame(socket, FRAME.forgotten, call, {});
  });
  await expect(callOf(connection)).rejects.toMatchObject({ name: 'RunnerLost' });
});
