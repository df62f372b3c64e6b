/**
 * The one catalogue of what may go wrong in public. A code names what the caller can do about it; `http` is the status for
 * `application/graphql-response+json` and for the plain HTTP endpoints; `retryable` says that the same call may succeed later unchanged.
 * `text` is the default public sentence. A test holds this table equal to the SDL's `ErrorCode` and to `src/README.md`.
 */
export const ERRORS = {
  UNAUTHENTICATED: { http: 401, retryable: false, text: 'Sign in or send a valid API key in the Authorization header.' },
  FORBIDDEN: { http: 403, retryable: false, text: 'You may not do this.' },
  NOT_FOUND: { http: 404, retryable: false, text: 'There is no such object.' },
  BAD_USER_INPUT: { http: 400, retryable: false, text: 'The input is not valid.' },
  CONFLICT: { http: 409, retryable: false, text: 'This conflicts with what exists.' },
  IDEMPOTENCY_CONFLICT: { http: 409, retryable: false, text: 'The idempotency key was used with another input.' },
  IDEMPOTENCY_EXPIRED: { http: 410, retryable: false, text: 'The call was answered and billed before; its outputs are no longer kept.' },
  NOT_SUBSCRIBED: { http: 403, retryable: false, text: 'Subscribe to the model before calling it.' },
  QUOTA_EXCEEDED: { http: 429, retryable: false, text: 'The quota of this period is used up.' },
  RATE_LIMITED: { http: 429, retryable: true, text: 'Too many requests for this plan.' },
  INSUFFICIENT_CREDIT: { http: 402, retryable: false, text: 'The wallet does not cover this call.' },
  OVERLOADED: { http: 503, retryable: true, text: 'The server is busy; try again shortly.' },
  DEADLINE_EXCEEDED: { http: 504, retryable: true, text: 'The deadline passed before a result.' },
  CANCELLED: { http: 499, retryable: false, text: 'The caller cancelled.' },
  OUTCOME_UNKNOWN: { http: 503, retryable: true, text: 'The database did not confirm; retry with the same idempotency key.' },
  MODEL_FAILED: { http: 422, retryable: false, text: 'The model failed on this input.' },
  MODEL_REJECTED: { http: 422, retryable: false, text: 'The model file is not acceptable.' },
  MODEL_SUSPENDED: { http: 503, retryable: true, text: 'The model version is suspended for your tenant.' },
  QUERY_TOO_COMPLEX: { http: 400, retryable: false, text: 'The operation is larger than this server accepts.' },
  PAYLOAD_TOO_LARGE: { http: 413, retryable: false, text: 'The body is larger than this server accepts.' },
  INTERNAL: { http: 500, retryable: true, text: 'Something went wrong on our side.' },
} as const satisfies Record<string, { http: number; retryable: boolean; text: string }>;

export type ErrorCode = keyof typeof ERRORS;

/** Typed facts that let a caller act; every field is safe to show. Durations in ms, instants RFC 3339 UTC, units whole numbers. */
export type ErrorData = {
  field?: string;
  /** Which of the ledger's rules refused, as EXCEEDS_BALANCE; of a model file's, as EXTERNAL_DATA; how a run failed, as OVERRUN; what had no room for it, as QUEUE_FULL. */
  rule?: string;
  given?: string;
  expected?: string;
  limitName?: string;
  /** TENANT, SUBSCRIPTION, MEMBER or API_KEY, and its global id. */
  subject?: string;
  subjectId?: string;
  limit?: string;
  used?: string;
  resetsAt?: string;
  retryAfterMs?: number;
  place?: string;
  predictionId?: string;
  units?: number;
  amountNanos?: string;
  /** Of the wallet: what the call holds at most, and what is there for it. */
  neededNanos?: string;
  availableNanos?: string;
  currency?: string;
};

/** The only error whose message reaches a caller. Anything else becomes INTERNAL, with its text in the log alone. */
export class MercatoError extends Error {
  override readonly name = 'MercatoError';
  readonly code: ErrorCode;
  readonly data: ErrorData;

  constructor(code: ErrorCode, message: string = ERRORS[code].text, data: ErrorData = {}, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.data = data;
  }
}

/** Why a caller stopped waiting: CANCELLED where it has aborted its signal, else DEADLINE_EXCEEDED. */
export function gaveUp(signal: AbortSignal | undefined): MercatoError {
  return new MercatoError(signal?.aborted === true ? 'CANCELLED' : 'DEADLINE_EXCEEDED');
}

/** BAD_USER_INPUT that names the field, what was given and what would be right. */
export function badInput(field: string, message: string, data: Omit<ErrorData, 'field'> = {}): MercatoError {
  return new MercatoError('BAD_USER_INPUT', message, { field, ...data });
}
