import {
  type GraphQLField,
  type GraphQLNamedType,
  type GraphQLObjectType,
  type GraphQLSchema,
  getNamedType,
  isAbstractType,
  isLeafType,
  isObjectType,
} from 'graphql';

/**
 * An operation that asks a root field for everything it can answer: every field of every type on the way, each type once on a path. Its
 * variables have the names of the field's arguments.
 */
export function wholeQuestion(schema: GraphQLSchema, kind: 'query' | 'mutation', field: GraphQLField<unknown, unknown>): string {
  const type = getNamedType(field.type);
  const declared = field.args.map((arg) => `$${arg.name}: ${arg.type}`).join(', ');
  const given = field.args.map((arg) => `${arg.name}: $${arg.name}`).join(', ');
  const [variables, args] = field.args.length === 0 ? ['', ''] : [`(${declared})`, `(${given})`];
  return `${kind} ${variables} { ${field.name}${args} ${selection(schema, type, [])} }`;
}

/** The object types that `wholeQuestion` asks of a type's fields. */
export function typesBelow(schema: GraphQLSchema, type: GraphQLNamedType, found = new Set<string>()): Set<string> {
  if (isAbstractType(type)) for (const one of schema.getPossibleTypes(type)) typesBelow(schema, one, found);
  if (!isObjectType(type) || found.has(type.name)) return found;
  found.add(type.name);
  for (const field of Object.values(type.getFields())) typesBelow(schema, getNamedType(field.type), found);
  return found;
}

function selection(
  schema: GraphQLSchema,
  type: GraphQLNamedType,
  path: readonly string[],
  aliased: ReadonlySet<string> = new Set(),
): string {
  if (isLeafType(type)) return '';
  if (isAbstractType(type)) {
    const types = schema.getPossibleTypes(type);
    const twofold = namesOfSeveralTypes(types);
    return `{ __typename ${types.map((one) => `... on ${one.name} ${selection(schema, one, path, twofold)}`).join(' ')} }`;
  }
  if (!isObjectType(type)) throw new Error(`${type.name} cannot be asked for`);
  const below = [...path, type.name];
  const fields = Object.values(type.getFields()).flatMap((field) => {
    const inner = getNamedType(field.type);
    const alias = aliased.has(field.name) ? `${type.name}_${field.name}: ` : '';
    return below.includes(inner.name) ? [] : [`${alias}${field.name} ${selection(schema, inner, below)}`];
  });
  return `{ ${fields.join(' ')} }`;
}

/** Fields of one name and different types may not meet in one selection. */
function namesOfSeveralTypes(types: readonly GraphQLObjectType[]): Set<string> {
  const fields = types.flatMap((type) => Object.values(type.getFields()));
  return new Set(fields.filter((a) => fields.some((b) => a.name === b.name && String(a.type) !== String(b.type))).map(({ name }) => name));
}
