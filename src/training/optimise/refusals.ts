import { badInput, type MercatoError } from '../../base/errors.ts';

/** BAD_USER_INPUT: this kind of optimisation does not fit the model. */
export function rejectedKind(kind: string, message: string, expected: string): MercatoError {
  return badInput('kind', message, { given: kind, expected });
}
