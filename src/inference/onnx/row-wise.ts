import { valuesIn } from './attributes.ts';
import { RANK_MAX } from './dims.ts';
import { functionKey, functionsOf, plainDomain } from './functions.ts';
import { RULES } from './row-rules.ts';
import { Application, CONST, constOf, type Known } from './row-values.ts';
import type { OnnxAttribute, OnnxModel, OnnxNode, OnnxValue } from './schema.ts';

/** `proved`: no row of a run can see another. Else `node` says where the proof ends, as `graph.node[3] (CumSum)`, or why it cannot begin. */
export type RowProof = { proved: true } | { proved: false; node: string };

/** Counts up whenever something that was proved is proved no more because it may be false; a bound on what is read leaves it. */
export const ROW_RULES = 2;

/** Of a constant, another of the same sizes. */
const KEEPS_SHAPE = new Set(['Identity', 'Cast', 'QuantizeLinear', 'DequantizeLinear', 'Neg', 'Abs', 'Sqrt', 'Reciprocal']);
/** Whose outputs do not follow from their inputs. */
const RANDOM = /^(Random|Bernoulli|Multinomial)/;

/**
 * Tries to prove by the operators that each row of the outputs follows from the same row of the inputs alone, whatever the file's constants are and
 * wherever in a run the row stands. Sound and not complete: an operator, an attribute or a shape that it does not know ends the proof. It takes the
 * opsets' own words for what operators do, and the runtime's word that it does them.
 *
 * Inputs and outputs must lead with the same symbolic dimension, and nothing may have more than 64 dimensions. Takes time and memory linear in the
 * graph.
 */
export function proveRows(model: OnnxModel): RowProof {
  const { graph } = model;
  if (graph === undefined) return { proved: false, node: 'there is no graph' };
  const known = new Map<string, Known>();
  for (const tensor of graph.initializer) known.set(tensor.name ?? '', constOf(tensor));
  const inputs = graph.input.filter(({ name }) => !known.has(name ?? ''));
  const batch = batchOf([...inputs, ...graph.output]);
  if (batch === null || graph.sparseInitializer.length > 0)
    return { proved: false, node: 'its inputs and outputs do not all lead with one symbolic dimension' };
  for (const input of inputs) {
    const rows = rowsOf(input);
    if (rows === null) return { proved: false, node: `graph.input ${input.name}` };
    known.set(input.name ?? '', rows);
  }
  const opset = Number(model.opsetImport.find(({ domain }) => plainDomain(domain) === '')?.version ?? 0n);
  const functions = functionsOf(model);
  for (const [index, node] of graph.node.entries()) {
    const isFunction = functions.has(functionKey(node.domain, node.opType ?? '', node.overload));
    const output = isFunction ? null : outputOf(node, known, opset);
    // A name that is given twice would be one thing here and another in a runtime.
    const isNew = node.output.every((name) => name === '' || !known.has(name));
    if (output === null || !isNew) return { proved: false, node: `graph.node[${index}] (${node.opType})` };
    for (const name of node.output) if (name !== '') known.set(name, output);
  }
  const lacking = graph.output.find(({ name }) => known.get(name ?? '')?.kind !== 'ROWS');
  return lacking === undefined ? { proved: true } : { proved: false, node: `graph.output ${lacking.name}` };
}

function outputOf(node: OnnxNode, known: ReadonlyMap<string, Known>, opset: number): Known | null {
  const domain = plainDomain(node.domain);
  const name = domain === '' ? (node.opType ?? '') : `${domain}.${node.opType}`;
  if (node.attribute.some(isVague)) return null;
  const inputs: (Known | undefined)[] = [];
  for (const input of node.input) {
    const value = input === '' ? undefined : known.get(input);
    if (value === undefined && input !== '') return null;
    inputs.push(value);
  }
  if (inputs.every((input) => input?.kind !== 'ROWS')) return RANDOM.test(name) ? null : constantOf(node, name, inputs);
  return RULES.get(name)?.(new Application(node, inputs, opset)) ?? null;
}

/** It holds a graph, or no value: what it then means is the runtime's to say. */
function isVague(attribute: OnnxAttribute): boolean {
  return attribute.g !== undefined || attribute.graphs.length > 0 || valuesIn(attribute) !== 1;
}

function constantOf(node: OnnxNode, name: string, [first]: readonly (Known | undefined)[]): Known {
  const tensor = name === 'Constant' ? node.attribute.find((one) => one.name === 'value')?.t : undefined;
  if (tensor !== undefined) return constOf(tensor);
  return first?.kind === 'CONST' && KEEPS_SHAPE.has(name) ? { ...CONST, dims: first.dims } : CONST;
}

function batchOf(values: readonly OnnxValue[]): string | null {
  const names = values.map(({ type }) => type?.tensorType?.shape?.dim[0]?.dimParam);
  const [first] = names;
  return first && names.every((name) => name === first) ? first : null;
}

function rowsOf({ type }: OnnxValue): Known | null {
  const [, ...tail] = type?.tensorType?.shape?.dim ?? [];
  if (tail.length >= RANK_MAX) return null;
  return { kind: 'ROWS', tail: tail.map(({ dimValue }) => (dimValue === undefined ? null : Number(dimValue))) };
}
