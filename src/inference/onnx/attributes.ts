import type { OnnxAttribute } from './schema.ts';

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
