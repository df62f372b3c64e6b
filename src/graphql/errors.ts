import { unwrapResolverError } from '@apollo/server/errors';
import { GraphQLError, type GraphQLFormattedError } from 'graphql';
import { lossOf } from '../base/database.ts';
import { ERRORS, type ErrorCode, MercatoError } from '../base/errors.ts';

/** An error as a caller sees it; `extensions` also holds the error's data. */
export type PublicError = GraphQLFormattedError & { extensions: { code: ErrorCode; retryable: boolean } };

/** graphql-js quotes what it was given, which may be a whole tensor. */
const MESSAGE_LENGTH_MAX = 1_000;

/** The one way from anything thrown to what a caller sees. What `hidesCause` says of, the caller of this function logs. */
export function publicError(error: unknown): PublicError {
  const cause = ofDatabase(unwrapResolverError(error));
  const place = error instanceof GraphQLError ? placeOf(error) : {};
  if (cause instanceof MercatoError) return { message: cause.message, ...place, extensions: extensionsOf(cause) };
  if (error instanceof GraphQLError && isCallersFault(error, cause)) {
    const message = error.message.trim().slice(0, MESSAGE_LENGTH_MAX);
    return { message, ...place, extensions: extensionsOf(new MercatoError('BAD_USER_INPUT')) };
  }
  return { message: ERRORS.INTERNAL.text, ...place, extensions: extensionsOf(new MercatoError('INTERNAL')) };
}

/** Whether what a caller sees says nothing of what happened: the log has to. */
export function hidesCause(shown: PublicError, error: unknown): boolean {
  return shown.extensions.code === 'INTERNAL' || lossOf(unwrapResolverError(error)) !== null;
}

/** A fault of the way to the database is nobody's: the same may be asked again, and where the answer to a COMMIT was lost, it has to be. */
function ofDatabase(cause: unknown): unknown {
  const loss = lossOf(cause);
  if (loss === null) return cause;
  if (loss === 'UNCONFIRMED') return new MercatoError('OUTCOME_UNKNOWN');
  return new MercatoError('OVERLOADED', 'The database cannot be reached; try again.', { retryAfterMs: 1_000 });
}

/** For answers outside GraphQL execution; `requestId` finds an INTERNAL one in the log. */
export function refusal(error: unknown, requestId: string): { status: number; error: PublicError } {
  const shown = publicError(error);
  if (shown.extensions.code === 'INTERNAL') Object.assign(shown.extensions, { requestId });
  return { status: ERRORS[shown.extensions.code].http, error: shown };
}

/** When a refusal says that the same may be tried again; null where it does not. */
export function retryOf(error: PublicError | undefined): number | null {
  const retryAfterMs = error?.extensions.retryAfterMs;
  return typeof retryAfterMs === 'number' ? retryAfterMs : null;
}

function extensionsOf(error: MercatoError): PublicError['extensions'] {
  return { code: error.code, retryable: ERRORS[error.code].retryable, ...error.data };
}

function placeOf(error: GraphQLError): Pick<GraphQLFormattedError, 'locations' | 'path'> {
  return {
    ...(error.locations ? { locations: error.locations } : {}),
    ...(error.path ? { path: error.path } : {}),
  };
}

/**
 * Errors of parsing, validation and variables have no path. With a path, graphql-js threw it during execution: about an argument where it
 * names a node of the document, else about a result, which is our fault.
 */
function isCallersFault(error: GraphQLError, cause: unknown): boolean {
  if (error.extensions.code === 'INTERNAL_SERVER_ERROR') return false;
  if (error.path === undefined) return error.extensions.code !== undefined || error.originalError === undefined;
  return cause instanceof GraphQLError && cause !== error && cause.nodes !== undefined;
}
