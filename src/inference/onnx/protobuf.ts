import { isAscii } from 'node:buffer';

/** What is wrong with the bytes, without a place: the caller knows where it was reading. */
export class WireError extends Error {
  override readonly name: string = 'WireError';
}

/** Wire types of https://protobuf.dev/programming-guides/encoding; groups (3 and 4) are refused. */
export const WIRE = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;

/** Names are mostly this short and ASCII. */
const SHORT = 64;
/**
 * Short names are cut out of a longer text: a call of the decoder for each would be half the time of reading a model of many nodes. What is cut out keeps the
 * whole text alive, so a text is at most four times as long as the names that the last one gave, and these bytes.
 */
const WINDOW = { min: 64, max: 16_384 };
/** Integers of one byte, made once. */
const SMALL = Array.from({ length: 128 }, (_, value) => BigInt(value));
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const utf8Encoder = new TextEncoder();

/** Reads protobuf primitives. Every method takes the `end` of the enclosing message and throws WireError rather than pass it. */
export class WireReader {
  readonly #bytes: Buffer;
  readonly #view: DataView;
  offset = 0;
  #window = '';
  #windowAt = 0;
  #windowIsAscii = false;
  /** Bytes of names that were cut out of it. */
  #windowUsed = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** A tag or a length: at most 5 bytes and 32 bits, as the reference implementation accepts them. */
  uint32(end: number): number {
    const short = this.#short(end);
    if (short !== null) return short;
    let value = 0;
    for (let factor = 1; factor <= 2 ** 28; factor *= 128) {
      const byte = this.#byte(end);
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) {
        if (value > 0xffff_ffff) break;
        return value;
      }
    }
    throw new WireError('a tag or length is longer than 32 bits');
  }

  /** A signed 64-bit integer: two's complement in a varint of at most 10 bytes. */
  int64(end: number): bigint {
    const short = this.#short(end);
    if (short !== null) return SMALL[short] ?? 0n;
    let low = 0;
    for (let factor = 1; factor < 2 ** 49; factor *= 128) {
      const byte = this.#byte(end);
      low += (byte & 0x7f) * factor;
      if (byte < 0x80) return BigInt(low);
    }
    let high = 0;
    for (let factor = 1; factor < 2 ** 21; factor *= 128) {
      const byte = this.#byte(end);
      high += (byte & 0x7f) * factor;
      if (byte < 0x80) {
        if (high >= 2 ** 15) break;
        if (high === 2 ** 15 - 1) return BigInt(low - 2 ** 49);
        return BigInt.asIntN(64, BigInt(low) + (BigInt(high) << 49n));
      }
    }
    throw new WireError('an integer is longer than 64 bits');
  }

  /** A signed 32-bit integer or enum. Longer ones are refused: other readers cut them, and would see another value. */
  int32(end: number): number {
    const short = this.#short(end);
    if (short !== null) return short;
    const value = this.int64(end);
    if (value < -0x8000_0000n || value > 0x7fff_ffffn) throw new WireError('a 32-bit integer is out of its range');
    return Number(value);
  }

  float32(end: number): number {
    const at = this.offset;
    this.#advance(4, end);
    return this.#view.getFloat32(at, true);
  }

  /** The next `length` bytes as a view on the input. */
  view(length: number, end: number): Uint8Array {
    const at = this.offset;
    this.#advance(length, end);
    return new Uint8Array(this.#bytes.buffer, this.#bytes.byteOffset + at, length);
  }

  /** The bytes of a length-prefixed field as a view on the input. */
  bytes(end: number): Uint8Array {
    return this.view(this.uint32(end), end);
  }

  string(end: number): string {
    const length = this.uint32(end);
    const at = this.offset;
    this.#advance(length, end);
    if (length <= SHORT) {
      if (at < this.#windowAt || at + length > this.#windowAt + this.#window.length) this.#openWindow(at, length);
      if (this.#windowIsAscii || this.#isAscii(at, length)) {
        this.#windowUsed += length;
        return this.#window.substring(at - this.#windowAt, at - this.#windowAt + length);
      }
    }
    try {
      return utf8.decode(this.#bytes.subarray(at, at + length));
    } catch {
      throw new WireError('a string is not valid UTF-8');
    }
  }

  #openWindow(at: number, length: number): void {
    const size = Math.min(WINDOW.max, Math.max(length, WINDOW.min + 4 * this.#windowUsed));
    const bytes = this.#bytes.subarray(at, at + size);
    this.#windowIsAscii = isAscii(bytes);
    this.#window = bytes.toString('latin1');
    this.#windowAt = at;
    this.#windowUsed = 0;
  }

  #isAscii(at: number, length: number): boolean {
    for (let index = at; index < at + length; index++) if ((this.#bytes[index] ?? 0) >= 0x80) return false;
    return true;
  }

  /** The varint of one byte that is next, which most are; null, and nothing read, where it is longer or `end` comes first. */
  #short(end: number): number | null {
    const byte = this.#bytes[this.offset] ?? 0x80;
    if (byte >= 0x80 || this.offset >= end) return null;
    this.offset++;
    return byte;
  }

  #byte(end: number): number {
    this.#advance(1, end);
    return this.#bytes[this.offset - 1] ?? 0;
  }

  #advance(length: number, end: number): void {
    if (this.offset + length > end) throw new WireError('the data ends inside a field');
    this.offset += length;
  }
}

/** Writes protobuf primitives. Views given to it are copied once, in `finish`. */
export class WireWriter {
  readonly #parts: Uint8Array[] = [];
  #length = 0;

  tag(id: number, wire: number): void {
    this.varint(BigInt(id * 8 + wire));
  }

  /** A varint; negative numbers take 10 bytes, as the format wants. */
  varint(value: bigint): void {
    const bytes: number[] = [];
    let rest = BigInt.asUintN(64, value);
    while (rest >= 0x80n) {
      bytes.push(Number(rest & 0x7fn) | 0x80);
      rest >>= 7n;
    }
    bytes.push(Number(rest));
    this.#append(Uint8Array.from(bytes));
  }

  float32(value: number): void {
    this.#append(new Uint8Array(Float32Array.of(value).buffer));
  }

  bytes(bytes: Uint8Array): void {
    this.varint(BigInt(bytes.length));
    this.#append(bytes);
  }

  string(text: string): void {
    this.bytes(utf8Encoder.encode(text));
  }

  message(inner: WireWriter): void {
    this.varint(BigInt(inner.#length));
    for (const part of inner.#parts) this.#append(part);
  }

  finish(): Uint8Array {
    const whole = new Uint8Array(this.#length);
    let offset = 0;
    for (const part of this.#parts) {
      whole.set(part, offset);
      offset += part.length;
    }
    return whole;
  }

  #append(part: Uint8Array): void {
    this.#parts.push(part);
    this.#length += part.length;
  }
}
