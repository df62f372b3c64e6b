import { storageOf } from './datatypes.ts';
import { type Info, info, product } from './dims.ts';
import { operationsOf } from './operations.ts';
import type { OnnxAttribute, OnnxGraph, OnnxModel, OnnxNode, OnnxSparseTensor, OnnxTensor } from './schema.ts';
import { type Shapes, shapesOf } from './shapes.ts';
import { placeOf } from './walk.ts';

/**
 * What one run takes. `flops`: additions and multiplications of products and sums, one for each element of any other result. `activationBytes`: the
 * most that inputs, results and what lies between them take at once, in the order of the file; weights not included. Null where a shape is not known
 * before a run: `unknown` says at which node first. `weightBytes`: of the constants in the file, those of subgraphs and functions too, once each.
 * `computed`: constants that the runtime makes from others when it loads the model, and the node that makes the largest.
 */
export type Estimate = {
  flops: number | null;
  activationBytes: number | null;
  weightBytes: number;
  unknown: string | null;
  computed: { bytes: number; largest: number; place: string | null };
};

/** The size of a symbolic dimension, or null; of one without a name too. */
export type Sizes = (name: string | null) => number | null;

/** Estimates the main graph of a model that `checkModel` accepts. Takes time linear in it. */
export function estimate(model: OnnxModel, sizes: Sizes): Estimate {
  const { graph } = model;
  const weightBytes = constantBytes(model);
  if (graph === undefined)
    return { flops: 0, activationBytes: 0, weightBytes, unknown: null, computed: { bytes: 0, largest: 0, place: null } };
  const shapes = shapesOf(model, (name) => sizes(name));
  const run = new Run(graph, shapes);
  for (const [index, node] of graph.node.entries()) run.step(node, index);
  return { ...run.estimate(), weightBytes };
}

/** Bytes of a value; null where its shape or type is not known, or its elements are strings. */
export function bytesOf(one: Info | undefined): number | null {
  const elements = product(one?.dims ?? [null]);
  const bits = storageOf(one?.elemType ?? 0)?.bits ?? null;
  return elements === null || bits === null ? null : Math.ceil((elements * bits) / 8);
}

/** One run of the graph, node by node, as far as values live. */
class Run {
  readonly #shapes: Shapes;
  readonly #lastRead: ReadonlyMap<string, number>;
  readonly #constant = new Set<string>();
  #live = 0;
  #peak = 0;
  #flops = 0;
  readonly #computed: Estimate['computed'] = { bytes: 0, largest: 0, place: null };
  #unknown: string | null = null;

