import { attributeFault } from './attributes.ts';
import { type Body, type Count, functionKey, plainDomain } from './functions.ts';
import { checkMakes, checkOutputs, checkReads, functionScope, openScope, type Scope } from './names.ts';
import { isKnownDomain, operatorFault } from './operators.ts';
import { rejected, rejectedFor } from './rejections.ts';
import type { OnnxAttribute, OnnxFunction, OnnxGraph, OnnxNode } from './schema.ts';
import { checkSparseTensor, checkTensor } from './tensors.ts';

/** What a walk over one model gathers. `operators`: nodes by name, functions' bodies once. */
export type Tally = { functions: ReadonlyMap<string, OnnxFunction>; operators: Map<string, Count>; parameters: number };

const EINSUM_INSIDE = 'Inside a subgraph or function it cannot be told how many dimensions Einsum gets, which must fit its equation.';

/** A place is made into text for an error only. */
type Place = () => string;

/** Operators of com.microsoft that hand bytes of another file, or a path to one, to another engine. */
const FOREIGN: ReadonlySet<string> = new Set(['EPContext', 'Snpe']);

/**
 * Checks the graph, its subgraphs and every constant in them. Errors: the first in the order initializers, sparse ones, nodes (no operator,
 * domain, operator, version, what it reads, attributes, what it makes), outputs.
 */
export function checkGraph(graph: OnnxGraph, place: string, body: Body, tally: Tally, outer: Scope | null = null): void {
  for (const [index, one] of graph.initializer.entries()) {
    tally.parameters += checkTensor(one, `${place}.initializer[${named(one.name, index)}]`);
  }
  for (const [index, one] of graph.sparseInitializer.entries()) {
    tally.parameters += checkSparseTensor(one, `${place}.sparse_initializer[${named(one.values?.name, index)}]`);
  }
  const scope = openScope(graph, place, outer);
  checkNodes(graph.node, place, body, tally, scope);
  const names = graph.output.map(({ name }) => name);
  checkOutputs(names, place, scope);
}

/** Checks a local function's defaults and nodes. */
export function checkFunction(one: OnnxFunction, body: Body, tally: Tally): void {
  const scope = functionScope(one, body.place);
  for (const attribute of one.attributeProto) checkAttribute(attribute, () => body.place, body, tally, scope);
  checkNodes(one.node, body.place, body, tally, scope);
  checkOutputs(one.output, body.place, scope);
}

/** `"name"` cut to a length that a person reads, or the index where there is no name. */
export function named(name: string | undefined, index: number): string {
  return name === undefined || name === '' ? `${index}` : quoted(name);
}

/** Where a node of the main graph, or of the body at `place`, is. */
export function placeOf(one: OnnxNode, index: number, place = 'graph'): string {
  const name = one.name === undefined || one.name === '' ? '' : ` ${quoted(one.name)}`;
  return `${place}.node[${index}] (${plain(one.opType ?? '')}${name})`;
}

function checkNodes(nodes: readonly OnnxNode[], place: string, body: Body, tally: Tally, scope: Scope): void {
  let index = 0;
  const here = (): string => placeOf(nodes[index] as OnnxNode, index, place);
  for (; index < nodes.length; index++) {
    const one = nodes[index] as OnnxNode;
    body.nodes++;
    checkOperator(one, here, body, tally);
    if ((scope.inner || body.inFunction) && one.opType === 'Einsum') throw rejected('EINSUM', EINSUM_INSIDE, here());
    checkReads(one, here, scope);
    if (one.attribute.length > 0) checkAttributes(one, here, body, tally, scope);
    checkMakes(one, here, scope);
  }
}

function checkAttributes(one: OnnxNode, place: Place, body: Body, tally: Tally, scope: Scope): void {
  checkAttributeNames(one, place);
  for (const attribute of one.attribute) checkAttribute(attribute, place, body, tally, scope);
}

function checkAttributeNames({ attribute }: OnnxNode, place: Place): void {
  if (attribute.length === 1 && (attribute[0]?.name ?? '') !== '') return;
  const names = new Set(attribute.map(({ name = '' }) => name));
  if (names.has('')) throw rejected('ATTRIBUTE', 'An attribute has no name.', place());
  if (names.size < attribute.length) throw rejected('ATTRIBUTE', 'An attribute is given twice.', place());
}

/** An operator that the body was found to have is not looked up again: models have few, many times. */
function checkOperator(one: OnnxNode, place: Place, body: Body, tally: Tally): void {
  const { opType = '' } = one;
  const mayBeAccepted = one.domain === undefined && one.overload === undefined;
  const accepted = mayBeAccepted ? body.accepted.get(opType) : undefined;
  if (accepted !== undefined) {
    accepted.count++;
    return;
  }
  if (opType === '') throw rejected('UNKNOWN_OPERATOR', 'The node names no operator.', place());
  const domain = plainDomain(one.domain);
  const count = countOf(tally, domain === '' ? opType : `${domain}.${opType}`);
  const key = tally.functions.size === 0 ? '' : functionKey(one.domain, opType, one.overload);
  if (tally.functions.has(key)) {
    body.calls.push(key);
    return;
  }
  if (!isKnownDomain(domain)) throw rejected('UNKNOWN_DOMAIN', `The operator's domain ${quoted(domain)} is not known.`, place());
  if (FOREIGN.has(opType)) throw rejected('EXTERNAL_DATA', 'The node loads a compiled model from another file.', place());
  const fault = operatorFault(domain, opType, body.versions.get(domain));
  if (fault !== null) throw rejectedFor(fault, place());
  if ((one.overload ?? '') !== '') throw rejected('UNKNOWN_OPERATOR', 'The node names an overload of what is no function.', place());
  if (mayBeAccepted) body.accepted.set(opType, count);
}

/** Counts one more. */
function countOf({ operators }: Tally, name: string): Count {
  const count = operators.get(name) ?? { count: 0 };
  operators.set(name, count);
  count.count++;
  return count;
}

/** Every value field is checked, whichever of them `type` names; then that there is one. */
function checkAttribute(attribute: OnnxAttribute, place: Place, body: Body, tally: Tally, scope: Scope): void {
  const fault = attributeFault(attribute, body.inFunction);
  if (fault === null && isPlain(attribute)) return;
  const name = plain(attribute.name ?? '');
  const here = `${place()}.attribute ${name}`;
  if (attribute.t !== undefined) tally.parameters += checkTensor(attribute.t, here);
  for (const [index, one] of attribute.tensors.entries()) checkTensor(one, `${here}[${index}]`);
  if (attribute.sparseTensor !== undefined) tally.parameters += checkSparseTensor(attribute.sparseTensor, here);
  for (const [index, one] of attribute.sparseTensors.entries()) checkSparseTensor(one, `${here}[${index}]`);
  if (attribute.g !== undefined) checkGraph(attribute.g, `${place()}.${name}`, body, tally, scope);
  for (const [index, one] of attribute.graphs.entries()) checkGraph(one, `${place()}.${name}[${index}]`, body, tally, scope);
  if (fault !== null) throw rejected('ATTRIBUTE', fault, here);
}

function isPlain({ t, g, tensors, graphs, sparseTensor, sparseTensors }: OnnxAttribute): boolean {
  return t === undefined && g === undefined && sparseTensor === undefined && tensors.length + graphs.length + sparseTensors.length === 0;
}

function quoted(name: string): string {
  return JSON.stringify(name.length > 60 ? `${name.slice(0, 60)}…` : name);
}

function plain(name: string): string {
  return /^[\w.]{1,60}$/.test(name) ? name : quoted(name);
}
