import { createServer, type Socket } from 'node:net';
import { Worker } from 'node:worker_threads';
import { refusalOfSize } from './answer-size.ts';
import { joinKey } from './batch.ts';
import { type Call, Dispatcher, type Refusal } from './dispatcher.ts';
import {
  type CallHead,
  FRAME,
  type Frame,
  frameReader,
  type LoadHead,
  NO_OUTCOMES,
  OUTCOME,
  type Outcomes,
  packTensors,
  type RunnerStats,
  type StartedHead,
  unpackTensors,
  writeFrame,
  writeSoon,
} from './frames.ts';
import { ownMemory } from './own-memory.ts';
import { publicText } from './public-text.ts';
import type { SessionAnswer, SessionOrder } from './session-thread.ts';
import { bytesOf, type Tensor } from './tensor.ts';

/**
 * The process of one loaded version. This thread does the I/O and decides what runs next; the session thread alone touches ONNX Runtime, so
 * this one answers whatever the model does. Argument: the path of the socket to listen on. Standard input is the lifeline: when it closes,
 * the supervisor is gone and the process ends itself. A line on standard output says that it listens and ONNX Runtime is in memory.
 */
const socketPath = process.argv[2] ?? '';

/** How long refusals may take to leave a process that ends itself; a Unix socket takes them at once unless the peer does not read. */
const FAREWELL_MS = 200;

/** A connection of a server process. `begun`: calls in the run that starts now, of which it has yet to be told. */
type Peer = { socket: Socket; calls: Map<number, Call>; begun: StartedHead };

const peers = new Set<Peer>();
const worker = new Worker(new URL('./session-thread.ts', import.meta.url));
const outcomes: Outcomes = { ...NO_OUTCOMES };
let loading: { head: LoadHead; peer: Peer } | null = null;
let dispatcher: Dispatcher | null = null;
/** The supervisor's, once it has said that this process shall end when nobody uses it any more. */
let retiredBy: Peer | null = null;

/** Not by SIGKILL: that is how others end a runner, which is no fault of its model. */
function die(): never {
  process.kill(process.pid, 'SIGALRM');
  throw new Error('unreachable');
}

function send(message: SessionOrder, bytes: readonly Uint8Array[]): void {
  worker.postMessage(message, [...new Set(bytes.map((part) => part.buffer as ArrayBuffer))]);
}

function load(peer: Peer, { head, data }: Frame): void {
  if (loading !== null) throw new RangeError('a runner loads once');
  loading = { head: head as LoadHead, peer };
  const { size, threads, device } = loading.head;
  send({ kind: 'load', model: data.subarray(0, size), threads, device }, [data]);
}

function startRun(batch: number, inputs: readonly Tensor[], outputs: readonly string[] | null): void {
  for (const { socket, begun } of peers) {
    if (begun.calls.length === 0) continue;
    // At once: a run that ends this process must not take the news of its beginning with it.
    writeFrame(socket, FRAME.started, 0, { calls: begun.calls.splice(0), mixed: begun.mixed });
  }
  send(
    { kind: 'run', batch, inputs, outputs },
    inputs.map((input) => input.data),
  );
}

function farewell(): void {
  setTimeout(die, FAREWELL_MS);
  let open = peers.size;
  for (const { socket } of peers) socket.end(() => --open === 0 && die());
}

function accept(peer: Peer, { call: id, head, data }: Frame): void {
  if (dispatcher === null || loading === null) throw new RangeError('a call before the model is loaded');
  const { tenantKey, priority, deadlineMs, rows, outputs, alone, tensors } = head as CallHead;
  const inputs = unpackTensors(tensors, data);
  const arrivedMs = performance.now();
  const { device, joinable } = loading.head;
  const call: Call = {
    tenantKey,
    priority,
    rows,
    inputs,
    outputs,
    bytes: data.length,
    joinKey: joinable && !alone ? joinKey({ rows, inputs, outputs }) : null,
    arrivedMs,
    expiresMs: arrivedMs + deadlineMs,
    begin(mixed) {
      peer.begun.calls.push(id);
      peer.begun.mixed = mixed;
    },
    answer(results, measures) {
      const tooLarge = refusalOfSize(bytesOf(results));
      if (tooLarge !== null) return call.refuse(tooLarge);
      peer.calls.delete(id);
      outcomes.answered++;
      const packed = packTensors(results);
      writeSoon(peer.socket, FRAME.result, id, { ...measures, device, tensors: packed.head }, packed.chunks);
    },
    refuse(refusal: Refusal) {
      peer.calls.delete(id);
      outcomes[OUTCOME[refusal.code]]++;
      writeFrame(peer.socket, FRAME.failed, id, { ...refusal, message: publicText(refusal.message) });
    },
  };
  peer.calls.set(id, call);
  dispatcher.accept(call);
}