  constructor(graph: OnnxGraph, shapes: Shapes) {
    this.#shapes = shapes;
    this.#lastRead = lastReads(graph);
    for (const name of initializers(graph)) this.#constant.add(name);
    for (const { name = '' } of graph.input) if (!this.#constant.has(name)) this.#take(name, () => 'graph.input');
  }

  step(node: OnnxNode, index: number): void {
    const place = () => placeOf(node, index);
    if (node.input.every((name) => name === '' || this.#constant.has(name)) && !hasSubgraph(node)) {
      for (const name of node.output) this.#fold(name, node, place);
      return;
    }
    for (const name of node.output) if (name !== '') this.#take(name, place);
    const operations = operationsOf(
      this.#shapes.view(node),
      node.output.filter((name) => name !== '').map((name) => this.#shapes.infos.get(name)),
    );
    if (operations === null) this.#unknown ??= place();
    else this.#flops += operations;
    for (const name of new Set([...node.input, ...node.output])) if ((this.#lastRead.get(name) ?? index) === index) this.#give(name);
  }

  estimate(): Omit<Estimate, 'weightBytes'> {
    const known = this.#unknown === null;
    return {
      flops: known ? this.#flops : null,
      activationBytes: known ? this.#peak : null,
      computed: this.#computed,
      unknown: this.#unknown,
    };
  }

  #fold(name: string, node: OnnxNode, place: () => string): void {
    this.#constant.add(name);
    const bytes = node.opType === 'Constant' ? 0 : (bytesOf(this.#shapes.infos.get(name)) ?? 0);
    this.#computed.bytes += bytes;
    if (bytes <= this.#computed.largest) return;
    this.#computed.largest = bytes;
    this.#computed.place = place();
  }

  #take(name: string, place: () => string): void {
    const bytes = bytesOf(this.#shapes.infos.get(name));
    if (bytes === null) this.#unknown ??= place();
    this.#live += bytes ?? 0;
    this.#peak = Math.max(this.#peak, this.#live);
  }

  #give(name: string): void {
    if (name !== '' && !this.#constant.has(name)) this.#live -= bytesOf(this.#shapes.infos.get(name)) ?? 0;
  }
}

/** The index of the last node that reads a value; infinite for inputs and outputs, which the caller holds. */
function lastReads(graph: OnnxGraph): Map<string, number> {
  const last = new Map<string, number>();
  for (const [index, node] of graph.node.entries()) for (const name of readsOf(node)) last.set(name, index);
  for (const { name = '' } of [...graph.input, ...graph.output]) last.set(name, Number.POSITIVE_INFINITY);
  return last;
}

/** A subgraph reads what is around it. */
function* readsOf(node: OnnxNode): Generator<string> {
  yield* node.input;
  for (const { g, graphs } of node.attribute) {
    for (const inner of g === undefined ? graphs : [g, ...graphs]) {
      for (const one of inner.node) yield* readsOf(one);
      for (const { name = '' } of inner.output) yield name;
    }
  }
}

/** Of what the file stores, sparse constants with their zeros. */
function constantBytes({ graph, functions }: OnnxModel): number {
  let bytes = graph === undefined ? 0 : graphBytes(graph);
  for (const { node, attributeProto } of functions) bytes += nodesBytes(node) + attributesBytes(attributeProto);
  return bytes;
}

function graphBytes({ initializer, sparseInitializer, node }: OnnxGraph): number {
  return tensorsBytes(initializer) + sparseBytes(sparseInitializer) + nodesBytes(node);
}

function nodesBytes(nodes: readonly OnnxNode[]): number {
  let bytes = 0;
  for (const { attribute } of nodes) if (attribute.length > 0) bytes += attributesBytes(attribute);
  return bytes;
}

function attributesBytes(attributes: readonly OnnxAttribute[]): number {
  let bytes = 0;
  for (const { t, tensors, sparseTensor, sparseTensors, g, graphs } of attributes) {
    if (t !== undefined) bytes += tensorsBytes([t]);
    if (sparseTensor !== undefined) bytes += sparseBytes([sparseTensor]);
    if (g !== undefined) bytes += graphBytes(g);
    bytes += tensorsBytes(tensors) + sparseBytes(sparseTensors);
    for (const one of graphs) bytes += graphBytes(one);
  }
  return bytes;
}

function tensorsBytes(tensors: readonly OnnxTensor[]): number {
  let bytes = 0;
  for (const { dataType = 0, dims, stringData } of tensors) {
    bytes += bytesOf(info(dataType, dims.map(Number))) ?? stringData.reduce((sum, text) => sum + text.length, 0);
  }
  return bytes;
}

function sparseBytes(tensors: readonly OnnxSparseTensor[]): number {
  let bytes = 0;
  for (const { values, dims } of tensors) bytes += bytesOf(info(values?.dataType ?? 0, dims.map(Number))) ?? 0;
  return bytes;
}

function hasSubgraph({ attribute }: OnnxNode): boolean {
  return attribute.some(({ g, graphs }) => g !== undefined || graphs.length > 0);
}

function initializers({ initializer, sparseInitializer }: OnnxGraph): string[] {
  return [...initializer.map(({ name = '' }) => name), ...sparseInitializer.map(({ values }) => values?.name ?? '')];
}
