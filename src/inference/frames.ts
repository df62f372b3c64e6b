import type { Socket } from 'node:net';
import { elementCount, elementSize, isDatatype, type Tensor } from './tensor.ts';

/**
 * What passes between a server process and a runner. A frame is 16 bytes (u32 little-endian: length of the rest, kind, call, length of the
 * head), the head as JSON padded to a multiple of 8, then bytes: a model file or tensors, each starting at a multiple of 8, so that
 * the reader sees them as typed arrays without a copy.
 */
export const FRAME = {
  /** To the runner. */
  load: 1,
  call: 2,
  cancel: 3,
  ping: 4,
  /** Takes no new peer from now on; ends when every other peer has left. */
  retire: 5,
  /** From the runner. */
  loaded: 16,
  started: 17,
  result: 18,
  failed: 19,
  pong: 20,
  /** Send no further call here; those that are under way are answered. */
  leaving: 21,
  /** A call that was cancelled had not begun, and will not. */
  forgotten: 22,
} as const;

/** A model of `LIMITS.modelBytesMax` and its head fit; a peer that announces more is cut off. */
export const FRAME_BYTES_MAX = 513 * 1024 * 1024;
/** Below this one copied write is cheaper than several. */
const COPIED_WRITE_BYTES = 64 * 1024;
const PREFIX_BYTES = 16;
const padding = new Uint8Array(8);

/** Head of `load`; the file follows. `size`: of the file in bytes. */
export type LoadHead = {
  size: number;
  device: string;
  threads: number;
  joinable: boolean;
  shared: boolean;
  maxBatchRows: number;
  fixedRows: number | null;
  runLimitMs: number;
};
/** Head of `call`; the inputs follow. `deadlineMs` remains when the frame is sent; `outputs` null: all. */
export type CallHead = {
  tenantKey: string;
  priority: number;
  deadlineMs: number;
  rows: number;
  outputs: readonly string[] | null;
  /** Shares no run with another call. */
  alone: boolean;
  tensors: TensorHead[];
};
/** Head of `started`. `mixed`: calls of several tenants share the run. */
export type StartedHead = { calls: number[]; mixed: boolean };

/** Calls that were answered, and that failed: with OVERLOADED, DEADLINE_EXCEEDED, MODEL_FAILED. */
export type Outcomes = { answered: number; overloaded: number; late: number; failed: number };

export const NO_OUTCOMES: Outcomes = { answered: 0, overloaded: 0, late: 0, failed: 0 };
/** What a call with an error of this code counts as. */
export const OUTCOME = { OVERLOADED: 'overloaded', DEADLINE_EXCEEDED: 'late', MODEL_FAILED: 'failed' } as const;

/** Head of `pong`. `idleSinceMs`: when the last call ended, by `hostMs`; null: not idle, or not known; `busyMs`: run time so far; `queueMs`, `runMs`: of late, weighted means. `memoryBytes`, `peakBytes`: as of `OwnMemory`. */
export type RunnerStats = Outcomes & {
  queued: number;
  running: number;
  idleSinceMs: number | null;
  busyMs: number;
  queueMs: number;
  runMs: number;
  memoryBytes: number;
  peakBytes: number;
};

/** Of a runner that has told nothing yet. */
export const NO_STATS: RunnerStats = {
  ...{ ...NO_OUTCOMES, queued: 0, running: 0 },
  ...{ idleSinceMs: null, busyMs: 0, queueMs: 0, runMs: 0, memoryBytes: 0, peakBytes: 0 },
};

/** The monotonic clock that all processes of a host share, in milliseconds. */
export const hostMs = (): number => Number(process.hrtime.bigint()) / 1e6;

export type Frame = { kind: number; call: number; head: unknown; data: Uint8Array };
export type TensorHead = { name: string; datatype: string; shape: readonly number[]; size: number };

/** Sends a frame now, after those that wait. */
export function writeFrame(socket: Socket, kind: number, call: number, head: object, chunks: readonly Uint8Array[] = []): void {
  release(socket);
  const small = smallFrame(kind, call, head, chunks);
  if (small !== null) {
    socket.write(small);
    return;
  }
  const text = JSON.stringify(head);
  const start = PREFIX_BYTES + aligned(Buffer.byteLength(text));
  socket.cork();
  socket.write(prefixed(Buffer.alloc(start), kind, call, text, sizeOf(start, chunks)));
  for (const chunk of chunks) {
    socket.write(chunk);
    socket.write(padding.subarray(0, aligned(chunk.length) - chunk.length));
  }
  socket.uncork();
}

/** A frame in one buffer; null where copying its chunks would cost more than sending them one by one. */
function smallFrame(kind: number, call: number, head: object, chunks: readonly Uint8Array[]): Buffer | null {
  if (sizeOf(0, chunks) > COPIED_WRITE_BYTES) return null;
  const text = JSON.stringify(head);
  const start = PREFIX_BYTES + aligned(Buffer.byteLength(text));
  const size = sizeOf(start, chunks);
  const frame = prefixed(Buffer.alloc(size), kind, call, text, size);
  let offset = start;
  for (const chunk of chunks) {
    frame.set(chunk, offset);
    offset += aligned(chunk.length);
  }
  return frame;
}