function cancel(peer: Peer, id: number): void {
  const call = peer.calls.get(id);
  peer.calls.delete(id);
  if (call !== undefined && dispatcher?.cancel(call)) writeFrame(peer.socket, FRAME.forgotten, id, {});
}

function stats(): RunnerStats {
  const idle = { queued: 0, running: 0, idleSinceMs: null, busyMs: 0, queueMs: 0, runMs: 0 };
  return { ...(dispatcher?.load ?? idle), ...outcomes, ...ownMemory() };
}

/** Peers leave when their calls are answered, and the last one takes this process along. */
function retire(by: Peer): void {
  if (retiredBy !== null) return;
  retiredBy = by;
  server.close();
  for (const peer of peers) if (peer !== by) writeFrame(peer.socket, FRAME.leaving, 0, {});
  endWhenLeft();
}

function endWhenLeft(): void {
  if (retiredBy !== null && [...peers].every((peer) => peer === retiredBy)) die();
}

function handle(peer: Peer, frame: Frame): void {
  if (frame.kind === FRAME.call) accept(peer, frame);
  else if (frame.kind === FRAME.cancel) cancel(peer, frame.call);
  else if (frame.kind === FRAME.ping) writeFrame(peer.socket, FRAME.pong, 0, stats());
  else if (frame.kind === FRAME.retire) retire(peer);
  else if (frame.kind === FRAME.load) load(peer, frame);
  else throw new RangeError(`a frame of kind ${frame.kind}`);
}

const server = createServer((socket) => {
  const peer: Peer = { socket, calls: new Map(), begun: { calls: [], mixed: false } };
  peers.add(peer);
  const read = frameReader((frame) => handle(peer, frame));
  // It was connecting when this process was told to end.
  if (retiredBy !== null) writeFrame(socket, FRAME.leaving, 0, {});
  socket.on('data', (chunk) => {
    try {
      read(chunk);
    } catch (error) {
      socket.destroy(error instanceof Error ? error : new Error(String(error)));
    }
    // After the whole chunk: calls that arrive together run together, and an idle session still gets them at once.
    dispatcher?.dispatch();
  });
  socket.on('error', () => {});
  socket.on('close', () => {
    peers.delete(peer);
    for (const call of peer.calls.values()) dispatcher?.cancel(call);
    endWhenLeft();
  });
});

worker.on('message', (answer: SessionAnswer) => {
  if (answer.kind === 'ready') {
    server.listen(socketPath, () => process.stdout.write('ready\n'));
  } else if (answer.kind === 'loaded' && loading !== null) {
    const { head, peer } = loading;
    dispatcher = new Dispatcher(head, { run: startRun, die: farewell });
    writeFrame(peer.socket, FRAME.loaded, 0, answer.loaded);
  } else if (answer.kind === 'ran') {
    dispatcher?.ran(answer.batch, answer.outputs, answer.runMs);
  } else if (answer.kind === 'failed' && answer.batch !== null) {
    dispatcher?.failed(answer.batch, answer.message);
  } else if (answer.kind === 'failed' && loading !== null) {
    writeFrame(loading.peer.socket, FRAME.failed, 0, { code: 'MODEL_FAILED', message: publicText(answer.message) });
  }
});
worker.on('error', die);
worker.on('exit', die);

// Ctrl-C and service managers signal the whole group; calls in flight finish first, and the supervisor ends this process when it is done.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
process.stdin.on('close', die);
process.stdin.resume();
