import type { RandomState } from './random.ts';
import type { Floats } from './sequential.ts';

/** Everything that the rest of a run follows from. `best` holds the weights of the best epoch so far where a run may stop early. */
export type Checkpoint = {
  epoch: number;
  step: number;
  orders: RandomState;
  masks: RandomState;
  state: ReadonlyMap<string, Floats>;
  best: Best | null;
};

export type Best = { epoch: number; loss: number; state: ReadonlyMap<string, Floats> };

type Head = Omit<Checkpoint, 'state' | 'best'> & {
  /** What the run was asked for: another cannot go on from here. */
  plan: string;
  precision: 32 | 64;
  tensors: [name: string, size: number][];
  best: { epoch: number; loss: number; tensors: [name: string, size: number][] } | null;
};

const MAGIC = 0x4d_43_4b_31;
const encoder = new TextEncoder();

/** Magic number, length of the head, head as JSON, then all tensors, little-endian as they stand in memory. */
export function encodeCheckpoint({ state, best, ...rest }: Checkpoint, plan: string): Uint8Array {
  const tensors = [...state, ...(best?.state ?? [])].map(([, values]) => values);
  const sizes = (of: ReadonlyMap<string, Floats>) => [...of].map(([name, values]): [string, number] => [name, values.length]);
  const head: Head = {
    ...rest,
    plan,
    precision: tensors[0] instanceof Float64Array ? 64 : 32,
    tensors: sizes(state),
    best: best && { epoch: best.epoch, loss: best.loss, tensors: sizes(best.state) },
  };
  const text = encoder.encode(JSON.stringify(head));
  const bytes = new Uint8Array(8 + text.length + tensors.reduce((sum, one) => sum + one.byteLength, 0));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC);
  view.setUint32(4, text.length);
  bytes.set(text, 8);
  let at = 8 + text.length;
  for (const one of tensors) {
    bytes.set(new Uint8Array(one.buffer, one.byteOffset, one.byteLength), at);
    at += one.byteLength;
  }
  return bytes;
}

/** Errors: RangeError for bytes that are no checkpoint, then for one of another net, data or options, then for one that was cut. */
export function decodeCheckpoint(bytes: Uint8Array, plan: string): Checkpoint {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 8 || view.getUint32(0) !== MAGIC) throw new RangeError('these bytes are no checkpoint');
  const start = 8 + view.getUint32(4);
  const { plan: made, precision, tensors, best, ...rest }: Head = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
  if (made !== plan) throw new RangeError('the checkpoint is of another net, other rows or other options');
  let at = start;
  const read = (list: [string, number][]) =>
    new Map(
      list.map(([name, size]): [string, Floats] => {
        // A copy of its own, also of a Buffer, whose slice is none.
        const part = Uint8Array.from(bytes.subarray(at, at + (size * precision) / 8));
        if (part.length < (size * precision) / 8) throw new RangeError('the checkpoint was cut');
        at += part.length;
        return [name, precision === 64 ? new Float64Array(part.buffer) : new Float32Array(part.buffer)];
      }),
    );
  return { ...rest, state: read(tensors), best: best && { epoch: best.epoch, loss: best.loss, state: read(best.tensors) } };
}
