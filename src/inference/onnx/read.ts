import { LIMITS } from '../../base/limits.ts';
import { COUNTED, type Field, type Message, MODEL, NONE, type Scalar } from './fields.ts';
import { WIRE, WireError, WireReader } from './protobuf.ts';
import { rejected } from './rejections.ts';
import type { OnnxModel } from './schema.ts';

/** Bounds of one file. `values` counts all that becomes an object or an entry of a list, so that memory stays within some hundred MB. */
const MODEL_LIMITS = {
  bytes: LIMITS.modelBytesMax,
  depth: 64,
  nodes: 200_000,
  tensors: 200_000,
  attributes: 500_000,
  functions: 1_000,
  values: 2_000_000,
} as const;
const COUNTED_MAX = COUNTED.map((what) => MODEL_LIMITS[what]);

/**
 * Reads an ONNX file (protobuf `ModelProto`) in time linear in its length. Weights are views on `bytes`: nothing is copied, and they change
 * with it. Stricter than protobuf where two readers could see different models: unknown fields, groups, a single field given twice, integers
 * beyond their type and strings that are not UTF-8 are refused.
 *
 * Bounds: MODEL_LIMITS. Errors: MODEL_REJECTED with the place, in this order: too large, ORT format, then the first fault of the bytes.
 */
export function decodeModel(bytes: Uint8Array): OnnxModel {
  if (bytes.length > MODEL_LIMITS.bytes) {
    throw rejected('FILE_TOO_LARGE', `The file is larger than ${MODEL_LIMITS.bytes} bytes.`, 'file', {
      limit: MODEL_LIMITS.bytes,
      given: bytes.length,
    });
  }
  if (bytes[4] === 0x4f && bytes[5] === 0x52 && bytes[6] === 0x54 && bytes[7] === 0x4d) {
    throw rejected('ORT_FORMAT', 'This is an ORT format file; send the ONNX file it was made from.', 'byte 4');
  }
  const decoder = new Decoder(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length));
  return decoder.model();
}

/** The bytes may be sound, but there are more of something than is read. */
class BoundPassed extends WireError {
  override readonly name = 'BoundPassed';
  readonly rule: 'TOO_DEEP' | 'TOO_MANY';
  readonly limit: number;

  constructor(rule: 'TOO_DEEP' | 'TOO_MANY', message: string, limit: number) {
    super(message);
    this.rule = rule;
    this.limit = limit;
  }
}

class Decoder {
  readonly #reader: WireReader;
  readonly #length: number;
  /** Fields down to where the reader is, and places in their lists: made into text for an error only. */
  readonly #path: (string | number)[] = [];
  #depth = 0;
  readonly #counts = COUNTED.map(() => 0);
  #values = 0;

  constructor(bytes: Uint8Array) {
    this.#reader = new WireReader(bytes);
    this.#length = bytes.length;
  }

  model(): OnnxModel {
    try {
      return this.#message(MODEL, this.#length) as OnnxModel;
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      const steps = this.#path.map((step) => (typeof step === 'number' ? `[${step}]` : `.${step}`)).join('');
      const place = `${steps}.byte ${this.#reader.offset}`.slice(1);
      const text = `The file is not a readable ONNX model: ${error.message}.`;
      throw error instanceof BoundPassed
        ? rejected(error.rule, text, place, { limit: error.limit })
        : rejected('MALFORMED_FILE', text, place);
    }
  }

  /** The path is not unwound on an error: it says where the error was. */
  #message(message: Message, end: number): Record<string, unknown> {
    if (this.#depth > MODEL_LIMITS.depth) {
      throw new BoundPassed('TOO_DEEP', `messages are nested deeper than ${MODEL_LIMITS.depth}`, MODEL_LIMITS.depth);
    }
    if (message.counted !== null) this.#countMessage(message.counted);
    const reader = this.#reader;
    const result = message.blank();
    let seen = 0;
    let latest: Field | null = null;
    let list: readonly unknown[] = NONE;
    while (reader.offset < end) {
      const tag = reader.uint32(end);
      const field = message.byId[tag >>> 3];
      if (field === undefined) throw new WireError(`field ${tag >>> 3} is not one of ONNX`);
      const again = (seen & field.bit) !== 0;
      seen |= field.bit;
      if (field.many) {
        const before = field === latest ? list : again ? (result[field.key] as unknown[]) : NONE;
        list = this.#more(field, tag & 7, end, before);
        if (list !== before) field.set(result, list);
        latest = field;
      } else if (again) {
        throw new WireError(`${field.key} is given twice`);
      } else {
        field.set(result, this.#value(field, tag & 7, end, null));
      }
    }
    return result;
  }

