import type { IncomingHttpHeaders, ServerResponse } from 'node:http';
import { ApolloServer, HeaderMap, type HTTPGraphQLResponse } from '@apollo/server';
import type { Access, Invalidations, Principal } from '../access/access.ts';
import type { Database } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import type { Hold } from '../base/held-bytes.ts';
import type { Log } from '../base/log.ts';
import { Call } from './call.ts';
import { createContext, type RequestParts } from './context.ts';
import { hidesCause, publicError, refusal, retryOf } from './errors.ts';
import { executeKnown, KnownDocuments } from './known.ts';
import { assertWithinLimits, GRAPHQL_LIMITS } from './limits.ts';
import { asksForCredentials, predictAlone } from './operations.ts';
import { answerPlugin, switchedOff } from './plugins.ts';
import { rateHeaders } from './rate-headers.ts';
import { executableSchema, type ResolverMap } from './schema.ts';

/** What a server of any schema needs; the marketplace's services have it. */
export type Base = {
  db: Database;
  access: Pick<Access, 'authenticate'> & { invalidations: Pick<Invalidations, 'isFresh' | 'refresh'> };
};

export type GraphQLRequest = {
  requestId: string;
  headers: IncomingHttpHeaders;
  /** The parsed JSON body, whatever it is. */
  body: unknown;
  /** What it holds of memory; null: nothing that is counted. */
  bodyHold: Hold | null;
  /** Its `close` before the answer is the client hanging up. */
  response: ServerResponse;
};

export type GraphQLAnswer = {
  status: number;
  contentType: string;
  /** Further headers: of rates, where something was limited. */
  headers: Record<string, string>;
  body: string;
  /** Whether something, as a revocation, waits for it to be handed over. */
  held: boolean;
  /** To be called once, right after the body was handed to the socket, or dropped. */
  answered(): void;
};

export type GraphQLServer = {
  /** Always answers; rejects only where Apollo itself breaks. */
  handle(request: GraphQLRequest): Promise<GraphQLAnswer>;
  /**
   * With nothing between this and the system call that sends: what of an answer may go out. A revocation does not wait for a process that is cut off from the
   * database; what such a one holds it may not hand out, and says OUTCOME_UNKNOWN. A promise only where it was cut off.
   */
  release(answer: GraphQLAnswer, request: GraphQLRequest): GraphQLAnswer | Promise<GraphQLAnswer>;
  stop(): Promise<void>;
};

/**
 * Serves a schema. Status: 200 for `application/json`; for `application/graphql-response+json` the catalogue's where there is no data; 400
 * and 406 for what is no GraphQL request, for either.
 */
export async function serveGraphQL<S extends Base>(
  services: S,
  schema: { typeDefs: string; resolvers: ResolverMap },
  log: Log,
): Promise<GraphQLServer> {
  const executable = executableSchema(schema.typeDefs, schema.resolvers);
  const known = new KnownDocuments(executable);
  const apollo = new ApolloServer<S & RequestParts & { call: Call }>({
    schema: executable,
    introspection: true,
    csrfPrevention: true,
    allowBatchedHttpRequests: false,
    persistedQueries: false,
    includeStacktraceInErrorResponses: false,
    stopOnTerminationSignals: false,
    nodeEnv: 'production',
    logger: log,
    parseOptions: { maxTokens: GRAPHQL_LIMITS.tokens },
    validationRules: [predictAlone],
    validationOptions: { maxErrors: 10 },
    formatError: (_formatted, error) => publicError(error),
    plugins: [...switchedOff, answerPlugin(known)],
  });
  await apollo.start();

  async function execute(request: GraphQLRequest, call: Call): Promise<GraphQLAnswer> {
    try {
      const contentType = plainType(request.headers.accept);
      const again = contentType === null ? null : known.find(request.body);
      if (contentType !== null && again !== null) {
        const body = await executeKnown(again, createContext(services, call), call);
        return {
          status: statusFor(contentType, call.status ?? 200),
          contentType,
          headers: headersOf(call),
          body,
          held: call.holdsAnswer,
          answered: () => call.answered(),
        };
      }
      const httpGraphQLRequest = { method: 'POST', headers: headerMap(request.headers), search: '', body: request.body };
      return answer(
        await apollo.executeHTTPGraphQLRequest({ httpGraphQLRequest, context: async () => createContext(services, call) }),
        call,
      );
    } finally {
      const closing = call.close();
      if (closing) await closing;
    }
  }

  async function handle(request: GraphQLRequest): Promise<GraphQLAnswer> {
    let principal: Principal | null;
    try {
      assertDocumentWithinLimits(request.body, known);
      const found = services.access.authenticate(credentialsOf(request.headers));
      principal = found instanceof Promise ? await found : found;
      if (principal !== null) request.bodyHold?.moveTo(principal.tenantId);
    } catch (error) {
      if (!(error instanceof MercatoError && error.code === 'UNAUTHENTICATED' && asksForCredentials(request.body))) {
        return refuse(error, request, log);
      }
      principal = null;
    }
    const call = new Call(services.db, log, request.requestId, principal, request.response);
    try {
      return await execute(request, call);
    } catch (error) {
      call.answered();
      throw error;
    }
  }

  function release(answer: GraphQLAnswer, request: GraphQLRequest): GraphQLAnswer | Promise<GraphQLAnswer> {
    return !answer.held || services.access.invalidations.isFresh() ? answer : releaseAfterLook(answer, request);
  }

  /** Asks the database once more: that it paused is no reason to keep back what was billed. */
  async function releaseAfterLook(answer: GraphQLAnswer, request: GraphQLRequest): Promise<GraphQLAnswer> {
    const { invalidations } = services.access;
    await invalidations.refresh().catch(() => undefined);
    if (invalidations.isFresh()) return answer;
    answer.answered();
    return refuse(new MercatoError('OUTCOME_UNKNOWN'), request, log);
  }

  return { handle, release, stop: () => apollo.stop() };
}

