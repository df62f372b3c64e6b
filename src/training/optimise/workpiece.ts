import {
  type AttributeValue,
  decodeModel,
  encodeModel,
  node,
  type OnnxGraph,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
} from '../../inference/onnx/onnx.ts';
import { rejectedKind } from './refusals.ts';

/** Below this version of the file format every initialiser is an input too, and a constant all the same. */
const IR_FREE_INITIALISERS = 4n;
const EMPTY: OnnxGraph = {
  node: [],
  initializer: [],
  input: [],
  output: [],
  valueInfo: [],
  quantizationAnnotation: [],
  sparseInitializer: [],
  metadataProps: [],
};

/**
 * A model while its main graph is rewritten; subgraphs and functions stay as they are. New names clash with none of the model's. Nothing
 * of the given model is changed.
 */
export class Workpiece {
  readonly model: OnnxModel;
  readonly graph: OnnxGraph;
  /** Constants of the main graph by name: initialisers, and tensors of Constant nodes. */
  readonly constants: ReadonlyMap<string, OnnxTensor>;
  /** Values that must keep their name: outputs, and what subgraphs read from outside. */
  readonly kept: ReadonlySet<string>;
  readonly opset: number;
  readonly #names = new Set<string>();
  readonly #added: OnnxTensor[] = [];
  #fresh = 0;

  constructor(source: Uint8Array | OnnxModel) {
    this.model = source instanceof Uint8Array ? decodeModel(source) : source;
    this.graph = this.model.graph ?? EMPTY;
    this.opset = Number(this.model.opsetImport.find(({ domain }) => (domain ?? '') === '' || domain === 'ai.onnx')?.version ?? 1n);
    this.constants = new Map([
      ...this.graph.initializer.map((one) => [one.name ?? '', one] as const),
      ...this.graph.node.flatMap(constantOf),
    ]);
    const inner = new Set<string>();
    for (const one of this.graph.node) for (const sub of subgraphsOf(one)) collectNames(sub, inner);
    this.kept = new Set([...inner, ...this.graph.output.map((one) => one.name ?? '')]);
    collectNames(this.graph, this.#names);
  }

  /** A name of its own. */
  name(about: string): string {
    for (;;) {
      const name = `${about}_${this.#fresh++}`;
      if (this.#names.has(name)) continue;
      this.#names.add(name);
      return name;
    }
  }

  /** Adds a constant, whose name is to come from `name`. */
  keep(constant: OnnxTensor): string {
    this.#added.push(constant);
    return constant.name ?? '';
  }

  /** An operator with one output, named freshly unless given, put at the end of `into`. */
  op(
    into: OnnxNode[],
    opType: string,
    inputs: readonly string[],
    attributes: Record<string, AttributeValue> = {},
    output?: string,
  ): string {
    const name = output ?? this.name(`/${opType.toLowerCase()}`);
    into.push(node(opType, inputs, [name], attributes));
    return name;
  }

  /**
   * The model with these nodes in the main graph, without the initialisers and Constant nodes that none reads any more or whose
   * name is `replaced`: that of a node's output now. Same edits, same bytes.
   */
  finish(nodes: readonly OnnxNode[], replaced: ReadonlySet<string> = new Set()): Uint8Array {
    const { graph, model } = this;
    const read = new Set([...this.kept, ...nodes.flatMap(({ input }) => input)]);
    const old = (model.irVersion ?? 0n) < IR_FREE_INITIALISERS;
    const initializer = [...graph.initializer, ...this.#added].filter(({ name = '' }) => read.has(name) && !replaced.has(name));
    const present = new Set(old ? [] : initializer.map(({ name = '' }) => name));
    const constants = new Set([...graph.initializer.map(({ name = '' }) => name)]);
    const input = graph.input.filter(({ name = '' }) => !constants.has(name) || present.has(name));
    const node = nodes.filter((one) => one.opType !== 'Constant' || one.output.some((name) => read.has(name)));
    const rewritten: OnnxGraph = { ...graph, node, initializer, input };
    return encodeModel({ ...model, irVersion: old ? IR_FREE_INITIALISERS : (model.irVersion ?? 0n), graph: rewritten });
  }
}

/** Whether it is an operator of ONNX itself. */
export function isPlain({ domain }: OnnxNode): boolean {
  return (domain ?? '') === '' || domain === 'ai.onnx';
}

export function intAttribute({ attribute }: OnnxNode, name: string, otherwise: number): number {
  return Number(attribute.find((one) => one.name === name)?.i ?? otherwise);
}

export function floatAttribute({ attribute }: OnnxNode, name: string, otherwise: number): number {
  return attribute.find((one) => one.name === name)?.f ?? otherwise;
}

/** BAD_USER_INPUT where weights are made by the graph as it runs, else that there is nothing to do. */
export function nothingToDo({ graph }: Workpiece, kind: string, wanted: string): Error {
  const generated = graph.node.some(({ opType }) => opType === 'ConstantOfShape');
  return rejectedKind(
    kind,
    generated
      ? `No ${wanted} has stored weights here; some are computed as the model runs.`
      : `There is nothing here to make smaller: no ${wanted} with stored weights of enough elements.`,
    generated ? 'GRAPH first, which stores computed weights; then this' : 'another kind, or a model with such layers',
  );
}

function constantOf({ opType, attribute, output }: OnnxNode): (readonly [string, OnnxTensor])[] {
  const tensor = opType === 'Constant' ? attribute.find(({ name }) => name === 'value')?.t : undefined;
  return tensor === undefined ? [] : [[output[0] ?? '', tensor]];
}

function subgraphsOf({ attribute }: OnnxNode): OnnxGraph[] {
  return attribute.flatMap(({ g, graphs }) => [...(g === undefined ? [] : [g]), ...graphs]);
}

function collectNames(graph: OnnxGraph, into: Set<string>): void {
  for (const { name = '' } of [...graph.initializer, ...graph.input, ...graph.output]) into.add(name);
  for (const one of graph.node) {
    for (const name of [...one.input, ...one.output]) into.add(name);
    for (const sub of subgraphsOf(one)) collectNames(sub, into);
  }
}
