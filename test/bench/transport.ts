/** The frames between server and runner beside `process.send` with structured clones: one tensor there and back, to a process that runs nothing. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FRAME, frameReader, packTensors, unpackTensors, writeSoon } from '../../src/inference/frames.ts';
import { type Figure, ratios } from './figure.ts';
import { type Effort, median } from './sides.ts';

const SIZES = [4 * 1024, 600 * 1024];
const IN_FLIGHT = [1, 32];
const ECHO = new URL('./echo.ts', import.meta.url);

/** Sends a tensor and resolves when it is back. */
type Way = { name: string; trip(data: Uint8Array): Promise<void> };
type Speed = { perSecond: number; p50Ms: number };

export async function transport(effort: Effort): Promise<Figure> {
  await using stack = new AsyncDisposableStack();
  const ways = [await frames(stack), await channel(stack)];
  const speeds = new Map<string, Speed[]>();
  for (let round = 0; round < effort.rounds; round++) {
    for (const way of round % 2 === 1 ? ways.toReversed() : ways) {
      for (const size of SIZES) {
        for (const width of IN_FLIGHT) {
          const key = keyOf(way.name, size, width);
          speeds.set(key, [...(speeds.get(key) ?? []), await speedOf(way, size, width, effort.seconds)]);
        }
      }
    }
  }
  const of = (way: string, size: number, width: number) => speeds.get(keyOf(way, size, width)) ?? [];
  const rates = (way: string, size: number, width: number) => of(way, size, width).map(({ perSecond }) => perSecond);
  const said = (way: string, size: number, width: number) =>
    `${median(rates(way, size, width)).toFixed(0)}/s, p50 ${median(of(way, size, width).map(({ p50Ms }) => p50Ms)).toFixed(3)} ms`;
  return {
    ...{ id: 'FRAMES', what: 'tensors of 4 KiB there and back, 32 in flight : process.send', unit: '×' },
    ...ratios(rates('frames', 4096, 32), rates('process.send', 4096, 32)),
    ours: said('frames', 4096, 32),
    theirs: said('process.send', 4096, 32),
    mark: null,
    goal: { least: 1 },
    notes: SIZES.flatMap((size) =>
      IN_FLIGHT.map(
        (width) =>
          `FRAMES ${size / 1024} KiB, ${width} in flight: frames ${said('frames', size, width)}; process.send ${said('process.send', size, width)}`,
      ),
    ),
  };
}

const keyOf = (way: string, size: number, width: number) => `${way} ${size} ${width}`;

async function speedOf({ trip }: Way, size: number, width: number, seconds: number): Promise<Speed> {
  const data = new Uint8Array(size).fill(7);
  const times: number[] = [];
  const startedMs = performance.now();
  const endMs = startedMs + seconds * 1_000;
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (let sentMs = performance.now(); sentMs < endMs; sentMs = performance.now()) {
        await trip(data);
        times.push(performance.now() - sentMs);
      }
    }),
  );
  return { perSecond: (times.length * 1_000) / (performance.now() - startedMs), p50Ms: median(times) };
}

const tensorOf = (data: Uint8Array) => ({ name: 'x', datatype: 'UINT8' as const, shape: [1, data.length], data });

async function frames(stack: AsyncDisposableStack): Promise<Way> {
  const folder = await mkdtemp(join(tmpdir(), 'mercato-echo-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, 'echo');
  await childOf(stack, [path]);
  const socket = connect(path);
  stack.defer(() => void socket.destroy());
  await once(socket, 'connect');
  const waiting = new Map<number, () => void>();
  let calls = 0;
  const read = frameReader(({ call, head, data }) => {
    unpackTensors((head as { tensors: unknown }).tensors, data);
    waiting.get(call)?.();
    waiting.delete(call);
  });
  socket.on('data', read);
  return {
    name: 'frames',
    trip: (data) =>
      new Promise((resolve) => {
        const call = ++calls;
        waiting.set(call, resolve);
        const { head, chunks } = packTensors([tensorOf(data)]);
        writeSoon(socket, FRAME.call, call, { tensors: head }, chunks);
      }),
  };
}

async function channel(stack: AsyncDisposableStack): Promise<Way> {
  const child = await childOf(stack, []);
  const waiting = new Map<number, () => void>();
  let calls = 0;
  child.on('message', ({ call }: { call: number }) => {
    waiting.get(call)?.();
    waiting.delete(call);
  });
  return {
    name: 'process.send',
    trip: (data) =>
      new Promise((resolve) => {
        const call = ++calls;
        waiting.set(call, resolve);
        child.send({ call, tensors: [tensorOf(data)] });
      }),
  };
}

async function childOf(stack: AsyncDisposableStack, args: string[]): Promise<ChildProcess> {
  const child = fork(ECHO, args, { serialization: 'advanced', execArgv: ['--disable-warning=ExperimentalWarning'] });
  stack.defer(() => void child.kill('SIGKILL'));
  await once(child, 'message');
  return child;
}
