import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { newId } from '../base/ids.ts';
import { LIMITS } from '../base/limits.ts';
import type { Log } from '../base/log.ts';
import type { GraphQLServer, Live } from '../graphql/graphql.ts';
import { addErrorAnswers, refuseBadUrl } from './errors.ts';
import { addGraphiql } from './graphiql.ts';
import { openLive } from './live.ts';
import { addAudit, addExport, addGraphql, addHealth, addUploads, type ExportUsage, type ReceiveUpload } from './routes.ts';

export type HttpOptions = {
  host: string;
  /** 0: any free one. */
  port: number;
  /** Of a GraphQL request; uploads have their own limit. */
  maxBodyBytes: number;
  /** Serves GraphiQL at GET /graphql. */
  graphiql: boolean;
  /** Guards /admin routes; null: there are none. */
  adminToken: string | null;
  log: Log;
  graphql: GraphQLServer;
  /** Answers subscription operations; null: there are none. */
  live: Live | null;
  /** Whether new work can be done; draining counts by itself. */
  isReady(): boolean;
  /** Serves PUT /uploads/:token. */
  receiveUpload: ReceiveUpload;
  /** Serves GET /usage/records. */
  exportUsage: ExportUsage;
  /** What POST /admin/audit answers, as JSON; null: of all tenants. */
  audit(tenantName: string | null): Promise<unknown>;
};

export type HttpServer = {
  /** For tests that send requests without a socket. */
  readonly fastify: FastifyInstance;
  /** Starts listening; resolves to the port. */
  listen(): Promise<number>;
  /**
   * Readiness goes, then the port and every connection without a call; calls in flight are answered, with `connection: close`, exports cut off.
   * Resolves when no connection is left: those that outlast the longest deadline are cut.
   */
  drain(): Promise<void>;
};

/** A client that sends and reads nothing for as long is gone; the longest call waits LIMITS.deadlineMsMax. */
const SILENCE_MS_MAX = 2 * LIMITS.deadlineMsMax;
/** From the start of a drain: the longest call, and its answer on the way. */
const DRAIN_MS_MAX = LIMITS.deadlineMsMax + 2_000;
const ID_HEADER = /^[\w.:-]{1,64}$/;

export async function createHttp(options: HttpOptions): Promise<HttpServer> {
  const fastify = Fastify({
    bodyLimit: options.maxBodyBytes,
    genReqId: ({ headers: { 'x-request-id': id } }) => (typeof id === 'string' && ID_HEADER.test(id) ? id : newId()),
    connectionTimeout: SILENCE_MS_MAX,
    // The slowest request is an upload, which may take as long as its URL lives.
    requestTimeout: LIMITS.uploadLifetimeMs,
    keepAliveTimeout: 75_000,
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 256 },
    frameworkErrors: (error, request, reply) => {
      setHeaders(request, reply); // it comes before every hook
      refuseBadUrl(error, request, reply);
    },
  });
  let draining = false;
  const connections = trackConnections(fastify.server);
  addHeaders(fastify, () => draining);
  addErrorAnswers(fastify, options);
  const live = options.live === null ? null : openLive(fastify.server, options.live, options.log);
  addGraphql(fastify, options.graphql, live, LIMITS.bodiesHeld * options.maxBodyBytes);
  addHealth(fastify, () => !draining && options.isReady());
  addUploads(fastify, options.receiveUpload);
  const exports = addExport(fastify, options.exportUsage);
  if (options.adminToken !== null) addAudit(fastify, options.adminToken, options.audit);
  if (options.graphiql) await addGraphiql(fastify);
  await fastify.ready();
  return {
    fastify,
    async listen() {
      await fastify.listen({ host: options.host, port: options.port });
      const address = fastify.server.address();
      return typeof address === 'object' && address !== null ? address.port : options.port;
    },
    async drain() {
      draining = true;
      const cut = setTimeout(connections.cut, DRAIN_MS_MAX);
      await live?.end();
      connections.endIdle();
      // No request comes after that.
      exports.end();
      await fastify.close().finally(() => clearTimeout(cut));
    },
  };
}

/**
 * Node counts a connection that has not sent a whole request head as busy, and would wait for it. `endIdle` closes those on which no
 * request is being handled, now and from now on; `cut` closes all.
 */
function trackConnections(server: Server): { endIdle(): void; cut(): void } {
  const handled = new Map<Socket, { requests: number }>();
  let ending = false;
  server.on('connection', (socket) => {
    handled.set(socket, { requests: 0 });
    socket.once('close', () => handled.delete(socket));
    if (ending) socket.destroy();
  });
  server.on('request', ({ socket }, response) => {
    const state = handled.get(socket);
    if (!state) return;
    state.requests++;
    response.once('close', () => {
      if (--state.requests === 0 && ending) socket.destroySoon();
    });
  });
  return {
    endIdle() {
      ending = true;
      for (const [socket, { requests }] of handled) if (requests === 0) socket.destroy();
    },
    cut() {
      for (const socket of handled.keys()) socket.destroy();
    },
  };
}

function addHeaders(fastify: FastifyInstance, isDraining: () => boolean): void {
  fastify.addHook('onRequest', (request, reply, done) => {
    setHeaders(request, reply);
    done();
  });
  fastify.addHook('onSend', (_, reply, payload, done) => {
    if (isDraining()) reply.header('connection', 'close');
    done(null, payload);
  });
}

/** Answers are the caller's alone: nobody may cache them or guess another type. */
function setHeaders(request: FastifyRequest, reply: FastifyReply): void {
  reply.headers({ 'x-request-id': request.id, 'x-content-type-options': 'nosniff', 'cache-control': 'no-store' });
}
