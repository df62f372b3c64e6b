import { expect, test } from 'vitest';
import { createMemory } from '../../src/catalog/entitlement-memory.ts';

type Value = { name: string };

function open() {
  let finish: (value: Value) => void = () => {};
  const promise = new Promise<Value>((resolve) => {
    finish = resolve;
  });
  return { promise, finish };
}

test('loads of one key at once share one, and are remembered as the same object', async () => {
  const memory = createMemory<Value>(10);
  const { promise, finish } = open();
  let loads = 0;
  const load = () => {
    loads++;
    return promise;
  };
  const both = [memory.load('k', load), memory.load('k', load)];
  finish({ name: 'a' });
  const [first, second] = await Promise.all(both);
  expect(loads).toBe(1);
  expect(first).toBe(second);
  expect(memory.get('k')).toBe(first);
});

test('a load that something was forgotten during is not remembered', async () => {
  const memory = createMemory<Value>(10);
  const { promise, finish } = open();
  const loading = memory.load('k', () => promise);
  memory.forget(() => false);
  finish({ name: 'stale' });
  expect(await loading).toEqual({ name: 'stale' });
  expect(memory.get('k')).toBeUndefined();
});

test('whoever comes after something was forgotten does not join a load from before', async () => {
  const memory = createMemory<Value>(10);
  const before = open();
  const stale = memory.load('k', () => before.promise);
  memory.forget(() => false);
  const fresh = await memory.load('k', async () => ({ name: 'fresh' }));
  before.finish({ name: 'stale' });
  await stale;
  expect(fresh).toEqual({ name: 'fresh' });
  expect(memory.get('k')).toBe(fresh);
});

test('a failed load is not remembered', async () => {
  const memory = createMemory<Value>(10);
  await expect(memory.load('k', () => Promise.reject(new Error('absent')))).rejects.toThrow('absent');
  expect(await memory.load('k', async () => ({ name: 'now' }))).toEqual({ name: 'now' });
});

test('what matches is forgotten, the rest stays', async () => {
  const memory = createMemory<Value>(10);
  for (const name of ['a', 'b']) await memory.load(name, async () => ({ name }));
  memory.forget((value) => value.name === 'a');
  expect([memory.get('a'), memory.get('b')]).toEqual([undefined, { name: 'b' }]);
});

test('beyond its bound the least recently used goes first', async () => {
  const memory = createMemory<Value>(2);
  for (const name of ['a', 'b']) await memory.load(name, async () => ({ name }));
  memory.get('a');
  await memory.load('c', async () => ({ name: 'c' }));
  expect(['a', 'b', 'c'].map((key) => memory.get(key) !== undefined)).toEqual([true, false, true]);
});
