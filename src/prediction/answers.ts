import { badInput } from '../base/errors.ts';
import { HeldBytes } from '../base/held-bytes.ts';
import { LIMITS } from '../base/limits.ts';
import { bytesOf, elementCount, type Tensor } from '../inference/inference.ts';

/** How often the elements of each output are written into an answer as JSON, and as Base64. */
export type Written = { json: number; base64: number };

/** Characters that an element takes as JSON at most, as -1.7976931348623157e+308 and a comma; a text besides takes its own, some of them escaped. */
const ELEMENT_CHARS = 25;
const TEXT_FACTOR = 2;
/** Too few to be counted. */
const SMALL_BYTES = 64 * 1024;

/** What this process holds of answers on their way to clients, each of which may read as slowly as it likes. */
export class Answers {
  readonly #held = new HeldBytes(LIMITS.answersBytes, {
    rule: 'UNREAD_ANSWERS',
    message: 'Too many large answers have not been read by their clients.',
  });

  /**
   * Lets outputs into an answer, to be called before they are billed; returns what gives their room back, null where they take none.
   * @throws BAD_USER_INPUT (as text they are longer than LIMITS.answerChars), OVERLOADED (answers that were not read take all room, or the tenant's half of it)
   */
  admit(tenantId: string, outputs: readonly Tensor[], written: Written): (() => void) | null {
    const bytes = bytesOf(outputs);
    if (bytes * (written.json + written.base64) <= SMALL_BYTES) return null;
    const chars = charsOf(outputs, written);
    if (chars > LIMITS.answerChars) {
      const expected = `at most ${LIMITS.answerChars}`;
      const message = `Written as this document asks, the outputs take up to ${chars} characters; an answer has ${expected}. Ask for data(encoding: BASE64), once, for fewer outputs, or for fewer rows.`;
      throw badInput('outputs', message, { given: String(chars), expected, limit: String(LIMITS.answerChars) });
    }
    const hold = this.#held.hold(tenantId);
    hold.grow(bytes);
    return hold.release;
  }
}

function charsOf(outputs: readonly Tensor[], { json, base64 }: Written): number {
  let chars = 0;
  for (const { datatype, shape, data } of outputs) {
    const texts = datatype === 'BYTES' ? TEXT_FACTOR * data.length : 0;
    chars += json * (ELEMENT_CHARS * elementCount(shape) + texts) + base64 * 4 * Math.ceil(data.length / 3);
  }
  return chars;
}
