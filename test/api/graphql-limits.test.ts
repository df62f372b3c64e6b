import { buildSchema, getIntrospectionQuery, parse } from 'graphql';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { KnownDocuments } from '../../src/graphql/known.ts';
import { GRAPHQL_LIMITS } from '../../src/graphql/limits.ts';
import { answerOf, codeOf, startTinyServer, type TinyServer } from '../support/tiny-server.ts';

const typeDefs = `
  type Query { tree: Tree! n: Int! }
  type Tree { tree: Tree! n: Int! }
  type Mutation { echo(data: TensorData!): TensorData! }`;
const tree = { n: 1, tree: () => tree };
const resolvers = {
  Query: { tree: () => tree, n: () => 1 },
  Mutation: { echo: (_: unknown, { data }: { data: unknown }) => data },
};

let server: TinyServer;
beforeAll(async () => {
  server = await startTinyServer({ typeDefs, resolvers });
});
afterAll(() => server[Symbol.asyncDispose]());

const outcomeOf = async (body: object) => codeOf(await server.post(body));
const outcome = (query: string) => outcomeOf({ query });

const nested = (depth: number) => `${'{tree'.repeat(depth - 1)}{n}${'}'.repeat(depth - 1)}`;
const aliased = (count: number) => `{tree{${Array.from({ length: count }, (_, i) => `a${i}:n`).join(' ')}}}`;
const roots = (count: number) => `{${'n '.repeat(count)}}`;
const mutations = (count: number) => `mutation{${'echo(data:[1]) '.repeat(count)}}`;
const fields = (count: number) => `{tree{${'n '.repeat(count - 1)}}}`;
const literal = (count: number) => `mutation{echo(data:[${'1 '.repeat(count)}])}`;

describe('an operation', () => {
  it.each([
    ['depth', nested, GRAPHQL_LIMITS.depth],
    ['aliases', aliased, GRAPHQL_LIMITS.aliases],
    ['root fields', roots, GRAPHQL_LIMITS.queryRootFields],
    ['mutation root fields', mutations, GRAPHQL_LIMITS.mutationRootFields],
    ['fields', fields, GRAPHQL_LIMITS.fields],
  ])('of as much %s as allowed is answered; with one more it is QUERY_TOO_COMPLEX', async (_, make, limit) => {
    expect(await outcome(make(limit))).toBe('OK');
    expect(await outcome(make(limit + 1))).toBe('QUERY_TOO_COMPLEX');
    expect(await outcome(make(limit + 1))).toBe('QUERY_TOO_COMPLEX');
  });

  it('of more tokens than allowed is QUERY_TOO_COMPLEX, a literal tensor of nearly as many is answered', async () => {
    expect(await outcome(literal(GRAPHQL_LIMITS.tokens - 20))).toBe('OK');
    expect(await outcome(literal(GRAPHQL_LIMITS.tokens))).toBe('QUERY_TOO_COMPLEX');
  });

  it('says what was too much', async () => {
    const { errors } = await answerOf(await server.post({ query: aliased(31) }));
    expect(errors?.[0]?.extensions).toEqual({ code: 'QUERY_TOO_COMPLEX', retryable: false, field: 'aliases', given: '31', limit: '30' });
  });

  it.each([
    [
      'doubles with every fragment',
      `{...f0}${Array.from({ length: 60 }, (_, i) => `fragment f${i} on Query{...f${i + 1} tree{...g} ...f${i + 1}}`).join('')}fragment f60 on Query{n}fragment g on Tree{n}`,
    ],
    [
      'hides depth in a chain of fragments',
      `{tree{...f0}}${Array.from({ length: 20 }, (_, i) => `fragment f${i} on Tree{tree{...f${i + 1}}}`).join('')}fragment f20 on Tree{n}`,
    ],
    [
      'hides aliases in fragments',
      `{tree{...f a:tree{...f} b:tree{...f} c:tree{...f}}}fragment f on Tree{${Array.from({ length: 8 }, (_, i) => `f${i}:n`).join(' ')}}`,
    ],
    ['splits its fields over operations', Array.from({ length: 200 }, (_, i) => `query q${i}{tree{n tree{n}}}`).join('')],
    ['nests thousands deep', nested(3_000)],
    ['nests a literal thousands deep', `mutation{echo(data:${'['.repeat(4_900)}${']'.repeat(4_900)})}`],
  ])('that %s is refused', async (_, query) => {
    expect(['QUERY_TOO_COMPLEX', 'BAD_USER_INPUT']).toContain(await outcome(query));
  });

  it('whose fragments form a cycle is BAD_USER_INPUT', async () => {
    expect(await outcome('{tree{...a}}fragment a on Tree{tree{...b}}fragment b on Tree{tree{...a}}')).toBe('BAD_USER_INPUT');
  });

  it('that repeats a directive is BAD_USER_INPUT', async () => {
    expect(await outcome(`{n${' @skip(if:false)'.repeat(1_000)}}`)).toBe('BAD_USER_INPUT');
  });
});

