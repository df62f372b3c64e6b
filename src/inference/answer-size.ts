import { LIMITS } from '../base/limits.ts';
import type { Refusal } from './dispatcher.ts';

/** What a call is told whose outputs have more bytes than an answer may; null where they do not. Nobody pays for what cannot be sent. */
export function refusalOfSize(bytes: number): (Refusal & { rule: 'OUTPUTS'; limit: string }) | null {
  const limit = LIMITS.answerBytes;
  if (bytes <= limit) return null;
  const message = `The outputs have ${bytes} bytes; those of one call have at most ${limit}. Ask for fewer rows, or name fewer outputs.`;
  return { code: 'MODEL_FAILED', message, rule: 'OUTPUTS', limit: String(limit) };
}
