import { type GraphQLSchema, graphql } from 'graphql';
import { describe, expect, it } from 'vitest';
import { scalars } from '../../src/graphql/scalars.ts';
import { executableSchema } from '../../src/graphql/schema.ts';

const typeDefs = `
  schema { query: Query }
  scalar DateTime
  interface Named { name: String! }
  type Query { at(instant: DateTime!): DateTime! subscription: Subscription! named: Named! }
  type Subscription implements Named { name: String! }
`;
const resolvers = {
  DateTime: scalars.DateTime,
  Query: {
    at: (_: unknown, { instant }: { instant: Date }) => new Date(instant.getTime() + 1000),
    subscription: () => ({}),
    named: () => ({}),
  },
  Subscription: { name: () => 'resolved' },
  Named: { __resolveType: () => 'Subscription' },
};

async function ask(schema: GraphQLSchema, source: string): Promise<unknown> {
  return JSON.parse(JSON.stringify(await graphql({ schema, source })));
}

describe('an executable schema', () => {
  it('has the roots that it says: a type named Subscription is a type like others', async () => {
    const schema = executableSchema(typeDefs, resolvers);
    expect(schema.getSubscriptionType()).toBeUndefined();
    expect(await ask(schema, '{ __schema { subscriptionType { name } } }')).toEqual({ data: { __schema: { subscriptionType: null } } });
    expect(await ask(schema, 'subscription { name }')).toMatchObject({ errors: [{ message: expect.stringContaining('subscription') }] });
  });

  it('resolves fields, scalars both ways, and which type an interface stands for', async () => {
    const answer = await ask(
      executableSchema(typeDefs, resolvers),
      '{ at(instant: "2026-11-23T10:30:00+01:00") subscription { name } named { __typename } }',
    );
    expect(answer).toEqual({
      data: { at: '2026-11-23T09:30:01.000Z', subscription: { name: 'resolved' }, named: { __typename: 'Subscription' } },
    });
  });

  it.each([
    ['a type', { Nothing: {} }, 'the schema has no type Nothing'],
    ['a field', { Query: { nothing: () => 1 } }, 'the schema has no field Query.nothing'],
    ['the type of an object', { Query: { __resolveType: () => 'Query' } }, 'the schema has no field Query.__resolveType'],
  ])('refuses a resolver of %s that it lacks', (_, more, message) => {
    expect(() => executableSchema(typeDefs, more)).toThrow(message);
  });
});
