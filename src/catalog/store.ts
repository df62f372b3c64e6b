import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { MercatoError } from '../base/errors.ts';

/** What a stream of bytes was. `sha256` in lower-case hexadecimal. */
export type Stored = { sha256: string; sizeBytes: number };

/** Bytes that came whole and are not yet part of the store. Disposing of one that was not kept leaves nothing behind. */
export type Staged = AsyncDisposable & Stored & { keep(): Promise<void> };

/** Model files by their SHA-256, and other bytes by a key such as `replays/<uuid>`. Safe for several processes at once. */
export type ModelStore = {
  /** Takes a stream in; at most `maxBytes`. PAYLOAD_TOO_LARGE. Whatever fails, nothing stays; the stream is not destroyed. */
  stage(stream: Readable, maxBytes: number): Promise<Staged>;
  /** `stage` and keep. */
  put(stream: Readable, maxBytes: number): Promise<Stored>;
  /** A model file. Throws where there is none, or where its bytes are not those of the digest. */
  read(sha256: string): Promise<Uint8Array>;
  /** Copies a file of the store to `path`, for a process that must not reach the store. Throws as `read` does. */
  copyTo(sha256: string, path: string): Promise<void>;
  /** Also where there is no such file. */
  deleteFile(sha256: string): Promise<void>;
  putBytes(key: string, bytes: Uint8Array): Promise<void>;
  /** Null where there is no such key. */
  readBytes(key: string): Promise<Uint8Array | null>;
  /** Also where there is no such key. */
  delete(key: string): Promise<void>;
  /** Digests of model files that nobody brought within a day, in lists of at most 500. */
  agedFiles(): AsyncGenerator<string[]>;
  /** The keys in a folder as `replays`, without the folder. */
  keys(folder: string): Promise<string[]>;
  /** Those of them that were not written within a day, as `agedFiles`. */
  agedKeys(folder: string): AsyncGenerator<string[]>;
  /** Deletes a model file unless somebody brought it within a day, be it at this moment. For 30 days whoever reads it has it back: the rows of a copied database say less. */
  deleteAged(sha256: string): Promise<void>;
  /** Deletes what killed processes left half-written more than a day ago, and what nobody had back. */
  removeAbandoned(): Promise<void>;
};

/** Small enough that hashing a piece holds the event loop for about a millisecond. */
const PIECE_BYTES = 1024 * 1024;
/** Far longer than anything takes from its first byte to the row that refers to it. */
const AGED_MS = 24 * 60 * 60 * 1000;
const REMOVED_MS = 30 * AGED_MS;
const LIST_MAX = 500;

/**
 * The store in a directory (0700, files 0600), made where it is absent: `ab/abcdef…` by digest, other keys as they are. A file appears whole, by
 * renaming.
 */
export async function createDirectoryStore(dir: string): Promise<ModelStore> {
  const staging = join(dir, 'staging');
  const removed = join(dir, 'removed');
  for (const folder of [staging, removed]) await mkdir(folder, { recursive: true, mode: 0o700 });

  async function stage(stream: Readable, maxBytes: number): Promise<Staged> {
    const path = join(staging, randomUUID());
    try {
      const stored = await writeStream(path, stream, maxBytes);
      const keep = () => moveInto(path, join(dir, pathOf(stored.sha256)));
      return { ...stored, keep, [Symbol.asyncDispose]: () => rm(path, { force: true }) };
    } catch (error) {
      await rm(path, { force: true });
      throw error;
    }
  }

  /** Whether the file was removed, and is back. */
  async function bringBack(sha256: string): Promise<boolean> {
    const from = join(removed, sha256);
    if (!existsSync(from)) return false;
    await moveInto(from, join(dir, pathOf(sha256)));
    return true;
  }

  const folderOf = (name: string) => join(dir, dirname(checkKey(`${name}/0`)));

  return {
    stage,
    async put(stream, maxBytes) {
      await using staged = await stage(stream, maxBytes);
      await staged.keep();
      return { sha256: staged.sha256, sizeBytes: staged.sizeBytes };
    },
    async read(sha256) {
      const path = join(dir, pathOf(sha256));
      const bytes = (await readWhole(path)) ?? ((await bringBack(sha256)) ? await readWhole(path) : null);
      if (bytes === null) throw new Error(`model file ${sha256} is missing from the store`);
      if (bytes.sha256 !== sha256) throw new Error(`model file ${sha256} is damaged: its digest is ${bytes.sha256}`);
      return bytes.data;
    },
    async copyTo(sha256, path) {
      const from = join(dir, pathOf(sha256));
      if (!existsSync(from)) await bringBack(sha256);
      const source = createReadStream(from, { highWaterMark: PIECE_BYTES });
      const copied = await writeStream(path, source, Number.POSITIVE_INFINITY);
      if (copied.sha256 !== sha256) throw new Error(`file ${sha256} of the store is damaged: its digest is ${copied.sha256}`);
    },
    async deleteFile(sha256) {
      await rm(join(dir, pathOf(sha256)), { force: true });
    },
    async putBytes(key, bytes) {
      const path = join(staging, randomUUID());
      try {
        await withFile(path, 'wx', async (file) => {
          await file.writeFile(bytes);
          await file.sync();
        });
        await moveInto(path, join(dir, checkKey(key)));
      } finally {
        await rm(path, { force: true });
      }
    },
    async readBytes(key) {
      return (await readWhole(join(dir, checkKey(key))))?.data ?? null;
    },
    async delete(key) {
      await rm(join(dir, checkKey(key)), { force: true });
    },
    async *agedFiles() {
      const folders = (await readdir(dir)).filter((name) => /^[0-9a-f]{2}$/.test(name));
      for (const folder of folders) for await (const names of agedIn(join(dir, folder))) yield names.filter(isDigest);
    },
    keys: (folder) => namesIn(folderOf(folder)),
    agedKeys: (folder) => agedIn(folderOf(folder)),
    async deleteAged(sha256) {
      const path = join(dir, pathOf(sha256));
      if (!(await isAged(path))) return;
      const aside = join(removed, sha256);
      await rename(path, aside);
      // Somebody may have brought the same bytes since.
      if (await isAged(aside)) await utimes(aside, new Date(), new Date());
      else await moveInto(aside, path);
    },
    async removeAbandoned() {
      for await (const names of agedIn(staging)) for (const name of names) await rm(join(staging, name), { force: true });
      for await (const names of agedIn(removed, REMOVED_MS)) for (const name of names) await rm(join(removed, name), { force: true });
    },
  };
}

