import { badInput } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import { numberCodec } from './numbers.ts';
import {
  type Datatype,
  decodeBytes,
  elementCount,
  elementSize,
  encodeBytes,
  rowsOf,
  type Signature,
  type SignatureTensor,
  type Tensor,
} from './tensor.ts';

/** A tensor as GraphQL brings it: `data` is base64 where it is a string, else nested or flat JSON values; a scalar's too is a list. */
export type GivenTensor = { name: string; datatype: Datatype; shape?: readonly number[] | null | undefined; data: unknown };

/**
 * Decodes a call's inputs to little-endian bytes. Checks, per tensor in order: how many there are, its name and that it comes once, its
 * shape, the form of its data against shape and datatype, each element. @throws BAD_USER_INPUT naming input, what was given and expected
 */
export function parseInputs(given: readonly GivenTensor[]): Tensor[] {
  if (given.length > LIMITS.tensorsPerCall)
    throw badInput('inputs', `A call may have at most ${LIMITS.tensorsPerCall} inputs.`, {
      given: String(given.length),
      expected: `at most ${LIMITS.tensorsPerCall}`,
    });
  const names = new Set<string>();
  return given.map((tensor, i) => {
    const field = `inputs[${i}]`;
    if (tensor.name.length < 1 || tensor.name.length > LIMITS.nameLength)
      throw badInput(`${field}.name`, `A name has 1 to ${LIMITS.nameLength} characters.`, {
        given: `${tensor.name.length} characters`,
        expected: `1 to ${LIMITS.nameLength} characters`,
      });
    if (names.has(tensor.name))
      throw badInput(`${field}.name`, `Input "${tensor.name}" is given twice.`, { given: tensor.name, expected: 'each input once' });
    names.add(tensor.name);
    return parseTensor(field, tensor);
  });
}

function parseTensor(field: string, { name, datatype, shape, data }: GivenTensor): Tensor {
  const declared = shape ?? null;
  if (declared !== null) checkShape(field, name, declared);
  if (typeof data === 'string') {
    if (declared === null)
      throw badInput(`${field}.shape`, `Input "${name}" in base64 needs a shape.`, { given: 'no shape', expected: 'shape' });
    return { name, datatype, shape: declared, data: parseBase64(field, name, datatype, declared, data) };
  }
  const flat: unknown[] = [];
  const nested = flatten(field, name, data, flat);
  const fits = declared === null || sameShape(declared, nested) || (nested.length === 1 && elementCount(declared) === flat.length);
  if (!fits) {
    throw badInput(`${field}.data`, `Input "${name}" has data of shape [${nested}], not [${declared}].`, {
      given: `[${nested}]`,
      expected: `[${declared}]`,
    });
  }
  return { name, datatype, shape: declared ?? nested, data: encodeElements(field, name, datatype, flat) };
}

function checkShape(field: string, name: string, shape: readonly number[]): void {
  const valid = shape.length <= LIMITS.tensorRank && shape.every((size) => Number.isInteger(size) && size >= 0);
  // As if a size of 0 were 1: rows of no elements are rows all the same, to be billed and run.
  if (!valid || elementCount(shape.map((size) => Math.max(size, 1))) > LIMITS.tensorElements) {
    throw badInput(`${field}.shape`, `Input "${name}" has shape [${shape}].`, {
      given: `[${shape.slice(0, 20)}]`,
      expected: `at most ${LIMITS.tensorRank} sizes of 0 or more, at most ${LIMITS.tensorElements} elements`,
    });
  }
}

