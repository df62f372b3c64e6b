import { type Dim, type Dims, type Info, info, UNKNOWN } from './dims.ts';
import { integersOf } from './elements.ts';
import { functionKey, plainDomain } from './functions.ts';
import type { OnnxGraph, OnnxModel, OnnxNode, OnnxTensor } from './schema.ts';
import { SHAPE_RULES } from './shape-rules.ts';
import { sizesOf } from './sizes.ts';

/** A node with what is known of its inputs. An input that is left out is null. */
export type NodeView = {
  readonly node: OnnxNode;
  /** With its domain in front, where that is not ONNX's own. */
  readonly name: string;
  /** Of the operator's domain. */
  readonly opset: number;
  readonly inputs: readonly (Info | null)[];
  /** The stored constant that an input is, or null. */
  readonly constants: readonly (OnnxTensor | null)[];
};

/** What is known of every value of a main graph. `constants` are stored: initializers and Constant nodes. */
export type Shapes = {
  readonly infos: ReadonlyMap<string, Info>;
  readonly constants: ReadonlyMap<string, OnnxTensor>;
  view(node: OnnxNode): NodeView;
  isCall(node: OnnxNode): boolean;
};

/** The size that a dimension of an input is taken for, by its name (null: it has none), input and axis. */
export type Sizer = (name: string | null, input: number, axis: number) => Dim;

/** Of what nodes read and make: without a bound, few bytes of a file make many, which are held for every value. No model in use comes near. */
const SIZES_MAX = 8_000_000;

/**
 * Follows shapes through the main graph of a model that `checkModel` accepts. What the file says of values inside is not believed: shapes
 * come from the inputs, the constants and the operators alone. A value of an operator without a rule is unknown, and so is what a subgraph or a local
 * function gives. Nodes whose values have more than 8 million sizes in all are followed no further.
 */
export function shapesOf(model: OnnxModel, sizeOf: Sizer): Shapes {
  const { graph } = model;
  const infos = new Map<string, Info>();
  const constants = new Map<string, OnnxTensor>();
  const versions = new Map(model.opsetImport.map(({ domain, version }) => [plainDomain(domain), Number(version ?? 0n)]));
  const calls = new Set(model.functions.map(({ domain, name, overload }) => functionKey(domain, name, overload)));
  const keep = (name: string, tensor: OnnxTensor): void => {
    constants.set(name, tensor);
    infos.set(name, constantInfo(tensor));
  };
  const shapes: Shapes = {
    infos,
    constants,
    isCall: ({ domain, opType, overload }) => calls.size > 0 && calls.has(functionKey(domain, opType, overload)),
    view(node) {
      const domain = plainDomain(node.domain);
      return {
        node,
        name: domain === '' ? (node.opType ?? '') : `${domain}.${node.opType}`,
        opset: versions.get(domain) ?? 0,
        inputs: node.input.map((name) => (name === '' ? null : (infos.get(name) ?? UNKNOWN))),
        constants: node.input.map((name) => constants.get(name) ?? null),
      };
    },
  };
  if (graph !== undefined) follow(graph, sizeOf, shapes, infos, keep);
  return shapes;
}

function follow(
  graph: OnnxGraph,
  sizeOf: Sizer,
  shapes: Shapes,
  infos: Map<string, Info>,
  keep: (name: string, tensor: OnnxTensor) => void,
): void {
  for (const one of graph.initializer) keep(one.name ?? '', one);
  for (const { values, dims } of graph.sparseInitializer) infos.set(values?.name ?? '', info(values?.dataType ?? 0, dims.map(Number)));
  const inputs = graph.input.filter(({ name = '' }) => !infos.has(name));
  for (const [index, { name = '', type }] of inputs.entries()) {
    const dims = type?.tensorType?.shape?.dim.map(({ dimValue, dimParam }, axis): Dim => {
      if (dimValue !== undefined) return Number(dimValue);
      return sizeOf(dimParam === undefined || dimParam === '' ? null : dimParam, index, axis);
    });
    infos.set(name, info(type?.tensorType?.elemType ?? 0, dims ?? null));
  }
  let sizes = 0;
  for (const node of graph.node) {
    const stored = node.opType === 'Constant' ? node.attribute.find(({ t }) => t !== undefined)?.t : undefined;
    const [first = ''] = node.output;
    if (stored !== undefined) {
      keep(first, stored);
      continue;
    }
    const view = shapes.view(node);
    sizes += sizesIn(view);
    if (sizes > SIZES_MAX) continue;
    for (const [index, one] of resultsOf(view, shapes).entries()) infos.set(node.output[index] ?? '', one);
  }
}

/** Those that a node's inputs have, and that its results may have. */
function sizesIn({ node, inputs }: NodeView): number {
  let [sum, most] = [0, 0];
  for (const one of inputs) {
    const count = (one?.dims?.length ?? 0) + (one?.numbers?.length ?? 0);
    sum += count;
    most = Math.max(most, count);
  }
  return sum + most * node.output.length;
}

function resultsOf(view: NodeView, shapes: Shapes): Info[] {
  const { node } = view;
  const rule = shapes.isCall(node) ? undefined : SHAPE_RULES.get(view.name);
  const results = rule?.(view) ?? [];
  return node.output.map((_, index) => {
    const result = results[index] ?? UNKNOWN;
    return index === 0 && rule !== undefined ? { ...result, numbers: sizesOf(view) } : result;
  });
}

/** Elements are read of short lists and scalars only. */
function constantInfo(tensor: OnnxTensor): Info {
  const dims = tensor.dims.map(Number);
  const numbers: Dims | null = dims.length > 1 ? null : (integersOf(tensor)?.map(Number) ?? null);
  return info(tensor.dataType ?? 0, dims, numbers);
}
