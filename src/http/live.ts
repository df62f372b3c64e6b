import type { IncomingHttpHeaders, IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { type ExecutionArgs, GraphQLError, parse } from 'graphql';
import { makeServer } from 'graphql-ws';
import { type WebSocket, WebSocketServer } from 'ws';
import { MercatoError } from '../base/errors.ts';
import { newId } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import type { Live, LiveAnswer, LiveRequest } from '../graphql/graphql.ts';

export const EVENT_STREAM = 'text/event-stream';

/** The two ways to the same live operations. */
export type LiveTransports = {
  /** GraphQL over server-sent events, distinct connections: `next` with each answer, then `complete`. Resolves when the stream has ended. */
  stream(requestId: string, headers: IncomingHttpHeaders, body: unknown, response: ServerResponse): Promise<void>;
  /** Completes every operation and closes every socket (1001); resolves when they are closed, or after a second. */
  end(): Promise<void>;
};

const CONNECTIONS_MAX = 1_000;
const OPERATIONS_MAX = 20;
const MESSAGE_BYTES_MAX = 64 * 1024;
/** A client that reads slower than this much behind is cut off; it asks again and gets the newest. */
const UNREAD_BYTES_MAX = 1024 * 1024;
const BEAT_MS = 15_000;
const END_MS_MAX = 1_000;
const PROTOCOL = 'graphql-transport-ws';

type Extra = { socket: WebSocket; headers: IncomingHttpHeaders };
type Params = Record<string, unknown> | undefined;

/** Takes upgrades of `server` at /graphql. No cookie identifies anybody, so a page of another origin gains nothing by connecting. */
export function openLive(server: Server, live: Live, log: Log): LiveTransports {
  const ending = new AbortController();
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: MESSAGE_BYTES_MAX,
    handleProtocols: (offered) => offered.has(PROTOCOL) && PROTOCOL,
  });
  const operations = graphqlOver(live, ending.signal);
  const beat = setInterval(() => pingAll(sockets), BEAT_MS);
  beat.unref();

  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (request.url?.split('?')[0] !== '/graphql') return refuse(socket, '404 Not Found');
    if (ending.signal.aborted || sockets.clients.size >= CONNECTIONS_MAX) return refuse(socket, '503 Service Unavailable');
    sockets.handleUpgrade(request, socket, head, (client) => adopt(client, request.headers));
  });

  function adopt(client: WebSocket, headers: IncomingHttpHeaders): void {
    alive.add(client);
    client.on('pong', () => alive.add(client));
    client.on('error', (error) => log.debug({ err: error }, 'a live socket failed'));
    const socket = {
      protocol: client.protocol,
      send: (text: string) => sendTo(client, text),
      close: (code?: number, reason?: string) => client.close(code, reason),
      onMessage: (use: (text: string) => Promise<void>) => {
        client.on('message', (data) => {
          use(String(data)).catch((error: unknown) => {
            log.error({ err: error }, 'a live message failed');
            client.close(1011, 'Internal error');
          });
        });
      },
    };
    const closed = operations.opened(socket, { socket: client, headers });
    client.once('close', (code, reason) => void closed(code, String(reason)));
  }

  return {
    stream: (requestId, headers, body, response) => streamEvents(live, { requestId, headers, body }, response, ending.signal),
    async end() {
      ending.abort();
      clearInterval(beat);
      const closed = [...sockets.clients].map((client) => new Promise((resolve) => client.once('close', resolve)));
      for (const client of sockets.clients) client.close(1001, 'The server stops');
      const late = Promise.withResolvers<void>();
      const timer = setTimeout(late.resolve, END_MS_MAX);
      await Promise.race([Promise.all(closed), late.promise]);
      clearTimeout(timer);
      for (const client of sockets.clients) client.terminate();
    },
  };
}

