import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { ownMemory } from '../../src/inference/own-memory.ts';

test('what a process holds for itself grows by what it makes, and its peak stays', () => {
  const before = ownMemory();
  const size = 64 * 1024 ** 2;
  const filled = Buffer.alloc(size, 1);
  const after = ownMemory();
  expect(filled.at(-1)).toBe(1);
  expect(after.memoryBytes - before.memoryBytes).toBeGreaterThan(size / 2);
  expect(after.peakBytes).toBeGreaterThanOrEqual(after.memoryBytes);
});

test.skipIf(!existsSync('/proc/self/status'))('the code that processes share is not counted', () => {
  const shared = process.memoryUsage.rss() - ownMemory().memoryBytes;
  expect(shared).toBeGreaterThan(16 * 1024 ** 2);
});
