import { MercatoError } from '../../base/errors.ts';

/** Why a model is rejected: by the reader, then by the gate. A test holds this list equal to the SDL's `RejectionRule`, which says what each means. */
export const REJECTION_RULES = [
  'FILE_TOO_LARGE',
  'ORT_FORMAT',
  'MALFORMED_FILE',
  'TOO_DEEP',
  'TOO_MANY',
  'READING_LIMIT',
  'NO_GRAPH',
  'IR_VERSION_UNSUPPORTED',
  'TRAINING_INFO',
  'NAME_MISSING',
  'NAME_TWICE',
  'NOT_A_TENSOR',
  'ELEMENT_TYPE',
  'DIMENSIONS',
  'TENSOR_SIZE',
  'TENSOR_DATA',
  'SPARSE_TENSOR',
  'EXTERNAL_DATA',
  'OPSET_UNSUPPORTED',
  'OPSET_UNDECLARED',
  'UNKNOWN_DOMAIN',
  'UNKNOWN_OPERATOR',
  'OPERATOR_VERSION',
  'ATTRIBUTE',
  'EINSUM',
  'VALUE_UNDEFINED',
  'FUNCTION_SHADOWS_OPERATOR',
  'RECURSION',
  'COMPUTED_CONSTANTS',
  'LOAD_FAILED',
  'LOAD_CRASHED',
  'LOAD_LIMIT',
  'RUNS_CRASHED',
  'SAMPLE_INVALID',
  'SAMPLE_FAILED',
  'SAMPLE_MISMATCH',
  'TIME_BOX',
] as const;

export type RejectionRule = (typeof REJECTION_RULES)[number];
/** `limit`: the bound that was passed; `given`: what passed it. */
type Figures = { limit?: number | bigint; given?: number | bigint };
/** What speaks against a part of a model, by whoever does not know where that is. */
export type Fault = Figures & { rule: RejectionRule; text: string };

/** MODEL_REJECTED by a rule, at a place of the file. */
export function rejected(rule: RejectionRule, text: string, place: string, { limit, given }: Figures = {}): MercatoError {
  const figures = { ...(limit === undefined ? {} : { limit: String(limit) }), ...(given === undefined ? {} : { given: String(given) }) };
  return new MercatoError('MODEL_REJECTED', `${text} (${place})`, { rule, place, ...figures });
}

export function rejectedFor({ rule, text, ...figures }: Fault, place: string): MercatoError {
  return rejected(rule, text, place, figures);
}
