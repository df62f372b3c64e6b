import { createHash, randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';

export const KEY_PREFIX = 'mk_';

const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
/** 216 random bits: the shown prefix gives 48 of them away, and 168 remain. */
const RANDOM_BYTES = 27;
const RANDOM_LENGTH = 37;
const CHECKSUM_LENGTH = 6;
const PATTERN = new RegExp(`^${KEY_PREFIX}[0-9A-Za-z]{${RANDOM_LENGTH + CHECKSUM_LENGTH}}$`);

/** A new API key: `mk_`, 37 base62 digits of 27 random bytes, and 6 of the CRC-32 of all before it. */
export function makeKey(): string {
  const body = KEY_PREFIX + base62(BigInt(`0x${randomBytes(RANDOM_BYTES).toString('hex')}`), RANDOM_LENGTH);
  return body + checksum(body);
}

/** Whether the text can be a key of ours: typing errors and scanners' guesses end here, before any look-up. */
export function isWellFormedKey(text: string): boolean {
  return PATTERN.test(text) && checksum(text.slice(0, -CHECKSUM_LENGTH)) === text.slice(-CHECKSUM_LENGTH);
}

/** The first 11 characters, to recognise a key by. */
export function shownPrefix(key: string): string {
  return key.slice(0, 11);
}

/** SHA-256; enough for a secret of this many random bits, which no dictionary has. */
export function hashSecret(secret: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(createHash('sha256').update(secret).digest());
}

function checksum(body: string): string {
  return base62(BigInt(crc32(body)), CHECKSUM_LENGTH);
}

function base62(value: bigint, length: number): string {
  let digits = '';
  for (let rest = value; digits.length < length; rest /= 62n) digits = BASE62[Number(rest % 62n)] + digits;
  return digits;
}
