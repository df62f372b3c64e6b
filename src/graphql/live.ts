import type { IncomingHttpHeaders } from 'node:http';
import {
  type DocumentNode,
  type ExecutionResult,
  execute,
  type FieldNode,
  GraphQLError,
  type GraphQLSchema,
  getArgumentValues,
  getOperationAST,
  getVariableValues,
  Kind,
  parse,
  validate,
} from 'graphql';
import type { Principal } from '../access/access.ts';
import { asReader, type Tx } from '../base/database.ts';
import { badInput } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Signals } from '../base/signals.ts';
import { Call, reportInternal } from './call.ts';
import { createContext } from './context.ts';
import { hidesCause, type PublicError, publicError } from './errors.ts';
import { assertWithinLimits, GRAPHQL_LIMITS } from './limits.ts';
import type { Base } from './server.ts';

/** How a field of LiveQuery is told that its answer may have changed; `hasEnded`: it will not change any more. */
export type LiveField = {
  topic: string;
  subject(args: never): string;
  hasEnded(tx: Tx, subject: string): Promise<boolean>;
};

export type LiveRequest = {
  requestId: string;
  /** Credentials, looked at before every answer. */
  headers: IncomingHttpHeaders;
  query: string;
  variables: Record<string, unknown> | null;
  operationName: string | null;
};

export type LiveAnswer = { data?: ExecutionResult['data']; errors?: PublicError[] };

export type Live = {
  /**
   * Answers a subscription operation now and after each change, coalesced, until nothing more happens, an answer has no data, or `signal` is aborted. What is
   * wrong with the request is one answer with errors. Equal answers are given once.
   */
  answers(request: LiveRequest, signal: AbortSignal): AsyncGenerator<LiveAnswer, void, void>;
  /** The caller by its credentials now. @throws UNAUTHENTICATED */
  authenticate(headers: LiveRequest['headers']): Promise<Principal | null>;
};

/** Credentials are looked at as often though nothing has changed. */
const LOOK_MS = 5_000;

type Services = Base & { signals: Signals };
type Asked = {
  document: DocumentNode;
  operationName: string | null;
  variables: Record<string, unknown>;
  field: LiveField;
  subject: string;
};

export function createLive<S extends Services>(services: S, schema: GraphQLSchema, fields: Record<string, LiveField>, log: Log): Live {
  async function authenticate(headers: LiveRequest['headers']): Promise<Principal | null> {
    const apiKey = headers['x-api-key'];
    return services.access.authenticate({ authorization: headers.authorization, apiKey: typeof apiKey === 'string' ? apiKey : undefined });
  }

  async function* answers(request: LiveRequest, signal: AbortSignal): AsyncGenerator<LiveAnswer, void, void> {
    let last = '';
    try {
      const asked = read(schema, fields, request);
      for await (const _ of services.signals.changes(asked.field.topic, asked.subject, signal, LOOK_MS)) {
        const principal = await authenticate(request.headers);
        // Before the answer: what has ended by then is in it.
        const ended = await asReader(services.db, principal?.tenantId ?? null, (tx) => asked.field.hasEnded(tx, asked.subject));
        const answer = await answerOnce(request, asked, principal, signal);
        const text = JSON.stringify(answer);
        if (text !== last && !signal.aborted) yield answer;
        last = text;
        if (ended || !answer.data) return;
      }
    } catch (error) {
      const shown = publicError(error);
      if (hidesCause(shown, error)) log.error({ err: error, requestId: request.requestId }, 'a live operation failed');
      yield { errors: [shown] };
    }
  }

  async function answerOnce(request: LiveRequest, asked: Asked, principal: Principal | null, signal: AbortSignal): Promise<LiveAnswer> {
    const call = new Call(services.db, log, request.requestId, principal, signal);
    try {
      const { document, operationName, variables } = asked;
      const result = await execute({
        schema,
        document,
        operationName,
        variableValues: variables,
        contextValue: createContext(services, call),
      });
      const errors = result.errors?.map((error) => {
        const shown = publicError(error);
        if (hidesCause(shown, error)) reportInternal(call, shown, error);
        return shown;
      });
      return { ...(errors ? { errors } : {}), ...(result.data ? { data: result.data } : {}) };
    } finally {
      await call.close();
    }
  }

  return { answers, authenticate };
}

/** @throws QUERY_TOO_COMPLEX, BAD_USER_INPUT: the first fault of form, of validation, of variables; NOT_FOUND: an id of no such object */
function read(schema: GraphQLSchema, fields: Record<string, LiveField>, { query, variables, operationName }: LiveRequest): Asked {
  assertWithinLimits(query);
  const document = parse(query, { maxTokens: GRAPHQL_LIMITS.tokens });
  const [fault] = validate(schema, document, undefined, { maxErrors: 1 });
  if (fault) throw ofRequest(fault);
  const operation = getOperationAST(document, operationName);
  if (operation?.operation !== 'subscription') {
    throw badInput('query', 'Only a subscription is answered again and again.', {
      given: operation?.operation ?? 'no such operation',
      expected: 'a subscription; queries and mutations go by POST without text/event-stream',
    });
  }
  const [node] = operation.selectionSet.selections;
  const root = schema.getSubscriptionType()?.getFields() ?? {};
  const name = node?.kind === Kind.FIELD ? node.name.value : '';
  const [definition, field] = [root[name], fields[name]];
  if (definition === undefined || field === undefined)
    throw badInput('query', 'A subscription asks for one field of LiveQuery by its name.');
  const values = getVariableValues(schema, operation.variableDefinitions ?? [], variables ?? {});
  if (values.errors) throw ofRequest(values.errors[0]);
  const args = getArgumentValues(definition, node as FieldNode, values.coerced);
  return { document, operationName, variables: variables ?? {}, field, subject: field.subject(args as never) };
}

function ofRequest(error: GraphQLError | undefined): GraphQLError {
  return new GraphQLError(error?.message ?? '', { nodes: error?.nodes ?? null, extensions: { code: 'BAD_USER_INPUT' } });
}
