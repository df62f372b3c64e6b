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
const FIELDS = Object.keys(TYPE_OF) as ValueField[];
const TYPES: ReadonlySet<number> = new Set(Object.values(TYPE_OF));

const decoder = new TextDecoder();

/**
 * What makes an attribute ambiguous, in one sentence, or null: it has one value, in the field that its type names, or refers to one of the
 * enclosing function. A reader that went by the type and one that went by the field would see two models.
 */
export function attributeFault(attribute: OnnxAttribute, inFunction: boolean): string | null {
  const { type = 0, refAttrName = '' } = attribute;
  const given: ValueField[] = [];
  for (const field of FIELDS) {
    const value = attribute[field];
    if (Array.isArray(value) ? value.length > 0 : value !== undefined) given.push(field);
  }
  if (!TYPES.has(type)) return `The attribute has the unknown type ${type}.`;
  if (refAttrName !== '' && !inFunction) return 'The attribute refers to one of a function, and this is none.';
  if (refAttrName !== '' && given.length > 0) return 'The attribute has a value and refers to another one.';
  if (given.length > 1) return `The attribute has values in ${given.length} fields.`;
  const [field] = given;
  return field === undefined || TYPE_OF[field] === type ? null : `The attribute's value is not of its type ${type}.`;
}

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
