import type { Socket } from 'node:net';
import { PassThrough } from 'node:stream';
import { describe, expect, test } from 'vitest';
import { FRAME, FRAME_BYTES_MAX, type Frame, frameReader, packTensors, unpackTensors, writeFrame } from '../../src/inference/frames.ts';
import { decodeBytes, encodeBytes, joinRows, splitRows, type Tensor } from '../../src/inference/tensor.ts';
import { floats } from './setup.ts';

/** The bytes of frames, as a socket would carry them. */
async function wire(write: (socket: Socket) => void): Promise<Buffer> {
  const stream = new PassThrough({ highWaterMark: 64 * 1024 * 1024 });
  write(stream as unknown as Socket);
  stream.end();
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function readIn(bytes: Buffer, step: number): Frame[] {
  const frames: Frame[] = [];
  const read = frameReader((frame) => frames.push(frame));
  for (let offset = 0; offset < bytes.length; offset += step) read(bytes.subarray(offset, offset + step));
  return frames;
}

const texts: Tensor = { name: 'ü', datatype: 'BYTES', shape: [3], data: encodeBytes(['', 'ä€😀', 'x']) };
const empty: Tensor = { name: 'none', datatype: 'FP64', shape: [0, 5], data: new Uint8Array() };

describe('frames', () => {
  test('arrive as they were sent, however the bytes are cut', async () => {
    const tensors = [texts, empty, floats([3], [1, Number.NaN, Number.POSITIVE_INFINITY])];
    const packed = packTensors(tensors);
    const bytes = await wire((socket) => {
      writeFrame(socket, FRAME.ping, 0, {});
      writeFrame(socket, FRAME.call, 7, { tensors: packed.head, text: 'ß' }, packed.chunks);
    });
    for (const step of [1, 3, 16, 17, bytes.length]) {
      const [ping, call] = readIn(bytes, step);
      if (call === undefined) throw new Error('a frame is missing');
      expect(ping).toMatchObject({ kind: FRAME.ping, call: 0, head: {} });
      expect(call).toMatchObject({ kind: FRAME.call, call: 7, head: { text: 'ß' } });
      const read = unpackTensors((call.head as { tensors: unknown }).tensors, call.data);
      expect(read).toEqual(tensors);
      expect(read.map(({ data }) => data.byteOffset % 8)).toEqual([0, 0, 0]);
    }
  });

  test('of many kilobytes are written without a copy and arrive the same', async () => {
    const large: Tensor = { name: 'x', datatype: 'UINT8', shape: [100_003], data: new Uint8Array(100_003).fill(7) };
    const packed = packTensors([large, texts]);
    const [frame] = readIn(await wire((socket) => writeFrame(socket, FRAME.call, 1, packed.head, packed.chunks)), 65_536);
    expect(unpackTensors(frame?.head, frame?.data ?? new Uint8Array())).toEqual([large, texts]);
  });

  test('that break the format are refused', () => {
    const prefix = (length: number, head: number) => Buffer.from(new Uint32Array([length, FRAME.call, 1, head]).buffer);
    const read = frameReader(() => {});
    expect(() => read(prefix(FRAME_BYTES_MAX + 1, 0))).toThrow(RangeError);
    expect(() => frameReader(() => {})(prefix(0, 0))).toThrow(RangeError);
    expect(() => frameReader(() => {})(Buffer.concat([prefix(8, 99), Buffer.alloc(8)]))).toThrow(RangeError);
    expect(() => frameReader(() => {})(Buffer.concat([prefix(8, 4), Buffer.from('nope0000')]))).toThrow(SyntaxError);
  });

  test('whose tensors do not agree with their bytes are refused', () => {
    const head = { name: 'x', datatype: 'FP32', shape: [2], size: 8 };
    const faults = [
      { size: 4 },
      { size: 16 },
      { size: -8 },
      { shape: [-2] },
      { shape: [3] },
      { datatype: 'FP8' },
      { name: 1 },
      { shape: 'x' },
    ];
    expect(unpackTensors([head], new Uint8Array(8))).toHaveLength(1);
    for (const fault of faults) expect(() => unpackTensors([{ ...head, ...fault }], new Uint8Array(8))).toThrow(RangeError);
  });
});

describe('rows', () => {
  test('are cut exactly and joined to the same tensor, elements of any length too', () => {
    const words: Tensor = { name: 'w', datatype: 'BYTES', shape: [3, 2], data: encodeBytes(['', 'a', 'bc', 'def', 'ä', '€€']) };
    for (const tensor of [words, floats([3, 2], [1, 2, 3, 4, 5, 6])]) {
      const parts = splitRows(tensor, [1, 0, 2]);
      expect(parts.map(({ shape }) => shape)).toEqual([
        [1, 2],
        [0, 2],
        [2, 2],
      ]);
      expect(joinRows(parts)).toEqual(tensor);
    }
    const last = splitRows(words, [2, 1])[1];
    expect(decodeBytes(last?.data ?? new Uint8Array(), 2)).toEqual(['ä', '€€']);
  });

  test('of BYTES that pass the end of their tensor, leave some over or are no UTF-8 are refused', () => {
    const whole = encodeBytes(['ab', 'c']);
    expect(() => decodeBytes(whole.subarray(0, -1), 2)).toThrow(RangeError);
    expect(() => decodeBytes(whole, 1)).toThrow(RangeError);
    expect(() => decodeBytes(Uint8Array.of(1, 0, 0, 0, 0xff), 1)).toThrow(TypeError);
    expect(() => splitRows({ name: 'x', datatype: 'BYTES', shape: [1], data: Uint8Array.of(9, 0, 0, 0) }, [1])).toThrow(RangeError);
  });
});
