import { buildSchema, type GraphQLNamedType, type GraphQLSchema, isAbstractType, isObjectType, isScalarType } from 'graphql';

// biome-ignore lint/suspicious/noExplicitAny: as graphql-js and Apollo type them; the contexts' own resolvers are typed
export type ResolverMap = Record<string, any>;

/**
 * A schema with its resolvers: functions of fields, `__resolveType` of interfaces and unions, whole scalars. A resolver of what the schema lacks
 * throws. Apollo's own way would take any type of the name Subscription for the root of subscription operations, whatever `schema { }` says.
 */
export function executableSchema(typeDefs: string, resolvers: ResolverMap): GraphQLSchema {
  const schema = buildSchema(typeDefs);
  for (const [name, resolver] of Object.entries(resolvers)) {
    const type = schema.getType(name);
    if (type === undefined) throw new Error(`the schema has no type ${name}`);
    resolve(type, resolver);
  }
  return schema;
}

function resolve(type: GraphQLNamedType, resolver: ResolverMap): void {
  if (isScalarType(type) && isScalarType(resolver)) {
    const { serialize, parseValue, parseLiteral } = resolver;
    Object.assign(type, { serialize, parseValue, parseLiteral });
    return;
  }
  for (const [name, fn] of Object.entries(resolver)) {
    const field = isObjectType(type) ? type.getFields()[name] : undefined;
    if (field) field.resolve = fn;
    else if (isAbstractType(type) && name === '__resolveType') type.resolveType = fn;
    else throw new Error(`the schema has no field ${type.name}.${name}`);
  }
}
