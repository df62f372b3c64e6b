import { isOperator, versionFault } from './operators.ts';
import { rejected, rejectedFor } from './rejections.ts';
import type { OnnxFunction, OnnxModel, OnnxOpset } from './schema.ts';

/** Nodes after every call of a local function is replaced by its body, as ONNX Runtime does before it runs. */
const EXPANDED_NODES_MAX = 1_000_000;

/**
 * What a graph or a function holds directly: its nodes, subgraphs included, and the functions that these call, one entry per call.
 * `versions`: of the operator sets that it means, by domain; `accepted`: ONNX's own operators that it was found to have, by name.
 */
export type Body = {
  readonly place: string;
  nodes: number;
  readonly calls: string[];
  readonly versions: Versions;
  readonly accepted: Map<string, Count>;
  readonly inFunction: boolean;
};
/** How often something is there. */
export type Count = { count: number };
export type Versions = ReadonlyMap<string, number>;

const NONE: Versions = new Map();
/** More domains than any model has operators of. */
const OPSETS_MAX = 100;

/**
 * The versions that a model or function imports, over those around it, which are shared where it imports none. Errors: more than 100 imports, a domain
 * imported twice, a version that none knows.
 */
export function versionsOf(imports: readonly OnnxOpset[], place: string, around: Versions = NONE): Versions {
  if (imports.length === 0) return around;
  if (imports.length > OPSETS_MAX) {
    const text = `${imports.length} operator sets are imported; at most ${OPSETS_MAX} are read.`;
    throw rejected('TOO_MANY', text, `${place}opset_import[${OPSETS_MAX}]`, { limit: OPSETS_MAX, given: imports.length });
  }
  const versions = new Map<string, number>();
  for (const [index, { domain, version }] of imports.entries()) {
    const name = plainDomain(domain);
    const number = Number(version ?? 0n);
    const here = `${place}opset_import[${index}]`;
    if (versions.has(name)) throw rejected('NAME_TWICE', 'The operator set is imported twice.', here);
    const fault = versionFault(name, number);
    if (fault !== null) throw rejectedFor(fault, here);
    versions.set(name, number);
  }
  return new Map([...around, ...versions]);
}

/** One name for domain, operator and overload; ONNX's own domain has two spellings. */
export function functionKey(domain: string | undefined, name: string | undefined, overload: string | undefined): string {
  return JSON.stringify([plainDomain(domain), name ?? '', overload ?? '']);
}

export function plainDomain(domain: string | undefined): string {
  return domain === undefined || domain === 'ai.onnx' ? '' : domain;
}

/** The local functions by key. Errors: a function without a name, with that of an operator, two of one name. */
export function functionsOf(model: OnnxModel): Map<string, OnnxFunction> {
  const functions = new Map<string, OnnxFunction>();
  for (const [index, one] of model.functions.entries()) {
    if (one.name === undefined || one.name === '') throw rejected('NAME_MISSING', 'The function has no name.', `functions[${index}]`);
    const key = functionKey(one.domain, one.name, one.overload);
    if (isOperator(plainDomain(one.domain), one.name)) {
      const text = 'The function has the name of an operator and would stand for it.';
      throw rejected('FUNCTION_SHADOWS_OPERATOR', text, `functions[${index}]`);
    }
    if (functions.has(key)) throw rejected('NAME_TWICE', 'The function is defined twice.', `functions[${index}]`);
    functions.set(key, one);
  }
  return functions;
}

/** Errors: a function that reaches itself; calls that multiply to more than a million nodes. Each function is visited once. */
export function checkCalls(main: Body, bodies: ReadonlyMap<string, Body>): void {
  const sizes = new Map<string, number | 'open'>();
  const sizeOf = (key: string): number => {
    const body = bodies.get(key);
    const known = sizes.get(key);
    if (body === undefined) return 0;
    if (known === 'open') throw rejected('RECURSION', 'The function calls itself.', body.place);
    if (known !== undefined) return known;
    sizes.set(key, 'open');
    const size = expand(body);
    sizes.set(key, size);
    return size;
  };
  const expand = (body: Body): number => {
    let nodes = body.nodes;
    for (const key of body.calls) {
      nodes += sizeOf(key);
      if (nodes > EXPANDED_NODES_MAX) {
        const text = `The functions expand to more than ${EXPANDED_NODES_MAX} nodes.`;
        throw rejected('TOO_MANY', text, body.place, { limit: EXPANDED_NODES_MAX });
      }
    }
    return nodes;
  };
  for (const key of bodies.keys()) sizeOf(key);
  expand(main);
}
