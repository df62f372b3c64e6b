import type { ServerResponse } from 'node:http';
import { unwrapResolverError } from '@apollo/server/errors';
import type { Principal } from '../access/access.ts';
import type { Database } from '../base/database.ts';
import type { Log } from '../base/log.ts';
import type { Allowance } from '../prediction/prediction.ts';
import type { PublicError } from './errors.ts';
import { createLoaders, type Loaders } from './loaders.ts';
import { createReader, type Reader } from './reader.ts';

/** One request's state. What few requests need is made when first asked for: a predict reads nothing and logs nothing. */
export class Call {
  readonly requestId: string;
  readonly principal: Principal | null;
  /** Set when the operation is known, before its first resolver. */
  operation: 'query' | 'mutation' | 'subscription' = 'query';
  /** The catalogue's status of the answer; null where the request was no GraphQL operation at all. */
  status: number | null = null;
  /** What is left of the limits that concern it, where it was a prediction. */
  allowances: readonly Allowance[] = [];
  /** When its refusal says that it may be tried again. */
  retryAfterMs: number | null = null;
  private readonly db: Database;
  private readonly parentLog: Log;
  private readonly client: ServerResponse | AbortSignal;
  private readonly answeredFns: (() => void)[] = [];
  private ownLog: Log | null = null;
  private controller: AbortController | null = null;
  private ownReader: Reader | null = null;
  private ownLoaders: Loaders | null = null;
  private closed = false;

  /** `client`: its `close` before the answer, or its abort, is the client hanging up. */
  constructor(db: Database, log: Log, requestId: string, principal: Principal | null, client: ServerResponse | AbortSignal) {
    this.db = db;
    this.parentLog = log;
    this.requestId = requestId;
    this.principal = principal;
    this.client = client;
  }

  get log(): Log {
    this.ownLog ??= this.parentLog.child({ requestId: this.requestId });
    return this.ownLog;
  }

  get signal(): AbortSignal {
    if (this.client instanceof AbortSignal) return this.client;
    this.controller ??= abortedWith(this.client);
    return this.controller.signal;
  }

  get loaders(): Loaders {
    this.ownLoaders ??= createLoaders(this.reader.read, this.isQuery());
    return this.ownLoaders;
  }

  get reader(): Reader {
    if (this.ownReader) return this.ownReader;
    const reader = createReader(this.db, this.principal?.tenantId ?? null, this.isQuery());
    if (this.closed) void reader.close();
    this.ownReader = reader;
    return reader;
  }

  onAnswered(fn: () => void): void {
    this.answeredFns.push(fn);
  }

  /** Runs it when the answer has left, or the client has. */
  onGone(fn: () => void): void {
    if (this.client instanceof AbortSignal) this.onAnswered(fn);
    else if (this.client.closed) fn();
    else this.client.once('close', fn);
  }

  /** Whether something waits for this answer to be handed over. */
  get holdsAnswer(): boolean {
    return this.answeredFns.length > 0;
  }

  /** Execution is over: nothing is read from now on. Ends the shared transaction; undefined where there can be none. */
  close(): Promise<void> | undefined {
    this.closed = true;
    return this.ownReader?.close();
  }

  /** The answer was handed to the socket, or there will be none. */
  answered(): void {
    for (const fn of this.answeredFns.splice(0)) {
      try {
        fn();
      } catch (error) {
        this.log.error({ err: error }, 'a callback after the answer failed');
      }
    }
  }

  private isQuery(): boolean {
    return this.operation === 'query';
  }
}

/** Says under which request id the log has the cause of an error that hides it, and logs it there. */
export function reportInternal(call: Call, error: PublicError, cause: unknown): void {
  Object.assign(error.extensions, { requestId: call.requestId });
  call.log.error({ err: cause && unwrapResolverError(cause), path: error.path }, 'a resolver failed');
}

function abortedWith(response: ServerResponse): AbortController {
  const controller = new AbortController();
  if (response.destroyed) controller.abort();
  else {
    response.once('close', () => {
      if (!response.writableFinished) controller.abort();
    });
  }
  return controller;
}
