import { aloneOf, type Case, namesOf, outside, readTensor } from './cases.ts';
import { differenceOf } from './compare.ts';
import { type Door, outputsOf } from './door.ts';

/** RUNTIME: ONNX Runtime alone gives the same answer, bit by bit, and ONNX says another. `why` says what stood against it, alike for alike cases; `detail` what it was here. */
export type Judged = { name: string; verdict: 'RIGHT' | 'WRONG' | 'RUNTIME' | 'REFUSED' | 'OUTSIDE'; why: string; detail: string };

/** What the runtime says where its CPU provider lacks an operator, or one for this type. */
const LACKING =
  /Could not find an implementation|is not a registered function|No Op registered|NOT_IMPLEMENTED|not implemented|(is|are) not supported/i;

const UNDER_DEVELOPMENT = /Version 27 of the operator set "ai\.onnx" is not one of 1 to 26/;
const PREVIEW = /domain "ai\.onnx\.preview(\.training)?" is not known/;

/** Takes a case through upload and predict. */
export async function judge(door: Door, one: Case): Promise<Judged> {
  const { name } = one;
  const not = outsideOf(one);
  if (not !== null) return { name, verdict: 'OUTSIDE', why: not, detail: '' };
  const { state, handle, message, place } = await door.upload(one.model);
  if (state === 'REJECTED') return refused(name, message ?? '', place);
  const { inputs, outputs } = namesOf(one);
  const answer = await door.predict(
    handle,
    one.inputs.map((file, index) => readTensor(file, inputs[index] ?? '')),
  );
  const error = answer.errors?.[0];
  if (error) return refused(name, error.message, null, error.extensions.code);
  const got = outputsOf(answer);
  for (const [index, file] of one.outputs.entries()) {
    const wanted = readTensor(file, outputs[index] ?? '');
    const mine = got.find((output) => output.name === wanted.name);
    const difference = mine === undefined ? 'it is missing' : differenceOf(mine, wanted);
    if (difference === null) continue;
    const detail = `output ${wanted.name}: ${difference}`;
    const alone = (await aloneOf(one))?.get(wanted.name);
    if (mine !== undefined && alone === Buffer.from(mine.data).toString('base64'))
      return { name, verdict: 'RUNTIME', why: 'ONNX Runtime alone answers the same', detail };
    return { name, verdict: 'WRONG', why: 'another answer', detail };
  }
  return { name, verdict: 'RIGHT', why: '', detail: '' };
}

function outsideOf(one: Case): string | null {
  try {
    return outside(one);
  } catch (error) {
    // What the reader refuses is refused at the door too.
    return error instanceof Error && 'code' in error ? null : `unreadable: ${error}`;
  }
}

function refused(name: string, message: string, place: string | null, code = 'MODEL_REJECTED'): Judged {
  if (LACKING.test(message))
    return { name, verdict: 'OUTSIDE', why: "an operator, or a type of it, that ONNX Runtime's CPU provider lacks", detail: message };
  if (UNDER_DEVELOPMENT.test(message))
    return { name, verdict: 'OUTSIDE', why: 'an opset that ONNX Runtime does not have yet', detail: message };
  if (PREVIEW.test(message)) return { name, verdict: 'OUTSIDE', why: "a preview's operator, which ONNX Runtime lacks", detail: message };
  if (message.includes('locale name not valid'))
    return { name, verdict: 'OUTSIDE', why: 'a locale that this machine does not have', detail: message };
  const why = place === null ? code : `refused by the reader: ${message.replace(/\s*\(.*\)$/s, '').replaceAll(/"[^"]*"|\d+/g, '…')}`;
  return { name, verdict: 'REFUSED', why, detail: `${message}${place === null ? '' : ` at ${place}`}` };
}
