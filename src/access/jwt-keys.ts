import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type JsonWebKey,
  type KeyObject,
  randomUUID,
} from 'node:crypto';
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

export type JwtKeys = {
  /** The newest key, which signs. */
  kid: string;
  privateKey: KeyObject;
  /** Every key that verifies, by its `kid`. */
  publicKeys: ReadonlyMap<string, KeyObject>;
};

/**
 * The keys of access tokens: of the configuration (a JWK set as JSON, the first signs), else of `dataDir`/jwt-keys.json (0600), which is made
 * where it is absent. Throws where they are not private ES256 keys; the message does not repeat them.
 */
export async function loadJwtKeys(configured: string | null, dataDir: string): Promise<JwtKeys> {
  if (configured !== null) return parseJwtKeys(configured, 'MERCATO_JWT_KEYS');
  const path = join(dataDir, 'jwt-keys.json');
  const text = (await readIfThere(path)) ?? (await makeOnce(path, dataDir));
  return parseJwtKeys(text, path);
}

/** The file appears whole or not at all; of two starts at once the first wins and both read its keys. */
async function makeOnce(path: string, dataDir: string): Promise<string> {
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const draft = `${path}.${randomUUID()}`;
  await writeFile(draft, makeKeySet(), { mode: 0o600, flag: 'wx', flush: true });
  try {
    await link(draft, path);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
  } finally {
    await rm(draft, { force: true });
  }
  return readFile(path, 'utf8');
}

async function readIfThere(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}

/** A JWK set with one new private ES256 key. */
function makeKeySet(): string {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const jwk = privateKey.export({ format: 'jwk' });
  return `${JSON.stringify({ keys: [{ ...jwk, kid: thumbprint(jwk), alg: 'ES256', use: 'sig' }] }, null, 2)}\n`;
}

function parseJwtKeys(text: string, source: string): JwtKeys {
  const keys = readKeySet(text).map((jwk) => {
    const valid = isRecord(jwk) && jwk.kty === 'EC' && jwk.crv === 'P-256' && typeof jwk.d === 'string';
    if (!valid) throw new Error(`${source} must be a JWK set of private ES256 keys: {"keys":[{"kty":"EC","crv":"P-256","d":…}]}`);
    try {
      const privateKey = createPrivateKey({ key: jwk, format: 'jwk' });
      return { kid: typeof jwk.kid === 'string' ? jwk.kid : thumbprint(jwk), privateKey, publicKey: createPublicKey(privateKey) };
    } catch {
      throw new Error(`${source} has a key that is not a valid ES256 key`);
    }
  });
  const [first] = keys;
  const publicKeys = new Map(keys.map(({ kid, publicKey }) => [kid, publicKey]));
  if (!first || publicKeys.size !== keys.length) throw new Error(`${source} must have one key or more, each with another kid`);
  return { kid: first.kid, privateKey: first.privateKey, publicKeys };
}

function readKeySet(text: string): unknown[] {
  try {
    const set: unknown = JSON.parse(text);
    return isRecord(set) && Array.isArray(set.keys) ? set.keys : [];
  } catch {
    return [];
  }
}

function isRecord(value: unknown): value is JsonWebKey & Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

/** RFC 7638. */
function thumbprint({ crv, kty, x, y }: JsonWebKey): string {
  return createHash('sha256').update(JSON.stringify({ crv, kty, x, y })).digest('base64url');
}
