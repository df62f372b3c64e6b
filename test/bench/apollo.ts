import { ApolloServer, HeaderMap } from '@apollo/server';
import Fastify from 'fastify';

const typeDefs = `
  scalar TensorData
  type Tensor { name: String! data: TensorData! }
  type Usage { units: Int! }
  type Prediction { outputs: [Tensor!]! usage: Usage! }
  type Payload { prediction: Prediction! }
  input TensorInput { name: String! datatype: String! shape: [Int!] data: TensorData! }
  input PredictInput { model: String! inputs: [TensorInput!]! outputs: [String!] idempotencyKey: String deadlineMs: Int }
  type Query { ok: Boolean! }
  type Mutation { predict(input: PredictInput!): Payload! }
`;

export type PredictArguments = { input: { outputs: string[]; inputs: { name: string; shape: number[]; data: string }[] } };
export type PredictPayload = { prediction: { outputs: { name: string; data: unknown }[]; usage: { units: number } } };

/** What the baselines are: Apollo Server on Fastify, nothing else around one resolver. Prints its address. */
export async function serve(predict: (args: PredictArguments) => PredictPayload | Promise<PredictPayload>): Promise<void> {
  const resolvers = { Mutation: { predict: (_: unknown, args: PredictArguments) => predict(args) } };
  const apollo = new ApolloServer({ typeDefs, resolvers, nodeEnv: 'production' });
  await apollo.start();
  const fastify = Fastify({ bodyLimit: 16 * 1024 * 1024 });
  fastify.post('/graphql', async (request, reply) => {
    const headers = new HeaderMap();
    for (const [name, value] of Object.entries(request.headers)) if (value !== undefined) headers.set(name, String(value));
    const response = await apollo.executeHTTPGraphQLRequest({
      httpGraphQLRequest: { method: 'POST', headers, search: '', body: request.body },
      context: async () => ({}),
    });
    for (const [name, value] of response.headers) reply.header(name, value);
    reply.status(response.status ?? 200);
    return response.body.kind === 'complete' ? response.body.string : '';
  });
  console.log(await fastify.listen({ port: 0, host: '127.0.0.1' }));
}