/** Strict: the canonical base64 of exactly the bytes that shape and datatype ask for. */
function parseBase64(field: string, name: string, datatype: Datatype, shape: readonly number[], text: string): Uint8Array {
  const bytes = Buffer.from(text, 'base64');
  // Encoding again is the shortest way to see that: no other alphabet, no space, no stray bits at the end.
  if (bytes.toString('base64') !== text) {
    throw badInput(`${field}.data`, `Input "${name}" is not valid base64.`, { given: text.slice(0, 20), expected: 'base64 with padding' });
  }
  const count = elementCount(shape);
  const size = elementSize(datatype);
  if (size === null) return checkStrings(field, name, bytes, count);
  if (bytes.length !== count * size) {
    throw badInput(`${field}.data`, `Input "${name}" has ${bytes.length} bytes, but ${datatype} [${shape}] needs ${count * size}.`, {
      given: `${bytes.length} bytes`,
      expected: `${count * size} bytes`,
    });
  }
  if (datatype === 'BOOL' && bytes.some((byte) => byte > 1))
    throw badInput(`${field}.data`, `Input "${name}" has a BOOL byte that is neither 0 nor 1.`, {
      given: String(bytes.find((byte) => byte > 1)),
      expected: '0 or 1',
    });
  return bytes;
}

function checkStrings(field: string, name: string, bytes: Uint8Array, count: number): Uint8Array {
  try {
    if (decodeBytes(bytes, count).some((text) => text.includes('\0'))) throw new RangeError('a BYTES element has a NUL character');
  } catch (error) {
    const why = error instanceof Error ? error.message : 'malformed';
    throw badInput(`${field}.data`, `Input "${name}" is no BYTES tensor of ${count} UTF-8 elements: ${why}.`, {
      given: `${bytes.length} bytes`,
      expected: 'per element 4 bytes little-endian length, then UTF-8',
    });
  }
  return bytes;
}

/** The shape of nested arrays, whose leaves are pushed to `flat`. */
function flatten(field: string, name: string, data: unknown, flat: unknown[], depth = 0): number[] {
  if (!Array.isArray(data)) {
    flat.push(data);
    return [];
  }
  if (depth === LIMITS.tensorRank) throw tooLarge(field, name);
  if (data.length === 0) return [0];
  let shape: number[] | null = null;
  if (!Array.isArray(data[0])) {
    if (data.some((leaf) => Array.isArray(leaf))) throw ragged(field, name);
    for (const leaf of data) flat.push(leaf);
    shape = [];
  } else {
    for (const part of data) {
      const inner = flatten(field, name, part, flat, depth + 1);
      if (shape !== null && !sameShape(shape, inner)) throw ragged(field, name);
      shape = inner;
    }
  }
  if (flat.length > LIMITS.tensorElements) throw tooLarge(field, name);
  return [data.length, ...(shape ?? [])];
}

const tooLarge = (field: string, name: string) =>
  badInput(`${field}.data`, `Input "${name}" is too large.`, {
    given: 'more',
    expected: `at most ${LIMITS.tensorElements} elements in ${LIMITS.tensorRank} dimensions`,
  });

const ragged = (field: string, name: string) =>
  badInput(`${field}.data`, `Input "${name}" has nested arrays of different lengths.`, {
    given: 'a ragged array',
    expected: 'a regular array',
  });

const sameShape = (a: readonly number[], b: readonly number[]) => a.length === b.length && a.every((size, i) => size === b[i]);

function encodeElements(field: string, name: string, datatype: Datatype, flat: readonly unknown[]): Uint8Array {
  const wrong = (i: number, expected: string) =>
    badInput(`${field}.data`, `Input "${name}" has at element ${i} what is no ${datatype}.`, {
      given: JSON.stringify(flat[i])?.slice(0, 40) ?? 'null',
      expected,
    });
  if (datatype === 'BYTES') {
    const bad = flat.findIndex((text) => typeof text !== 'string' || text.includes('\0') || !text.isWellFormed());
    if (bad >= 0) throw wrong(bad, 'a string without NUL');
    return encodeBytes(flat.filter((text) => typeof text === 'string'));
  }
  const codec = numberCodec(datatype);
  const bytes = new Uint8Array(flat.length * codec.size);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < flat.length; i++) if (!codec.write(view, i * codec.size, flat[i])) throw wrong(i, codec.expected);
  return bytes;
}

/** A tensor's elements as JSON values, flat: 64-bit integers as decimal strings, NaN and the infinities as those strings. */
export function toJson(tensor: Tensor): unknown[] {
  const count = elementCount(tensor.shape);
  if (tensor.datatype === 'BYTES') return decodeBytes(tensor.data, count);
  const { size, read } = numberCodec(tensor.datatype);
  const view = new DataView(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
  return Array.from({ length: count }, (_, i) => read(view, i * size));
}

export function toBase64(tensor: Tensor): string {
  return Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength).toString('base64');
}