/** A known document is within them. */
function assertDocumentWithinLimits(body: unknown, known: KnownDocuments): void {
  if (typeof body !== 'object' || body === null || !('query' in body) || typeof body.query !== 'string') return;
  if (!known.has(body.query)) assertWithinLimits(body.query);
}

/** What of a request's headers says who calls. */
export function credentialsOf(headers: IncomingHttpHeaders): { authorization: string | undefined; apiKey: string | undefined } {
  const apiKey = headers['x-api-key'];
  return { authorization: headers.authorization, apiKey: typeof apiKey === 'string' ? apiKey : undefined };
}

/** Only what Apollo looks at; copying a request's twenty headers would cost more than reading them. */
const READ_HEADERS = ['content-type', 'accept', 'x-apollo-operation-name', 'apollo-require-preflight'];

function headerMap(headers: IncomingHttpHeaders): HeaderMap {
  const map = new HeaderMap();
  for (const name of READ_HEADERS) {
    const value = headers[name];
    if (typeof value === 'string') map.set(name, value);
  }
  return map;
}

/** The answer's type where what is accepted leaves no choice; null where Apollo has to weigh it. */
function plainType(accept: string | undefined): string | null {
  if (accept === undefined || accept === '*/*' || accept === 'application/json') return JSON_TYPE;
  return accept === GRAPHQL_TYPE ? `${GRAPHQL_TYPE}; charset=utf-8` : null;
}

const JSON_TYPE = 'application/json; charset=utf-8';
const GRAPHQL_TYPE = 'application/graphql-response+json';

function answer(response: HTTPGraphQLResponse, call: Call): GraphQLAnswer {
  if (response.body.kind !== 'complete') throw new Error('incremental delivery is not served');
  const contentType = response.headers.get('content-type') ?? JSON_TYPE;
  const isOperation = call.status !== null && response.status !== 406;
  const status = isOperation ? statusFor(contentType, call.status ?? 200) : (response.status ?? 400);
  return {
    status,
    contentType,
    headers: headersOf(call),
    body: response.body.string,
    held: call.holdsAnswer,
    answered: () => call.answered(),
  };
}

const headersOf = (call: Call) => rateHeaders(call.allowances, call.retryAfterMs);

/** The operation was not begun. */
function refuse(cause: unknown, request: GraphQLRequest, log: Log): GraphQLAnswer {
  const { status, error } = refusal(cause, request.requestId);
  if (hidesCause(error, cause)) log.error({ err: cause, requestId: request.requestId }, 'a request failed before its operation');
  const contentType = request.headers.accept?.includes(GRAPHQL_TYPE) ? `${GRAPHQL_TYPE}; charset=utf-8` : JSON_TYPE;
  return {
    status: statusFor(contentType, status),
    contentType,
    headers: rateHeaders([], retryOf(error)),
    body: `${JSON.stringify({ errors: [error] })}\n`,
    held: false,
    answered: () => {},
  };
}

function statusFor(contentType: string, status: number): number {
  return contentType.startsWith(GRAPHQL_TYPE) ? status : 200;
}
