import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { badInput, ERRORS, MercatoError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';

type Thrown = Error & Partial<Pick<FastifyError, 'code' | 'statusCode'>>;

/** Answers every failure outside GraphQL as `{ errors: [{ message, extensions }] }`, with the catalogue's status. */
export function addErrorAnswers(fastify: FastifyInstance, options: { log: Log; maxBodyBytes: number }): void {
  fastify.setErrorHandler<Thrown>((thrown, request, reply) => {
    const { error, status } = translate(thrown, options.maxBodyBytes);
    if (error.code === 'INTERNAL') {
      const route = `${request.method} ${request.routeOptions.url ?? ''}`;
      options.log.error({ err: thrown, requestId: request.id, route }, 'a request failed');
    }
    return refuse(request, reply, error, status);
  });
  fastify.setNotFoundHandler((request, reply) => {
    // The path is not repeated: an upload's is a secret.
    const error = new MercatoError('NOT_FOUND', `Nothing answers ${request.method} here. The API is POST /graphql.`);
    return refuse(request, reply, error);
  });
}

/** For a URL that cannot be read, which reaches no route. */
export function refuseBadUrl(thrown: FastifyError, request: FastifyRequest, reply: FastifyReply): void {
  const { error, status } = translate(thrown, 0);
  refuse(request, reply, error, status);
}

function refuse(request: FastifyRequest, reply: FastifyReply, error: MercatoError, status: number = ERRORS[error.code].http): FastifyReply {
  const requestId = error.code === 'INTERNAL' ? { requestId: request.id } : {};
  const extensions = { code: error.code, retryable: ERRORS[error.code].retryable, ...error.data, ...requestId };
  // What is left of an unread body would be taken for the next request.
  if (!request.raw.complete) reply.header('connection', 'close');
  return reply
    .code(status)
    .type('application/json; charset=utf-8')
    .send(`${JSON.stringify({ errors: [{ message: error.message, extensions }] })}\n`);
}

function translate(thrown: Thrown, maxBodyBytes: number): { error: MercatoError; status?: number } {
  if (thrown instanceof MercatoError) return { error: thrown };
  if (thrown.code === 'FST_ERR_CTP_BODY_TOO_LARGE') {
    return { error: new MercatoError('PAYLOAD_TOO_LARGE', undefined, { limit: String(maxBodyBytes) }) };
  }
  if (thrown.code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE') {
    return { error: badInput('content-type', 'Send application/json.', { expected: 'application/json' }), status: 415 };
  }
  const status = thrown.statusCode ?? 500;
  const isPublic = thrown.code?.startsWith('FST_') || thrown.code === 'ECONNRESET';
  if (isPublic && status >= 400 && status < 500) return { error: new MercatoError('BAD_USER_INPUT', thrown.message), status };
  return { error: new MercatoError('INTERNAL') };
}
