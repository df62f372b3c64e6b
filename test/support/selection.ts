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
 * An operation that asks a root field for everything it can answer: every field of every type on the way, each type once on a path and, with what it
 * leads to, once in all. Its variables have the names of the field's arguments. Of an interface `types` are asked for, by name: all at once would be too complex.
 */
export function wholeQuestion(
  schema: GraphQLSchema,
  kind: 'query' | 'mutation',
  field: GraphQLField<unknown, unknown>,
  types: readonly string[] | null = null,
): string {
  const type = getNamedType(field.type);
  const declared = field.args.map((arg) => `$${arg.name}: ${arg.type}`).join(', ');
  const given = field.args.map((arg) => `${arg.name}: $${arg.name}`).join(', ');
  const [variables, args] = field.args.length === 0 ? ['', ''] : [`(${declared})`, `(${given})`];
  return `${kind} ${variables} { ${field.name}${args} ${
    isAbstractType(type)
      ? fragments(
          schema,
          schema.getPossibleTypes(type).filter(({ name }) => types?.includes(name) ?? true),
          [],
        )
      : selection(schema, type, [])
  } }`;
}

/** The object types that `wholeQuestion` asks of a type's fields. */
export function typesBelow(schema: GraphQLSchema, type: GraphQLNamedType, found = new Set<string>()): Set<string> {
  if (isAbstractType(type)) for (const one of schema.getPossibleTypes(type)) typesBelow(schema, one, found);
  if (!isObjectType(type) || found.has(type.name)) return found;
  found.add(type.name);
  for (const field of Object.values(type.getFields())) typesBelow(schema, getNamedType(field.type), found);
  return found;
}

/** How often in one question a type is asked for the objects that it leads to, where it is not what was asked for; after that for its own values alone, else no question would be allowed. */
const EXPANSIONS_MAX = 1;

function selection(
  schema: GraphQLSchema,
  type: GraphQLNamedType,
  path: readonly string[],
  expanded = new Map<string, number>(),
  aliased: ReadonlySet<string> = new Set(),
): string {
  if (isLeafType(type)) return '';
  if (isAbstractType(type)) return fragments(schema, schema.getPossibleTypes(type), path, expanded);
  if (!isObjectType(type)) throw new Error(`${type.name} cannot be asked for`);
  const times = expanded.get(type.name) ?? 0;
  expanded.set(type.name, times + 1);
  const spent = path.length > 0 && times >= EXPANSIONS_MAX;
  const below = [...path, type.name];
  const fields = Object.values(type.getFields()).flatMap((field) => {
    const inner = getNamedType(field.type);
    if (below.includes(inner.name) || (spent && !isLeafType(inner))) return [];
    const alias = aliased.has(field.name) ? `${type.name}_${field.name}: ` : '';
    return `${alias}${field.name} ${selection(schema, inner, below, expanded)}`;
  });
  return fields.length === 0 ? '{ __typename }' : `{ ${fields.join(' ')} }`;
}

function fragments(
  schema: GraphQLSchema,
  types: readonly GraphQLObjectType[],
  path: readonly string[],
  expanded = new Map<string, number>(),
): string {
  const twofold = namesOfSeveralTypes(types);
  return `{ __typename ${types.map((one) => `... on ${one.name} ${selection(schema, one, path, expanded, twofold)}`).join(' ')} }`;
}

/** Fields of one name and different types may not meet in one selection. */
function namesOfSeveralTypes(types: readonly GraphQLObjectType[]): Set<string> {
  const fields = types.flatMap((type) => Object.values(type.getFields()));
  return new Set(fields.filter((a) => fields.some((b) => a.name === b.name && String(a.type) !== String(b.type))).map(({ name }) => name));
}
