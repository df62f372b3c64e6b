import { ERRORS, type ErrorCode, type ErrorData, MercatoError } from '../base/errors.ts';

/** An error as processes and threads tell it to each other: a message between them keeps neither class nor data. `code`: null, no MercatoError. */
export type Failure = { code: ErrorCode | null; message: string; data: ErrorData };

export function failureOf(error: unknown): Failure {
  if (error instanceof MercatoError) return { code: error.code, message: error.message, data: error.data };
  return { code: null, message: error instanceof Error ? error.message : String(error), data: {} };
}

export function errorOf({ code, message, data }: Failure): Error {
  return code !== null && code in ERRORS ? new MercatoError(code, message, data) : new Error(message);
}
