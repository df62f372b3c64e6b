import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { expect, onTestFinished, test } from 'vitest';
import { createDirectoryStore } from '../../src/catalog/catalog.ts';

/** As if it was written two days ago. */
async function age(path: string): Promise<void> {
  const then = new Date(Date.now() - 2 * 24 * 60 * 60 * 1000);
  await utimes(path, then, then);
}

async function all(lists: AsyncIterable<string[]>): Promise<string[]> {
  const names: string[] = [];
  for await (const list of lists) names.push(...list);
  return names;
}

async function openStore() {
  const dir = await mkdtemp(join(tmpdir(), 'store-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return { dir, store: await createDirectoryStore(dir) };
}

test('bytes are found again by their digest, however they were cut', async () => {
  const { dir, store } = await openStore();
  const bytes = randomBytes(3_000_001);
  const { sha256, sizeBytes } = await store.put(Readable.from([bytes.subarray(0, 7), bytes.subarray(7)]), 4_000_000);
  expect({ sha256, sizeBytes }).toEqual({ sha256: createHash('sha256').update(bytes).digest('hex'), sizeBytes: bytes.length });
  expect(Buffer.from(await store.read(sha256)).equals(bytes)).toBe(true);
  const path = join(dir, sha256.slice(0, 2), sha256);
  expect([(await stat(path)).mode & 0o777, (await stat(join(dir, sha256.slice(0, 2)))).mode & 0o777]).toEqual([0o600, 0o700]);
});

test('a damaged or missing file is not handed out', async () => {
  const { dir, store } = await openStore();
  const { sha256 } = await store.put(Readable.from(['model']), 100);
  await writeFile(join(dir, sha256.slice(0, 2), sha256), 'modem');
  await expect(store.read(sha256)).rejects.toThrow('damaged');
  await expect(store.read('0'.repeat(64))).rejects.toThrow('missing');
});

test('one byte too many is refused, leaves nothing, and leaves the stream usable', async () => {
  const { dir, store } = await openStore();
  await store.put(Readable.from([Buffer.alloc(10)]), 10);
  const body = Readable.from([Buffer.alloc(10), Buffer.alloc(1), Buffer.alloc(5)]);
  await expect(store.put(body, 10)).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE', data: { limit: '10' } });
  expect(body.destroyed).toBe(false);
  expect(await readdir(join(dir, 'staging'))).toEqual([]);
});

test('what was staged and not kept leaves nothing', async () => {
  const { dir, store } = await openStore();
  {
    await using staged = await store.stage(Readable.from(['abc']), 10);
    expect(staged.sizeBytes).toBe(3);
    expect(await readdir(join(dir, 'staging'))).toHaveLength(1);
  }
  expect((await readdir(dir, { recursive: true })).sort()).toEqual(['removed', 'staging']);
  expect(await readdir(join(dir, 'staging'))).toEqual([]);
});

test('the same bytes may be put by many at once', async () => {
  const { store } = await openStore();
  const bytes = randomBytes(100_000);
  const put = await Promise.all(Array.from({ length: 5 }, () => store.put(Readable.from([bytes]), 200_000)));
  expect(new Set(put.map(({ sha256 }) => sha256)).size).toBe(1);
  expect((await store.read(put[0]?.sha256 ?? '')).length).toBe(bytes.length);
});

test('bytes under a key come back until they are deleted; a key cannot leave its folder', async () => {
  const { store } = await openStore();
  await store.putBytes('replays/0a-1', Buffer.from('one'));
  await store.putBytes('replays/0a-1', Buffer.from('two'));
  expect(Buffer.from((await store.readBytes('replays/0a-1')) ?? []).toString()).toBe('two');
  await store.delete('replays/0a-1');
  await store.delete('replays/0a-1');
  expect(await store.readBytes('replays/0a-1')).toBeNull();
  for (const key of ['../x', 'replays/../../x', 'staging/x', 'removed/x', 'ab/cd', '/etc/x', 'replays/']) {
    await expect(store.readBytes(key)).rejects.toThrow('not a key');
  }
});

test('what a killed process left is removed a day later, and not before', async () => {
  const { dir, store } = await openStore();
  for (const name of ['old', 'young']) await writeFile(join(dir, 'staging', name), 'x');
  await age(join(dir, 'staging', 'old'));
  await store.removeAbandoned();
  expect(await readdir(join(dir, 'staging'))).toEqual(['young']);
});

test('what nobody brought within a day is listed, and only that can be deleted as aged', async () => {
  const { dir, store } = await openStore();
  const put = async (text: string) => (await store.put(Readable.from([text]), 100)).sha256;
  const [old, again, young] = [await put('old'), await put('again'), await put('young')];
  for (const key of ['replays/0-old', 'replays/1-young', 'checkpoints/0-old']) await store.putBytes(key, Buffer.from(key));
  for (const digest of [old, again]) await age(join(dir, digest.slice(0, 2), digest));
  for (const key of ['replays/0-old', 'checkpoints/0-old']) await age(join(dir, key));
  expect((await all(store.agedFiles())).sort()).toEqual([old, again].sort());
  expect(await all(store.agedKeys('replays'))).toEqual(['0-old']);
  expect(await all(store.agedKeys('nothing'))).toEqual([]);

  await put('again');
  for (const digest of [old, again, young, '0'.repeat(64)]) await store.deleteAged(digest);
  expect(await readdir(join(dir, 'removed'))).toEqual([old]);
  for (const digest of [again, young]) expect(await store.read(digest)).toBeInstanceOf(Uint8Array);
  expect(await readdir(join(dir, 'staging'))).toEqual([]);
});
