import { Agent, request } from 'node:http';

export type GraphQLAnswer = {
  data: Record<string, unknown> | null;
  errors?: { message: string; extensions: Record<string, unknown> & { code: string } }[];
};

/** A GraphQL client over at most `connections` kept-alive connections. A lost connection rejects. */
export class Client implements Disposable {
  private readonly agent: Agent;
  private readonly url: string;

  constructor(url: string, connections = 8) {
    this.url = url;
    this.agent = new Agent({ keepAlive: true, maxSockets: connections });
  }

  /** Where `signal` aborts, the client hangs up. */
  send(query: string, variables: object, token: string | null, signal?: AbortSignal): Promise<GraphQLAnswer> {
    const body = JSON.stringify({ query, variables });
    return new Promise((resolve, reject) => {
      const headers = {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
      };
      const sent = request(`${this.url}/graphql`, { method: 'POST', agent: this.agent, headers, ...(signal && { signal }) }, (response) => {
        const parts: Buffer[] = [];
        response.on('data', (part: Buffer) => parts.push(part));
        response.on('error', reject);
        response.on('end', () => {
          try {
            resolve(JSON.parse(Buffer.concat(parts).toString('utf8')) as GraphQLAnswer);
          } catch (error) {
            reject(error);
          }
        });
      });
      sent.on('error', reject);
      sent.end(body);
    });
  }

  /** The data of an operation that must succeed. */
  async ask<T>(query: string, variables: object, token: string | null): Promise<T> {
    const answer = await this.send(query, variables, token);
    if (answer.errors || answer.data === null) throw new Error(`refused: ${JSON.stringify(answer.errors)}`);
    return answer.data as T;
  }

  [Symbol.dispose](): void {
    this.agent.destroy();
  }
}

const PREDICT = `mutation ($input: PredictInput!) { predict(input: $input) {
  prediction { id outputs { name data } usage { units amount { nanos } } replayed } } }`;

export type Predicted = {
  id: string;
  outputs: { name: string; data: unknown[] }[];
  usage: { units: number; amount: { nanos: string } };
  replayed: boolean;
};

const BLANK = Buffer.alloc(784).toString('base64');

/** One blank image for `mercato/digits`, or the code of the refusal. */
export async function predictDigit(client: Client, token: string, input: object = {}, signal?: AbortSignal): Promise<Predicted | string> {
  const tensors = [{ name: 'image', datatype: 'UINT8', shape: [1, 28, 28], data: BLANK }];
  const variables = { input: { model: 'mercato/digits', inputs: tensors, outputs: ['label'], ...input } };
  const answer = await client.send(PREDICT, variables, token, signal);
  const data = answer.data as { predict: { prediction: Predicted } } | null;
  return data?.predict.prediction ?? answer.errors?.[0]?.extensions.code ?? 'NO_ANSWER';
}

/** Runs `work` for 0 … count − 1, at most `width` at once, until done. */
export async function inParallel(count: number, width: number, work: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (let i = next++; i < count; i = next++) await work(i);
    }),
  );
}
