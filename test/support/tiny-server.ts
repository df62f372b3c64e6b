import { Readable } from 'node:stream';
import type { Principal } from '../../src/access/access.ts';
import type { Database } from '../../src/base/database.ts';
import { MercatoError } from '../../src/base/errors.ts';
import { createLog, type Log } from '../../src/base/log.ts';
import { scalars } from '../../src/graphql/scalars.ts';
import type { ResolverMap } from '../../src/graphql/schema.ts';
import { type Base, serveGraphQL } from '../../src/graphql/server.ts';
import { createHttp, type HttpOptions } from '../../src/http/server.ts';
import { openTestDatabase } from './database.ts';

export type TinyServer = AsyncDisposable & {
  url: string;
  db: Database;
  drain(): Promise<void>;
  /** POSTs JSON to /graphql; `body` is sent as it is where it is a string. */
  post(body: unknown, headers?: Record<string, string>): Promise<Response>;
};

const KNOWN: Principal = {
  tenantId: '00000000-0000-7000-8000-000000000001',
  userId: null,
  apiKeyId: null,
  memberId: null,
  role: null,
  isOperator: false,
  scopes: new Set(),
};

/** What GraphQL and every other route answer. */
export type Answered = {
  data?: Record<string, unknown> | null;
  errors?: { message: string; path?: string[]; locations?: { line: number }[]; extensions: { code: string } & Record<string, unknown> }[];
};

export async function answerOf(response: Response): Promise<Answered> {
  return (await response.json()) as Answered;
}

/** The code of the first error; OK where there is none. */
export async function codeOf(response: Response): Promise<string> {
  return (await answerOf(response)).errors?.[0]?.extensions.code ?? 'OK';
}

/** Knows one key, `good`; `none` or anything else is no valid credential. */
function authenticate({ apiKey }: { apiKey?: string | undefined }): Principal | null {
  if (apiKey === undefined) return null;
  if (apiKey === 'good') return KNOWN;
  throw new MercatoError('UNAUTHENTICATED');
}

async function discard(body: Readable): Promise<number> {
  let sizeBytes = 0;
  for await (const chunk of body) sizeBytes += (chunk as Buffer).length;
  return sizeBytes;
}

/** The whole of http/ and graphql/ on a real socket and database, with a schema of the test's own. */
export async function startTinyServer(
  schema: { typeDefs: string; resolvers: ResolverMap },
  options: Partial<HttpOptions> & { log?: Log; invalidations?: Base['access']['invalidations'] } = {},
): Promise<TinyServer> {
  const db = await openTestDatabase();
  const log = options.log ?? createLog('silent');
  const resolvers = { ...scalars, ...schema.resolvers };
  const typeDefs = `scalar DateTime scalar TensorData scalar JSON ${schema.typeDefs}`;
  const invalidations = options.invalidations ?? { isFresh: () => true, refresh: async () => {} };
  const graphql = await serveGraphQL({ db, access: { authenticate, invalidations } }, { typeDefs, resolvers }, log);
  const http = await createHttp({
    host: '127.0.0.1',
    port: 0,
    maxBodyBytes: 100_000,
    graphiql: true,
    adminToken: null,
    log,
    graphql,
    live: null,
    isReady: () => true,
    receiveUpload: async (_, body) => ({ sha256: 'none', sizeBytes: await discard(body) }),
    exportUsage: async () => ({ format: 'csv', lines: Readable.from([]) }),
    audit: async () => ({}),
    ...options,
  });
  const url = `http://127.0.0.1:${await http.listen()}`;
  return {
    url,
    db,
    drain: http.drain,
    post: (body, headers = {}) =>
      fetch(`${url}/graphql`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      }),
    async [Symbol.asyncDispose]() {
      await http.drain();
      await graphql.stop();
      await db[Symbol.asyncDispose]();
    },
  };
}
