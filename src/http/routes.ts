import { timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders, ServerResponse } from 'node:http';
import type { Readable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import { badInput, MercatoError } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import type { GraphQLServer } from '../graphql/graphql.ts';
import { countBodies } from './bodies.ts';
import { EVENT_STREAM, type LiveTransports } from './live.ts';

/** Takes the file of an upload. @throws MercatoError */
export type ReceiveUpload = (token: string, body: Readable) => Promise<{ sha256: string | null; sizeBytes: bigint | number | null }>;

/** POST /graphql, JSON only: a browser sends other types across origins without asking first. Who accepts events gets a stream of them. */
export function addGraphql(fastify: FastifyInstance, graphql: GraphQLServer, live: LiveTransports | null, bodiesBytes: number): void {
  fastify.removeAllContentTypeParsers();
  fastify.addContentTypeParser<string>('application/json', { parseAs: 'string' }, (_, body, done) => {
    try {
      done(null, JSON.parse(body));
    } catch (error) {
      done(badInput('body', `The body is not valid JSON: ${error instanceof Error ? error.message.slice(0, 200) : ''}`));
    }
  });
  fastify.post('/graphql', { preParsing: countBodies(fastify, bodiesBytes) }, async (request, reply) => {
    if (live !== null && request.headers.accept === EVENT_STREAM) {
      reply.hijack();
      return live.stream(request.id, request.headers, request.body, reply.raw);
    }
    const { id: requestId, headers, body, bodyHold } = request;
    const asked = { requestId, headers, body, bodyHold, response: reply.raw };
    const made = await graphql.handle(asked);
    const released = graphql.release(made, asked);
    const answer = released instanceof Promise ? await released : released;
    try {
      // Hooks are synchronous: when `send` returns, the socket has the answer.
      return reply.code(answer.status).header('content-type', answer.contentType).headers(answer.headers).send(answer.body);
    } finally {
      answer.answered();
    }
  });
}

export function addHealth(fastify: FastifyInstance, isReady: () => boolean): void {
  fastify.get('/healthz', () => ({ status: 'ok' }));
  fastify.get('/readyz', (_, reply) => {
    const ready = isReady();
    reply.code(ready ? 200 : 503).send({ status: ready ? 'ready' : 'not ready' });
  });
}

/** PUT /uploads/:token streams the body, whatever its type, to the catalogue. */
export function addUploads(fastify: FastifyInstance, receiveUpload: ReceiveUpload): void {
  fastify.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', (_, __, done) => done(null));
    scope.put<{ Params: { token: string } }>('/uploads/:token', async (request) => {
      if (Number(request.headers['content-length'] ?? 0) > LIMITS.modelBytesMax) {
        throw new MercatoError('PAYLOAD_TOO_LARGE', undefined, { limit: String(LIMITS.modelBytesMax) });
      }
      const { sha256, sizeBytes } = await receiveUpload(request.params.token, request.raw);
      return { sha256, sizeBytes: String(sizeBytes) };
    });
  });
}

/** Who may export, of what, as text. @throws MercatoError */
export type ExportUsage = (
  headers: IncomingHttpHeaders,
  query: Record<string, unknown>,
) => Promise<{ format: 'ndjson' | 'csv'; lines: Readable }>;

const EXPORT_TYPES = { ndjson: 'application/x-ndjson; charset=utf-8', csv: 'text/csv; charset=utf-8; header=present' };

/**
 * GET /usage/records?from=&to=&format= streams the caller's usage records. A fault on the way cuts the connection, so that nobody takes a part for the whole;
 * so does `end`, since a reader may take longer than a drain may wait.
 */
export function addExport(fastify: FastifyInstance, exportUsage: ExportUsage): { end(): void } {
  const open = new Set<ServerResponse>();
  // A HEAD would read all of it.
  fastify.get<{ Querystring: Record<string, unknown> }>('/usage/records', { exposeHeadRoute: false }, async (request, reply) => {
    open.add(reply.raw);
    reply.raw.once('close', () => open.delete(reply.raw));
    const { format, lines } = await exportUsage(request.headers, request.query);
    return reply.type(EXPORT_TYPES[format]).header('content-disposition', `attachment; filename="usage.${format}"`).send(lines);
  });
  return {
    end() {
      for (const response of open) response.destroy();
    },
  };
}

/** POST /admin/audit?tenant= for who can read the token's file; for others there is no such route. */
export function addAudit(fastify: FastifyInstance, token: string, audit: (tenantName: string | null) => Promise<unknown>): void {
  const expected = Buffer.from(token);
  fastify.post<{ Querystring: { tenant?: unknown } }>('/admin/audit', async (request, reply) => {
    const given = Buffer.from(String(request.headers['x-mercato-admin'] ?? ''));
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) return reply.callNotFound();
    const { tenant } = request.query;
    return audit(tenant === undefined ? null : String(tenant));
  });
}
