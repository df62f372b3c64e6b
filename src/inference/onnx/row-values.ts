import { RANK_MAX } from './dims.ts';
import type { OnnxAttribute, OnnxNode, OnnxTensor } from './schema.ts';

/**
 * What a proof knows of a tensor. ROWS: its first axis is the batch, and a row of it follows from the same row of the inputs alone; `tail` are the other
 * sizes, null where unknown. CONST: it follows from the file alone; `dims` null: of unknown shape; `ints`: its elements, where they are known integers.
 */
export type Known =
  | { kind: 'ROWS'; tail: readonly (number | null)[] }
  | { kind: 'CONST'; dims: readonly number[] | null; ints: readonly number[] | null };

export type Rows = Extract<Known, { kind: 'ROWS' }>;
export type Const = Extract<Known, { kind: 'CONST' }>;

/** Shared, so that no node of a graph takes memory for its rank. */
const BY_RANK = Array.from({ length: RANK_MAX }, (_, tail): Rows => ({ kind: 'ROWS', tail: Array<null>(tail).fill(null) }));

/** Sizes of which nothing is known but how many there are; null where there are more than `RANK_MAX`. */
export function rowsOfRank(rank: number): Rows | null {
  return BY_RANK[rank - 1] ?? null;
}

export const rankOf = ({ tail }: Rows) => tail.length + 1;
export const CONST: Const = { kind: 'CONST', dims: null, ints: null };

/** A longer list of integers is no list of axes. */
const INTS_MAX = 64;

export function constOf(tensor: OnnxTensor): Const {
  const dims = tensor.dims.map(Number);
  const count = dims.reduce((product, size) => product * size, 1);
  return { kind: 'CONST', dims, ints: count <= INTS_MAX ? intsOf(tensor, count) : null };
}

const INT32 = 6;
const INT64 = 7;

function intsOf({ dataType, rawData, int64Data, int32Data }: OnnxTensor, count: number): number[] | null {
  if (dataType !== INT64 && dataType !== INT32) return null;
  if (rawData === undefined) return (dataType === INT64 ? int64Data : int32Data).flatMap(varints).slice(0, count);
  const { buffer } = rawData.slice();
  return Array.from(dataType === INT64 ? new BigInt64Array(buffer) : new Int32Array(buffer), Number);
}

function varints(bytes: Uint8Array): number[] {
  const values: number[] = [];
  let value = 0n;
  let shift = 0n;
  for (const byte of bytes) {
    value |= BigInt(byte & 0x7f) << shift;
    shift += 7n;
    if (byte >= 0x80) continue;
    values.push(Number(BigInt.asIntN(64, value)));
    value = 0n;
    shift = 0n;
  }
  return values;
}

/** A node with what is known of its inputs; undefined: left out. */
export class Application {
  readonly node: OnnxNode;
  readonly inputs: readonly (Known | undefined)[];
  /** Of ONNX's own domain. */
  readonly opset: number;

  constructor(node: OnnxNode, inputs: readonly (Known | undefined)[], opset: number) {
    this.node = node;
    this.inputs = inputs;
    this.opset = opset;
  }

  rows(index: number): Rows | null {
    const input = this.inputs[index];
    return input?.kind === 'ROWS' ? input : null;
  }

  constant(index: number): Const | null {
    const input = this.inputs[index];
    return input?.kind === 'CONST' ? input : null;
  }

  /** Whether the inputs from `index` on are constant or left out. */
  constantFrom(index: number): boolean {
    return this.inputs.slice(index).every((input) => input?.kind !== 'ROWS');
  }

  attribute(name: string): OnnxAttribute | undefined {
    return this.node.attribute.find((one) => one.name === name);
  }

  /** `fallback` where the node has no such attribute; not a number where it has one of another type. */
  int(name: string, fallback: number): number {
    const attribute = this.attribute(name);
    return attribute === undefined ? fallback : Number(attribute.i);
  }

  /** A list by attribute, or by a constant input of newer opsets; null: not given, or not known. */
  ints(name: string, input: number): readonly number[] | null {
    const attribute = this.attribute(name);
    if (attribute !== undefined) return attribute.ints.map(Number);
    return this.constant(input)?.ints ?? null;
  }
}

/** An axis counted from the front; null where it is none of so many. */
export function axisOf(axis: number, rank: number): number | null {
  const positive = axis < 0 ? axis + rank : axis;
  return positive >= 0 && positive < rank ? positive : null;
}

/** Whether there are axes, each is one of `rank`, none is the batch and none is there twice. Of none at all, a runtime takes all or the first. */
export function sparesRows(axes: readonly number[] | null, rank: number): axes is readonly number[] {
  const places = new Set(axes?.map((axis) => axisOf(axis, rank) ?? 0));
  return places.size > 0 && places.size === axes?.length && !places.has(0);
}