describe('known documents', () => {
  const remember = (known: KnownDocuments, query: string) => known.remember(query, parse(query));
  const numbered = (n: number) => `{n${n}}`;

  it('are at most 500, and the one asked for least recently is forgotten first', () => {
    const known = new KnownDocuments(buildSchema('type Query { n: Int }'));
    for (let n = 0; n < 500; n++) remember(known, numbered(n));
    expect(known.find({ query: numbered(0) })).toMatchObject({ operation: 'query', variables: null });
    remember(known, numbered(500));
    expect([0, 1, 2, 500].map((n) => known.has(numbered(n)))).toEqual([true, false, true, true]);
  });

  it('are none of more than 2,000 characters', () => {
    const known = new KnownDocuments(buildSchema('type Query { n: Int }'));
    const padded = (length: number) => '{n}'.padEnd(length);
    remember(known, padded(2_000));
    remember(known, padded(2_001));
    expect([known.has(padded(2_000)), known.has(padded(2_001))]).toEqual([true, false]);
  });

  it('are answered as before, also where a request names its operation', async () => {
    const query = 'query named{n}';
    for (const operationName of [null, null, 'named', null]) expect(await outcomeOf({ query, operationName })).toBe('OK');
    expect(await outcomeOf({ query, operationName: 'other' })).toBe('BAD_USER_INPUT');
  });
});

describe('introspection', () => {
  it('as GraphiQL and other tools send it is answered', async () => {
    const full = { schemaDescription: true, specifiedByUrl: true, directiveIsRepeatable: true, inputValueDeprecation: true, oneOf: true };
    expect(await outcome(getIntrospectionQuery(full))).toBe('OK');
  });

  it('that goes round in circles is refused', async () => {
    const circle = (n: number): string => (n === 0 ? 'name' : `fields{type{${circle(n - 1)}}}`);
    expect(await outcome(`{__schema{types{${circle(8)}}}}`)).toBe('BAD_USER_INPUT');
  });
});

describe('TensorData', () => {
  const echo = async (body: unknown) => (await answerOf(await server.post(body))).data?.echo;

  it('passes strings and nested lists through as they are', async () => {
    const query = 'mutation($data:TensorData!){echo(data:$data)}';
    for (const data of ['AAAA', [1, 2.5, -3], [[true], [false]], ['9223372036854775807', 'NaN'], []]) {
      expect(await echo({ query, variables: { data } })).toEqual(data);
    }
  });

  it('keeps every digit of a 64-bit literal', async () => {
    const query = 'mutation{echo(data:[[1,-2.5,9007199254740991,9223372036854775807],["NaN",true]])}';
    expect(await echo({ query })).toEqual([
      [1, -2.5, 9007199254740991, '9223372036854775807'],
      ['NaN', true],
    ]);
  });

  it.each(['7', '{a:1}', 'null', '[null]', '[NaN]', '[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]'])('refuses %s', async (data) => {
    expect(await outcome(`mutation{echo(data:${data})}`)).toBe('BAD_USER_INPUT');
  });
});
