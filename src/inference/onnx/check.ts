import { type Datatype, datatypeOf } from './datatypes.ts';
import { checkEinsums } from './einsum.ts';
import { type Body, checkCalls, functionsOf, versionsOf } from './functions.ts';
import { decodeModel } from './read.ts';
import { rejected } from './rejections.ts';
import type { OnnxGraph, OnnxModel, OnnxValue } from './schema.ts';
import { checkRank } from './tensors.ts';
import { checkFunction, checkGraph, named, type Tally } from './walk.ts';

/** A tensor of so many elements is beyond every bound of a call; larger is no Int of GraphQL either. */
const DIMENSION_MAX = 2n ** 31n - 1n;

/** The last that ONNX Runtime 1.30 reads. */
const IR_VERSION_MAX = 13n;

/** A fixed size, the name of a symbolic one, or null: any. */
export type Dimension = number | string | null;

/** A tensor at the door of a model. `elemType` is ONNX's number, `datatype` the contract's name for it. */
export type ValueSummary<D = Dimension[]> = { name: string; elemType: number; datatype: Datatype; dimensions: D };

/** What a model is made of. `operators` by name, with their domain where it is not ONNX's own; `parameters` counts elements of weights. */
export type ModelSummary = {
  irVersion: number;
  opsets: { domain: string; version: number }[];
  operators: { name: string; count: number }[];
  parameters: number;
  inputs: ValueSummary[];
  /** `dimensions` is null where the file does not say how many there are. */
  outputs: ValueSummary<Dimension[] | null>[];
};

/**
 * Reads an ONNX file and refuses what must not reach a runtime: anything that the file does not carry itself, a door that is not made of
 * tensors of the contract's types with a declared rank, operators that it does not run at this version, names that are read before they are
 * made or made twice, values that two readers could take for two things, functions that recurse or multiply. Inputs that are also initializers are constants
 * with another name, not inputs. Takes time linear in the file and changes nothing.
 *
 * Errors: MODEL_REJECTED with `place`, like `graph.node[12] (Loop "l").body.node[3] (Constant).attribute value`, in this order: those of
 * `decodeModel`; no graph; IR version; training information; functions without a name or defined twice; inputs, then outputs: no name, given twice, no
 * tensor, element type, more than 64 dimensions, negative dimension, undeclared rank (inputs); imported operator sets; then, for the graph and for each function, those
 * of `checkGraph`; then recursive or exploding functions; last, those of `checkEinsums`.
 */
export function checkModel(bytes: Uint8Array): ModelSummary {
  return checkDecoded(decodeModel(bytes));
}

/** The same for a model that is read already. */
export function checkDecoded(model: OnnxModel): ModelSummary {
  const { graph } = model;
  if (graph === undefined) throw rejected('NO_GRAPH', 'The file holds no graph.', 'graph');
  const { irVersion = 0n } = model;
  if (irVersion > IR_VERSION_MAX) {
    const text = `The file is of IR version ${irVersion}; at most ${IR_VERSION_MAX} is read.`;
    throw rejected('IR_VERSION_UNSUPPORTED', text, 'ir_version', { limit: IR_VERSION_MAX, given: irVersion });
  }
  if (model.trainingInfo.length > 0)
    throw rejected('TRAINING_INFO', 'The model carries training information; export it for inference.', 'training_info');
  const tally: Tally = { functions: functionsOf(model), operators: new Map(), parameters: 0 };
  const inputs = inputsOf(graph);
  const outputs = valuesOf(graph.output, 'graph.output');
  checkBodies(model, graph, tally);
  if ([...tally.operators.keys()].some((name) => name === 'Einsum' || name.endsWith('.Einsum'))) checkEinsums(model);
  return {
    irVersion: Number(irVersion),
    opsets: opsetsOf(model),
    operators: [...tally.operators].map(([name, { count }]) => ({ name, count })).sort((a, b) => (a.name < b.name ? -1 : 1)),
    parameters: tally.parameters,
    inputs,
    outputs,
  };
}