/**
 * Holds inputs and output names against a signature and returns the rows of the call. Checks, in order: each input is known and has the
 * signature's datatype, rank and fixed sizes; none is missing; symbolic dimensions agree; the outputs are known and named once; there is a row, and no more than `rowsMax`.
 * @throws BAD_USER_INPUT
 */
export function checkAgainst(
  signature: Signature,
  inputs: readonly Tensor[],
  outputs: readonly string[] | null,
  rowsMax = Number.POSITIVE_INFINITY,
): number {
  const symbols = new Map<string, { size: number; name: string }>();
  inputs.forEach((tensor, i) => {
    const field = `inputs[${i}]`;
    const wanted = signature.inputs.find((input) => input.name === tensor.name);
    const known = signature.inputs.map((input) => input.name).join(', ');
    if (!wanted) throw badInput(`${field}.name`, `The model has no input "${tensor.name}".`, { given: tensor.name, expected: known });
    const expected = shown(wanted);
    const given = `${tensor.datatype} [${tensor.shape}]`;
    const fits =
      tensor.datatype === wanted.datatype &&
      tensor.shape.length === wanted.shape.length &&
      wanted.shape.every((size, d) => size === -1 || size === tensor.shape[d]);
    if (!fits) throw badInput(field, `Input "${tensor.name}" is ${given}; the model wants ${expected}.`, { given, expected });
    wanted.dimensions.forEach((symbol, d) => {
      const size = tensor.shape[d] ?? 0;
      const first = symbol === null ? undefined : symbols.get(symbol);
      if (first && first.size !== size) {
        const message = `Dimension ${symbol} is ${first.size} in input "${first.name}", but ${size} in "${tensor.name}".`;
        throw badInput(field, message, { given: String(size), expected: String(first.size) });
      }
      if (symbol !== null && !first) symbols.set(symbol, { size, name: tensor.name });
    });
  });
  const missing = signature.inputs.find((wanted) => !inputs.some((tensor) => tensor.name === wanted.name));
  if (missing)
    throw badInput('inputs', `Input "${missing.name}" is missing.`, {
      given: inputs.map((input) => input.name).join(', '),
      expected: signature.inputs.map((input) => input.name).join(', '),
    });
  checkOutputs(signature, outputs);
  const rows = rowsOf(
    signature,
    signature.inputs.flatMap((wanted) => inputs.filter((tensor) => tensor.name === wanted.name)),
  );
  if (rows < 1) throw badInput('inputs', 'A call needs at least one row.', { given: '0 rows', expected: '1 row or more' });
  if (rows > rowsMax) {
    const expected = `${rowsMax} rows or fewer`;
    throw badInput('inputs', `A run of this version has at most ${rowsMax} rows, and rows that may touch are not split into runs.`, {
      given: `${rows} rows`,
      expected,
    });
  }
  return rows;
}

const shown = ({ datatype, shape, dimensions }: SignatureTensor) => `${datatype} [${shape.map((size, d) => dimensions[d] ?? size)}]`;

/** What a signature wants of an input, as `UINT8 [N,28,28]`; null where it has none of that name. */
export function wantedOf(signature: Signature, name: string): string | null {
  const input = signature.inputs.find((candidate) => candidate.name === name);
  return input ? shown(input) : null;
}

function checkOutputs(signature: Signature, outputs: readonly string[] | null): void {
  if (outputs === null) return;
  const known = signature.outputs.map((output) => output.name);
  if (outputs.length === 0)
    throw badInput('outputs', 'Name at least one output, or leave outputs out for all.', { given: '[]', expected: known.join(', ') });
  outputs.forEach((name, i) => {
    if (!known.includes(name))
      throw badInput(`outputs[${i}]`, `The model has no output "${name}".`, { given: name.slice(0, 100), expected: known.join(', ') });
    if (outputs.indexOf(name) !== i)
      throw badInput(`outputs[${i}]`, `Output "${name}" is named twice.`, { given: name, expected: 'each output once' });
  });
}