  #value(field: Field, wire: number, end: number, index: number | null): unknown {
    this.#countValue();
    if (wire !== field.wire) throw new WireError(`${field.key} has the wrong wire type`);
    if (typeof field.kind === 'string') return this.#scalar(field.kind, end);
    const length = this.#reader.uint32(end);
    if (this.#reader.offset + length > end) throw new WireError('the data ends inside a field');
    this.#path.push(field.key);
    if (index !== null) this.#path.push(index);
    this.#depth++;
    const inner = this.#message(field.kind(), this.#reader.offset + length);
    this.#depth--;
    if (index !== null) this.#path.pop();
    this.#path.pop();
    return inner;
  }

  /** The list with what comes next. A repeated scalar may come one by one or packed; both are legal in a reader. */
  #more(field: Field, wire: number, end: number, list: readonly unknown[]): readonly unknown[] {
    const { kind } = field;
    if (typeof kind !== 'string' || !field.packable || wire !== WIRE.bytes) {
      return longer(list, this.#value(field, wire, end, list.length));
    }
    if (kind.startsWith('packed')) {
      this.#countValue();
      return longer(list, whole(kind, this.#reader.bytes(end)));
    }
    const length = this.#reader.uint32(end);
    const packedEnd = this.#reader.offset + length;
    if (packedEnd > end) throw new WireError('the data ends inside a field');
    let entries = list;
    while (this.#reader.offset < packedEnd) {
      this.#countValue();
      entries = longer(entries, this.#scalar(kind, packedEnd));
    }
    return entries;
  }

  #scalar(kind: Scalar, end: number): unknown {
    const reader = this.#reader;
    switch (kind) {
      case 'string':
        return reader.string(end);
      case 'int32':
        return reader.int32(end);
      case 'int64':
        return reader.int64(end);
      case 'float':
        return reader.float32(end);
      case 'bytes':
        return reader.bytes(end);
      case 'packed32':
        return reader.view(4, end);
      case 'packed64':
        return reader.view(8, end);
      case 'packedVarint': {
        const start = reader.offset;
        reader.int64(end);
        const length = reader.offset - start;
        reader.offset = start;
        return reader.view(length, end);
      }
    }
  }

  #countMessage(counted: number): void {
    const count = (this.#counts[counted] ?? 0) + 1;
    const most = COUNTED_MAX[counted] ?? 0;
    if (count > most) throw new BoundPassed('TOO_MANY', `there are more than ${most} ${COUNTED[counted]}`, most);
    this.#counts[counted] = count;
  }

  #countValue(): void {
    if (++this.#values > MODEL_LIMITS.values) {
      throw new BoundPassed('TOO_MANY', `there are more than ${MODEL_LIMITS.values} values`, MODEL_LIMITS.values);
    }
  }
}

/** Most lists have one entry or two, and those that are made so take a fraction of the memory of ones that grew. A longer one grows itself. */
function longer(list: readonly unknown[], entry: unknown): readonly unknown[] {
  if (list.length === 0) return [entry];
  if (list.length === 1) return [list[0], entry];
  (list as unknown[]).push(entry);
  return list;
}

/** Packed elements that end with a whole element; a varint of more than 10 bytes is none. */
function whole(kind: Scalar, bytes: Uint8Array): Uint8Array {
  const size = kind === 'packed32' ? 4 : kind === 'packed64' ? 8 : 1;
  if (bytes.length % size !== 0) throw new WireError('packed elements end inside an element');
  if (kind === 'packedVarint') {
    let run = 0;
    for (const byte of bytes) {
      run = byte < 0x80 ? 0 : run + 1;
      if (run === 10) throw new WireError('an integer is longer than 64 bits');
    }
    if (run !== 0) throw new WireError('packed elements end inside an element');
  }
  return bytes;
}