function checkBodies(model: OnnxModel, graph: OnnxGraph, tally: Tally): void {
  const versions = versionsOf(model.opsetImport, '');
  const main: Body = { place: 'graph', nodes: 0, calls: [], versions, accepted: new Map(), inFunction: false };
  checkGraph(graph, main.place, main, tally);
  const bodies = new Map<string, Body>();
  for (const [key, one] of tally.functions) {
    const place = `functions[${named(one.name, 0)}]`;
    const own = versionsOf(one.opsetImport, `${place}.`, versions);
    const body: Body = { place, nodes: 0, calls: [], versions: own, accepted: new Map(), inFunction: true };
    checkFunction(one, body, tally);
    bodies.set(key, body);
  }
  checkCalls(main, bodies);
}

function inputsOf(graph: OnnxGraph): ValueSummary[] {
  const constants = new Set([...graph.initializer.map((one) => one.name), ...graph.sparseInitializer.map((one) => one.values?.name)]);
  const real = graph.input.filter((one) => one.name === undefined || !constants.has(one.name));
  return valuesOf(real, 'graph.input').map(({ dimensions, ...rest }) => {
    if (dimensions === null)
      throw rejected('DIMENSIONS', 'The input does not declare its number of dimensions.', `graph.input[${named(rest.name, 0)}]`);
    return { ...rest, dimensions };
  });
}

function valuesOf(values: readonly OnnxValue[], place: string): ValueSummary<Dimension[] | null>[] {
  const seen = new Set<string>();
  return values.map((one, index) => {
    const here = `${place}[${named(one.name, index)}]`;
    if (one.name === undefined || one.name === '') throw rejected('NAME_MISSING', 'The tensor has no name.', here);
    if (seen.has(one.name)) throw rejected('NAME_TWICE', 'The name is given twice.', here);
    seen.add(one.name);
    return { name: one.name, ...typeOf(one, here) };
  });
}

function typeOf({ type }: OnnxValue, place: string): Omit<ValueSummary<Dimension[] | null>, 'name'> {
  if (type === undefined) throw rejected('NOT_A_TENSOR', 'The type is not declared.', place);
  const { tensorType } = type;
  const other = type.sequenceType ?? type.mapType ?? type.opaqueType ?? type.sparseTensorType ?? type.optionalType;
  if (tensorType === undefined || other !== undefined) throw rejected('NOT_A_TENSOR', 'The type is not a tensor.', place);
  const elemType = tensorType.elemType ?? 0;
  const datatype = datatypeOf(elemType);
  if (datatype === null) throw rejected('ELEMENT_TYPE', `The element type ${elemType} is not one that this service carries.`, place);
  const { shape } = tensorType;
  if (shape !== undefined) checkRank(shape.dim.length, place);
  return { elemType, datatype, dimensions: shape === undefined ? null : shape.dim.map((one) => dimensionOf(one, place)) };
}

function dimensionOf({ dimValue, dimParam }: { dimValue?: bigint; dimParam?: string }, place: string): Dimension {
  if (dimValue !== undefined && dimParam !== undefined) throw rejected('DIMENSIONS', 'A dimension has both a size and a name.', place);
  if (dimValue === undefined) return dimParam === undefined || dimParam === '' ? null : dimParam;
  if (dimValue < 0n)
    throw rejected('DIMENSIONS', `The dimension ${dimValue} is negative; leave it out or name it where it may vary.`, place);
  if (dimValue > DIMENSION_MAX) {
    const text = `The dimension ${dimValue} is larger than any tensor that this service carries.`;
    throw rejected('TENSOR_SIZE', text, place, { limit: DIMENSION_MAX, given: dimValue });
  }
  return Number(dimValue);
}

function opsetsOf(model: OnnxModel): { domain: string; version: number }[] {
  return model.opsetImport.map(({ domain, version }) => ({ domain: domain ?? '', version: Number(version ?? 0n) }));
}
