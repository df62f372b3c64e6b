import { type Body, functionKey, plainDomain } from './functions.ts';
import { rejected } from './read.ts';
import type { OnnxAttribute, OnnxFunction, OnnxGraph, OnnxNode } from './schema.ts';
import { checkSparseTensor, checkTensor } from './tensors.ts';

/** The domains whose operators ONNX Runtime brings. */
const DOMAINS: ReadonlySet<string> = new Set(['', 'ai.onnx.ml', 'com.microsoft']);

/** What a walk over one model gathers. `operators`: nodes by name, functions' bodies once. */
export type Tally = { functions: ReadonlyMap<string, OnnxFunction>; operators: Map<string, number>; parameters: number };

/** Checks the graph, its subgraphs and every constant in them. Errors: the first in the order initializers, sparse ones, nodes. */
export function checkGraph(graph: OnnxGraph, place: string, body: Body, tally: Tally): void {
  for (const [index, one] of graph.initializer.entries()) {
    tally.parameters += checkTensor(one, `${place}.initializer[${named(one.name, index)}]`);
  }
  for (const [index, one] of graph.sparseInitializer.entries()) {
    tally.parameters += checkSparseTensor(one, `${place}.sparse_initializer[${named(one.values?.name, index)}]`);
  }
  checkNodes(graph.node, place, body, tally);
}

/** Checks a local function's defaults and nodes. */
export function checkFunction(one: OnnxFunction, body: Body, tally: Tally): void {
  for (const attribute of one.attributeProto) checkAttribute(attribute, body.place, body, tally);
  checkNodes(one.node, body.place, body, tally);
}

/** `"name"` cut to a length that a person reads, or the index where there is no name. */
export function named(name: string | undefined, index: number): string {
  return name === undefined || name === '' ? `${index}` : quoted(name);
}

function checkNodes(nodes: readonly OnnxNode[], place: string, body: Body, tally: Tally): void {
  for (const [index, one] of nodes.entries()) {
    const name = one.name === undefined || one.name === '' ? '' : ` ${quoted(one.name)}`;
    const nodePlace = `${place}.node[${index}] (${plain(one.opType ?? '')}${name})`;
    body.nodes++;
    checkOperator(one, nodePlace, body, tally);
    for (const attribute of one.attribute) checkAttribute(attribute, nodePlace, body, tally);
  }
}

function checkOperator(one: OnnxNode, place: string, body: Body, tally: Tally): void {
  if (one.opType === undefined || one.opType === '') throw rejected('The node names no operator.', place);
  const domain = plainDomain(one.domain);
  const key = functionKey(one.domain, one.opType, one.overload);
  if (tally.functions.has(key)) body.calls.push(key);
  else if (!DOMAINS.has(domain)) throw rejected(`The operator's domain ${quoted(domain)} is not known.`, place);
  else if (one.opType === 'EPContext') throw rejected('The node loads a compiled model from another file.', place);
  const name = domain === '' ? one.opType : `${domain}.${one.opType}`;
  tally.operators.set(name, (tally.operators.get(name) ?? 0) + 1);
}

/** Every value field is checked, whichever of them `type` names: the runtime's choice is not ours. */
function checkAttribute(attribute: OnnxAttribute, place: string, body: Body, tally: Tally): void {
  const name = plain(attribute.name ?? '');
  const here = `${place}.attribute ${name}`;
  if (attribute.t !== undefined) checkTensor(attribute.t, here);
  for (const [index, one] of attribute.tensors.entries()) checkTensor(one, `${here}[${index}]`);
  if (attribute.sparseTensor !== undefined) checkSparseTensor(attribute.sparseTensor, here);
  for (const [index, one] of attribute.sparseTensors.entries()) checkSparseTensor(one, `${here}[${index}]`);
  if (attribute.g !== undefined) checkGraph(attribute.g, `${place}.${name}`, body, tally);
  for (const [index, one] of attribute.graphs.entries()) checkGraph(one, `${place}.${name}[${index}]`, body, tally);
}

function quoted(name: string): string {
  return JSON.stringify(name.length > 60 ? `${name.slice(0, 60)}…` : name);
}

function plain(name: string): string {
  return /^[\w.]{1,60}$/.test(name) ? name : quoted(name);
}
