import type { OnnxAttribute, OnnxNode } from './schema.ts';

/** `AttributeProto.AttributeType` by the field that holds the value. */
const TYPE_OF = {
  f: 1,
  i: 2,
  s: 3,
  t: 4,
  g: 5,
  floats: 6,
  ints: 7,
  strings: 8,
  tensors: 9,
  graphs: 10,
  sparseTensor: 11,
  sparseTensors: 12,
  tp: 13,
  typeProtos: 14,
} as const;
type ValueField = keyof typeof TYPE_OF;
const FIELD_OF = new Map<number, ValueField>(Object.entries(TYPE_OF).map(([field, type]) => [type, field as ValueField]));

const decoder = new TextDecoder();

/**
 * What makes an attribute ambiguous, in one sentence, or null: it has one value, in the field that its type names, or refers to one of the
 * enclosing function. A reader that went by the type and one that went by the field would see two models.
 */
export function attributeFault(attribute: OnnxAttribute, inFunction: boolean): string | null {
  const { type = 0, refAttrName = '' } = attribute;
  const field = FIELD_OF.get(type);
  const values = valuesIn(attribute);
  if (field === undefined) return `The attribute has the unknown type ${type}.`;
  if (refAttrName !== '' && !inFunction) return 'The attribute refers to one of a function, and this is none.';
  if (refAttrName !== '' && values > 0) return 'The attribute has a value and refers to another one.';
  if (values > 1) return `The attribute has values in ${values} fields.`;
  const value = attribute[field];
  const ofItsType = Array.isArray(value) ? value.length > 0 : value !== undefined;
  return values === 0 || ofItsType ? null : `The attribute's value is not of its type ${type}.`;
}

/** The number of fields that hold a value. */
export function valuesIn(attribute: OnnxAttribute): number {
  const { f, i, s, t, g, sparseTensor, tp, floats, ints, strings, tensors, graphs, sparseTensors, typeProtos } = attribute;
  const lists = some(floats) + some(ints) + some(strings) + some(tensors) + some(graphs) + some(sparseTensors) + some(typeProtos);
  return lists + one(f) + one(i) + one(s) + one(t) + one(g) + one(sparseTensor) + one(tp);
}

const one = (value: unknown) => (value === undefined ? 0 : 1);
const some = (list: readonly unknown[]) => (list.length === 0 ? 0 : 1);

function find({ attribute }: OnnxNode, name: string, type: number): OnnxAttribute | undefined {
  return attribute.find((one) => one.name === name && one.type === type);
}

/** An attribute's value as the runtime takes it, or `otherwise` where the node has none of this name and type. */
export function integer(node: OnnxNode, name: string, otherwise: number): number {
  const found = find(node, name, TYPE_OF.i);
  return found === undefined ? otherwise : Number(found.i ?? 0n);
}

export function text(node: OnnxNode, name: string, otherwise: string): string {
  const found = find(node, name, TYPE_OF.s);
  return found === undefined ? otherwise : decoder.decode(found.s);
}

/** Null where the node has none. */
export function integers(node: OnnxNode, name: string): number[] | null {
  return find(node, name, TYPE_OF.ints)?.ints.map(Number) ?? null;
}

export function has({ attribute }: OnnxNode, name: string): boolean {
  return attribute.some((one) => one.name === name);
}