function sizeOf(start: number, chunks: readonly Uint8Array[]): number {
  return chunks.reduce((sum, chunk) => sum + aligned(chunk.length), start);
}

function prefixed(frame: Buffer, kind: number, call: number, text: string, size: number): Buffer {
  frame.writeUInt32LE(size - PREFIX_BYTES, 0);
  frame.writeUInt32LE(kind, 4);
  frame.writeUInt32LE(call, 8);
  frame.writeUInt32LE(frame.write(text, PREFIX_BYTES), 12);
  return frame;
}

/** Small frames that wait for the end of this turn of the event loop, by socket. */
const waiting = new WeakMap<Socket, Buffer[]>();

/**
 * Sends a frame with the others of this turn of the event loop: calls that come or end together leave in one system call, which costs more
 * than making the frame; and in one piece, since the kernel takes its time for each of many (2.6 ms for 64 of 1 KB, 2 cores, November 2026).
 */
export function writeSoon(socket: Socket, kind: number, call: number, head: object, chunks: readonly Uint8Array[] = []): void {
  const frame = smallFrame(kind, call, head, chunks);
  if (frame === null) {
    release(socket);
    writeFrame(socket, kind, call, head, chunks);
    return;
  }
  const frames = waiting.get(socket);
  if (frames) {
    frames.push(frame);
    return;
  }
  waiting.set(socket, [frame]);
  setImmediate(() => release(socket));
}

/** Sends what waits. */
export function release(socket: Socket): void {
  const frames = waiting.get(socket);
  if (frames === undefined) return;
  waiting.delete(socket);
  const [first] = frames;
  socket.write(frames.length === 1 && first ? first : Buffer.concat(frames));
}

function aligned(size: number): number {
  return (size + 7) & ~7;
}

/** Tensors as a frame carries them: `head` describes `chunks`. */
export function packTensors(tensors: readonly Tensor[]): { head: TensorHead[]; chunks: Uint8Array[] } {
  return {
    head: tensors.map(({ name, datatype, shape, data }) => ({ name, datatype, shape, size: data.length })),
    chunks: tensors.map((tensor) => tensor.data),
  };
}

/** The tensors of a frame, sharing its bytes. RangeError where head and bytes do not agree. */
export function unpackTensors(head: unknown, data: Uint8Array): Tensor[] {
  if (!Array.isArray(head)) throw new RangeError('a frame without tensors');
  let offset = 0;
  return head.map((described: Partial<TensorHead>) => {
    const { name, datatype, shape, size } = described;
    const valid = typeof name === 'string' && isDatatype(datatype) && isShape(shape) && isSize(size) && offset + size <= data.length;
    if (!valid) throw new RangeError('a frame with a malformed tensor');
    const bytes = elementSize(datatype);
    if (bytes !== null && elementCount(shape) * bytes !== size)
      throw new RangeError('a frame with a tensor of another size than its shape');
    const tensor = { name, datatype, shape, data: data.subarray(offset, offset + size) };
    offset += aligned(size);
    return tensor;
  });
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

function isShape(value: unknown): value is number[] {
  return Array.isArray(value) && value.every(isSize);
}

/**
 * Returns the consumer of a connection's bytes: it calls `take` for each frame as soon as that is whole. The bytes of a frame are its own
 * buffer, which may be transferred to a thread. RangeError or SyntaxError where the peer does not keep to the format, or announces a frame of more than
 * `bytesMax`: cut it off then.
 */
export function frameReader(take: (frame: Frame) => void, bytesMax = FRAME_BYTES_MAX): (chunk: Uint8Array) => void {
  const prefix = Buffer.alloc(PREFIX_BYTES);
  let body: Uint8Array | null = null;
  let filled = 0;
  return (chunk) => {
    let offset = 0;
    while (offset < chunk.length) {
      const target: Uint8Array = body ?? prefix;
      const part = chunk.subarray(offset, offset + target.length - filled);
      target.set(part, filled);
      filled += part.length;
      offset += part.length;
      if (filled < target.length) return;
      filled = 0;
      if (body === null) {
        // Not zeroed: the frame is taken when it is filled. Of no pool: a thread may take the buffer over.
        body = new Uint8Array(Buffer.allocUnsafeSlow(bodySize(prefix, bytesMax)).buffer);
      } else {
        const frame = parse(prefix, body);
        body = null;
        take(frame);
      }
    }
  };
}

function bodySize(prefix: Buffer, bytesMax: number): number {
  const size = prefix.readUInt32LE(0);
  if (size === 0 || size > bytesMax) throw new RangeError(`a frame of ${size} bytes`);
  return size;
}

function parse(prefix: Buffer, body: Uint8Array): Frame {
  const headBytes = prefix.readUInt32LE(12);
  const start = aligned(headBytes);
  if (start > body.length) throw new RangeError('a frame shorter than its head');
  const text = Buffer.from(body.buffer, body.byteOffset, headBytes).toString();
  return { kind: prefix.readUInt32LE(4), call: prefix.readUInt32LE(8), head: JSON.parse(text), data: body.subarray(start) };
}
