import type { OnnxNode } from '../../inference/onnx/onnx.ts';
import { isPlain, type Workpiece } from './workpiece.ts';

/** Operators that hand values on: what goes in has the range of what comes out. */
const HANDS_ON = new Set(['MaxPool', 'Reshape', 'Flatten', 'Transpose', 'Squeeze', 'Unsqueeze', 'Identity']);

/**
 * Which values pass through bytes: value → the value whose range it takes, so that runtimes see equal scales on both sides of a MaxPool.
 */
export type Flow = {
  range: ReadonlyMap<string, string>;
  /** Whether the node reads the value behind its pair. */
  reads(node: OnnxNode, value: string): boolean;
};

/** What the nodes read, and what a Conv gives, behind its ReLU where that alone reads it; outputs of the model stay as they are. */
export function flowOf({ graph, kept }: Workpiece, quantised: readonly OnnxNode[]): Flow {
  const chosen = new Set(quantised);
  const makers = new Map(graph.node.flatMap((one) => one.output.map((name) => [name, one] as const)));
  const readers = new Map<string, OnnxNode[]>();
  for (const one of graph.node) for (const name of one.input) readers.set(name, [...(readers.get(name) ?? []), one]);
  const results = new Set<string>();
  for (const one of quantised) {
    const [output = ''] = one.output;
    const [reader, ...others] = readers.get(output) ?? [];
    const rectified = reader?.opType === 'Relu' && others.length === 0 && !kept.has(output);
    const result = rectified ? (reader.output[0] ?? '') : output;
    if (one.opType === 'Conv' && !kept.has(result)) results.add(result);
  }
  const values = new Set([...quantised.map(({ input }) => input[0] ?? ''), ...results]);
  const range = new Map([...values].map((value) => [value, rootOf(value, makers)] as const));
  return {
    range,
    reads: (one, value) => results.has(value) || chosen.has(one) || (HANDS_ON.has(one.opType ?? '') && one.input[0] === value),
  };
}

function rootOf(value: string, makers: ReadonlyMap<string, OnnxNode>): string {
  const maker = makers.get(value);
  const before = maker !== undefined && isPlain(maker) && HANDS_ON.has(maker.opType ?? '') ? maker.input[0] : undefined;
  return before === undefined || before === '' ? value : rootOf(before, makers);
}
