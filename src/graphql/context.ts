import type { Access, Principal } from '../access/access.ts';
import type { Database } from '../base/database.ts';
import type { Log } from '../base/log.ts';
import type { Signals } from '../base/signals.ts';
import type { Billing } from '../billing/billing.ts';
import type { Catalog } from '../catalog/catalog.ts';
import type { Allowance, Predictions } from '../prediction/prediction.ts';
import type { Training } from '../training/training.ts';
import type { Usage } from '../usage/usage.ts';
import type { Call } from './call.ts';
import type { Loaders } from './loaders.ts';
import type { Reader } from './reader.ts';

/** The stateful parts that resolvers call; made once by `createApp`. */
export type Services = {
  db: Database;
  access: Access;
  catalog: Catalog;
  usage: Usage;
  billing: Billing;
  predictions: Predictions;
  training: Training;
  signals: Signals;
};

/** What one request's resolvers get. */
export type GraphQLContext = Services & RequestParts;

/** What belongs to the request alone. */
export type RequestParts = Pick<Reader, 'read' | 'apart'> & {
  readonly requestId: string;
  /** Its lines carry the request id. */
  readonly log: Log;
  /** Null: the request came without credentials. */
  readonly principal: Principal | null;
  /** Aborted when the client hangs up. */
  readonly signal: AbortSignal;
  /** `fn` runs once, when the answer was handed to the socket or dropped. */
  onAnswered(fn: () => void): void;
  /** `fn` runs once, when the answer has left, or the client has. */
  onGone(fn: () => void): void;
  /** What is left of the limits that concern the call, for the answer's headers. */
  onAllowances(allowances: readonly Allowance[]): void;
  readonly loaders: Loaders;
};

/** Apollo copies the own properties of a context: what is made on demand lives in `call`, behind getters of the prototype. */
class RequestContext implements RequestParts {
  readonly call: Call;
  readonly requestId: string;
  readonly principal: Principal | null;
  readonly read: Reader['read'];
  readonly apart: Reader['apart'];
  readonly onAnswered: RequestParts['onAnswered'];
  readonly onGone: RequestParts['onGone'];
  readonly onAllowances: RequestParts['onAllowances'];

  constructor(call: Call) {
    this.call = call;
    this.requestId = call.requestId;
    this.principal = call.principal;
    this.read = (fn) => call.reader.read(fn);
    this.apart = (fn) => call.reader.apart(fn);
    this.onAnswered = (fn) => call.onAnswered(fn);
    this.onGone = (fn) => call.onGone(fn);
    this.onAllowances = (allowances) => {
      call.allowances = allowances;
    };
  }

  get log(): Log {
    return this.call.log;
  }
  get signal(): AbortSignal {
    return this.call.signal;
  }
  get loaders(): Loaders {
    return this.call.loaders;
  }
}

export function createContext<S extends object>(services: S, call: Call): S & RequestContext {
  return Object.assign(new RequestContext(call), services);
}
