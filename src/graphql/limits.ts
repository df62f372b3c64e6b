import { type DocumentNode, type FragmentDefinitionNode, GraphQLError, Kind, parse, type SelectionSetNode } from 'graphql';
import { MercatoError } from '../base/errors.ts';

/**
 * Bounds of one GraphQL document. Measured: 10,000 tokens parse in 6 ms, also as one literal tensor; 500 fields in their worst arrangement
 * validate in under 40 ms; GraphiQL's introspection has about 170 fields, fragments included, and is exempt from the depth.
 */
export const GRAPHQL_LIMITS = { tokens: 10_000, depth: 12, fields: 500, aliases: 30, queryRootFields: 20, mutationRootFields: 10 } as const;

/** Selection sets and fragments within one another; GraphiQL's introspection needs 20. */
const NESTING_MAX = 64;

/**
 * Refuses a document beyond the bounds, before validation, whose cost grows with the square of some of them. A document that does not
 * parse passes: the parser's own error says more.
 * @throws QUERY_TOO_COMPLEX with `field`, `given` and `limit`
 */
export function assertWithinLimits(source: string): void {
  const document = parseBounded(source);
  if (document !== null) assertSize(document);
}

function parseBounded(source: string): DocumentNode | null {
  try {
    return parse(source, { noLocation: true, maxTokens: GRAPHQL_LIMITS.tokens });
  } catch (error) {
    if (error instanceof RangeError) throw tooComplex('depth', 'more', GRAPHQL_LIMITS.depth);
    if (error instanceof GraphQLError && /Document contains more tha[nt] \d+ tokens/.test(error.message)) {
      throw tooComplex('tokens', 'more', GRAPHQL_LIMITS.tokens);
    }
    return null;
  }
}

function assertSize(document: DocumentNode): void {
  const measure = createMeasure(document);
  let fields = 0;
  let aliases = 0;
  for (const definition of document.definitions) {
    if (definition.kind !== Kind.OPERATION_DEFINITION && definition.kind !== Kind.FRAGMENT_DEFINITION) continue;
    const size = measure(definition.selectionSet, 0);
    fields += size.fields;
    if (definition.kind === Kind.FRAGMENT_DEFINITION) continue;
    aliases += size.aliases;
    atMost('depth', size.depth, GRAPHQL_LIMITS.depth);
    if (definition.operation === 'mutation') atMost('mutation root fields', size.top, GRAPHQL_LIMITS.mutationRootFields);
    else atMost('root fields', size.top, GRAPHQL_LIMITS.queryRootFields);
  }
  atMost('aliases', aliases, GRAPHQL_LIMITS.aliases);
  atMost('fields', fields, GRAPHQL_LIMITS.fields);
}

/** Counts as if every fragment were written out; `top` are the fields of the set's own level. */
type Size = { top: number; fields: number; aliases: number; depth: number };
const NOTHING: Size = { top: 0, fields: 0, aliases: 0, depth: 0 };

/** Each fragment is measured once, so a document that doubles with every fragment costs no more than its own length. */
function createMeasure(document: DocumentNode) {
  const fragments = new Map<string, FragmentDefinitionNode>();
  for (const definition of document.definitions) {
    if (definition.kind === Kind.FRAGMENT_DEFINITION) fragments.set(definition.name.value, definition);
  }
  const measured = new Map<string, Size>();

  function measureFragment(name: string, nesting: number): Size {
    const known = measured.get(name);
    if (known) return known;
    const fragment = fragments.get(name);
    measured.set(name, NOTHING); // a cycle ends here; validation reports it
    const size = fragment ? measure(fragment.selectionSet, nesting) : NOTHING;
    measured.set(name, size);
    return size;
  }

  function measure(set: SelectionSetNode, nesting: number): Size {
    if (nesting > NESTING_MAX) throw tooComplex('depth', 'more', GRAPHQL_LIMITS.depth);
    const sum = { ...NOTHING };
    for (const node of set.selections) {
      if (node.kind === Kind.FIELD) addField(sum, node, node.selectionSet ? measure(node.selectionSet, nesting + 1) : NOTHING);
      else if (node.kind === Kind.INLINE_FRAGMENT) addSet(sum, measure(node.selectionSet, nesting + 1));
      else addSet(sum, measureFragment(node.name.value, nesting + 1));
    }
    return sum;
  }
  return measure;
}

function addField(sum: Size, node: { name: { value: string }; alias?: unknown }, inner: Size): void {
  const isIntrospection = node.name.value === '__schema' || node.name.value === '__type';
  sum.top += 1;
  sum.fields += 1 + inner.fields;
  sum.aliases += (node.alias ? 1 : 0) + inner.aliases;
  sum.depth = Math.max(sum.depth, 1 + (isIntrospection ? 0 : inner.depth));
}

function addSet(sum: Size, inner: Size): void {
  sum.top += inner.top;
  sum.fields += inner.fields;
  sum.aliases += inner.aliases;
  sum.depth = Math.max(sum.depth, inner.depth);
}

function atMost(what: string, count: number, limit: number): void {
  if (count > limit) throw tooComplex(what, String(count), limit);
}

function tooComplex(what: string, given: string, limit: number): MercatoError {
  return new MercatoError('QUERY_TOO_COMPLEX', `The document has more ${what} than this server accepts: ${limit}.`, {
    field: what,
    given,
    limit: String(limit),
  });
}