async function namesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch(absent([]));
}

/** Names in a folder, where there is one, of what was last written longer ago. */
async function* agedIn(folder: string, ageMs = AGED_MS): AsyncGenerator<string[]> {
  let aged: string[] = [];
  for (const name of await namesIn(folder)) {
    if (await isAged(join(folder, name), ageMs)) aged.push(name);
    if (aged.length < LIST_MAX) continue;
    yield aged;
    aged = [];
  }
  if (aged.length > 0) yield aged;
}

/** False also where there is none. */
async function isAged(path: string, ageMs = AGED_MS): Promise<boolean> {
  const found = await stat(path).catch(absent(null));
  return found !== null && Date.now() - found.mtimeMs > ageMs;
}

/** What stands for a file that is not there. */
function absent<T>(instead: T): (error: unknown) => T {
  return (error) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return instead;
    throw error;
  };
}

const isDigest = (name: string) => /^[0-9a-f]{64}$/.test(name);

function pathOf(sha256: string): string {
  if (!isDigest(sha256)) throw new RangeError('not a SHA-256');
  return join(sha256.slice(0, 2), sha256);
}

/** A folder's name of more than two letters cannot be that of a digest. */
function checkKey(key: string): string {
  if (!/^[a-z]{3,20}\/[0-9a-z-]{1,100}$/.test(key) || /^(staging|removed)\//.test(key)) throw new RangeError('not a key of the store');
  return key;
}

async function writeStream(path: string, stream: Readable, maxBytes: number): Promise<Stored> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  await withFile(path, 'wx', async (file) => {
    // The stream stays usable after a refusal: over HTTP, destroying it would cut off the answer.
    for await (const chunk of stream.iterator({ destroyOnReturn: false })) {
      const bytes: Uint8Array = chunk;
      sizeBytes += bytes.length;
      if (sizeBytes > maxBytes) throw new MercatoError('PAYLOAD_TOO_LARGE', undefined, { limit: String(maxBytes) });
      hash.update(bytes);
      await file.writeFile(bytes);
    }
    await file.sync();
  });
  return { sha256: hash.digest('hex'), sizeBytes };
}

async function moveInto(from: string, to: string): Promise<void> {
  const folder = dirname(to);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await rename(from, to);
  await withFile(folder, 'r', (directory) => directory.sync());
}

async function readWhole(path: string): Promise<{ data: Uint8Array; sha256: string } | null> {
  return withFile(path, 'r', async (file) => {
    const { size } = await file.stat();
    const data = new Uint8Array(size);
    const hash = createHash('sha256');
    for (let offset = 0; offset < size; ) {
      const { bytesRead } = await file.read(data, offset, Math.min(PIECE_BYTES, size - offset), offset);
      if (bytesRead === 0) throw new Error(`${path} became shorter while it was read`);
      hash.update(data.subarray(offset, offset + bytesRead));
      offset += bytesRead;
    }
    return { data, sha256: hash.digest('hex') };
  }).catch(absent(null));
}

async function withFile<T>(path: string, flags: string, fn: (file: FileHandle) => Promise<T>): Promise<T> {
  const file = await open(path, flags, 0o600);
  try {
    return await fn(file);
  } finally {
    await file.close();
  }
}
