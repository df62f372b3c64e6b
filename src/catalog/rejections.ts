import { type ErrorCode, MercatoError } from '../base/errors.ts';
import type { Prisma } from '../generated/prisma/client.ts';
import type { RejectionRule } from '../inference/inference.ts';

/**
 * Why a version is REJECTED, as the error said it: `place` in the graph or `field` of the input, null where it is not one; `limit`, `given` and `expected` where
 * the rule has them. `rule` is null of a version from before rules had names.
 */
export type Rejection = {
  code: ErrorCode;
  rule: RejectionRule | null;
  message: string;
  place: string | null;
  field: string | null;
  limit: string | null;
  given: string | null;
  expected: string | null;
};

const BLANK = { rule: null, place: null, field: null, limit: null, given: null, expected: null };

export function rejectionOf({ code, message, data }: MercatoError): Prisma.InputJsonObject {
  const { rule, place, field, limit, given, expected } = { ...BLANK, ...data };
  return { code, rule, message, place, field, limit, given, expected };
}

/** As it is stored; earlier ones say less. */
export function rejectionView(stored: unknown): Rejection | null {
  return stored === null ? null : { ...BLANK, ...(stored as Pick<Rejection, 'code' | 'message'>) };
}

/** The error that it was made from. */
export function rejectedAs(rejection: Rejection | null): MercatoError {
  const { code: _, message, ...facts } = rejection ?? { code: null, message: undefined };
  return new MercatoError('MODEL_REJECTED', message, Object.fromEntries(Object.entries(facts).filter(([, fact]) => fact !== null)));
}