/** The protocol graphql-transport-ws (https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md), for subscription operations alone. */
function graphqlOver(live: Live, ending: AbortSignal) {
  return makeServer<Params, Extra>({
    connectionInitWaitTimeout: 10_000,
    async onConnect({ connectionParams, extra }) {
      try {
        await live.authenticate(credentialsOf(connectionParams, extra.headers));
      } catch {
        extra.socket.close(4401, 'Unauthorized');
      }
    },
    onSubscribe(context, _id, { query, variables, operationName }) {
      if (Object.keys(context.subscriptions).length > OPERATIONS_MAX) {
        return [
          asGraphQL(new MercatoError('OVERLOADED', `One connection has at most ${OPERATIONS_MAX} operations.`, { retryAfterMs: 1_000 })),
        ];
      }
      const headers = credentialsOf(context.connectionParams, context.extra.headers);
      const request = { requestId: newId(), headers, query, variables: variables ?? null, operationName: operationName ?? null };
      // The library asks for a document to tell subscriptions apart; what was really asked is read with the request.
      return { document: SUBSCRIPTION, contextValue: request } as unknown as ExecutionArgs;
    },
    subscribe: ({ contextValue }) => iterate(live, contextValue as LiveRequest, ending) as never,
    onNext: (_context, _id, _payload, _args, result) => result as never,
  });
}

const SUBSCRIPTION = parse('subscription { __typename }');

/** Leaving aborts at once, also while nothing happens. */
function iterate(live: Live, request: LiveRequest, ending: AbortSignal): AsyncIterableIterator<LiveAnswer> {
  const leaving = new AbortController();
  const answers = live.answers(request, AbortSignal.any([leaving.signal, ending]));
  return {
    next: () => answers.next(),
    async return() {
      leaving.abort();
      return answers.return();
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

function credentialsOf(params: Params, headers: IncomingHttpHeaders): LiveRequest['headers'] {
  const { authorization = params?.Authorization, apiKey } = params ?? {};
  if (typeof authorization === 'string') return { authorization };
  if (typeof apiKey === 'string') return { 'x-api-key': apiKey };
  return headers;
}

function asGraphQL(error: MercatoError): GraphQLError {
  return new GraphQLError(error.message, { extensions: { code: error.code, ...error.data } });
}

const alive = new WeakSet<WebSocket>();

/** Who has not answered the last ping is gone. */
function pingAll(sockets: WebSocketServer): void {
  for (const client of sockets.clients) {
    if (!alive.has(client)) client.terminate();
    alive.delete(client);
    client.ping();
  }
}

function sendTo(client: WebSocket, text: string): Promise<void> {
  if (client.readyState !== client.OPEN) return Promise.resolve();
  if (client.bufferedAmount > UNREAD_BYTES_MAX) {
    client.close(1013, 'Too slow');
    return Promise.resolve();
  }
  return new Promise((resolve, reject) => client.send(text, (error) => (error ? reject(error) : resolve())));
}

function refuse(socket: Duplex, status: string): void {
  socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
}

type Streamed = { requestId: string; headers: IncomingHttpHeaders; body: unknown };

/** https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md, distinct connections mode. */
async function streamEvents(
  live: Live,
  { requestId, headers, body }: Streamed,
  response: ServerResponse,
  ending: AbortSignal,
): Promise<void> {
  const leaving = new AbortController();
  response.once('close', () => leaving.abort());
  response.writeHead(200, { 'content-type': `${EVENT_STREAM}; charset=utf-8`, 'cache-control': 'no-store', 'x-request-id': requestId });
  response.flushHeaders();
  const beat = setInterval(() => response.write(':\n\n'), BEAT_MS);
  try {
    for await (const answer of answersTo(live, { requestId, headers, body }, AbortSignal.any([leaving.signal, ending]))) {
      if (response.writableLength > UNREAD_BYTES_MAX) break;
      response.write(`event: next\ndata: ${JSON.stringify(answer)}\n\n`);
    }
    response.write('event: complete\ndata: \n\n');
  } finally {
    clearInterval(beat);
    response.end();
  }
}

function answersTo(live: Live, { requestId, headers, body }: Streamed, signal: AbortSignal): AsyncIterable<LiveAnswer> {
  const {
    query,
    variables = null,
    operationName = null,
  } = (typeof body === 'object' && body !== null ? body : {}) as Record<string, unknown>;
  const isRequest =
    typeof query === 'string' && typeof variables === 'object' && (operationName === null || typeof operationName === 'string');
  // What is no GraphQL request is no document either, and its fault is said as that of one.
  const asked = isRequest ? { query, variables, operationName } : { query: '', variables: null, operationName: null };
  return live.answers({ requestId, headers, ...(asked as Pick<LiveRequest, 'query' | 'variables' | 'operationName'>) }, signal);
}
