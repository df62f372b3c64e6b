import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { ownMemory } from '../../src/inference/own-memory.ts';

test('what a process holds for itself grows by what it makes, and its peak stays', () => {
  const size = 64 * 1024 ** 2;
  const probe = new URL('own-memory-probe.ts', import.meta.url).pathname;
  const out = execFileSync(process.execPath, ['--disable-warning=ExperimentalWarning', probe, String(size)], { encoding: 'utf8' });
  const { before, after, last } = JSON.parse(out) as Record<'before' | 'after', ReturnType<typeof ownMemory>> & { last: number };
  expect(last).toBe(1);
  expect(after.memoryBytes - before.memoryBytes).toBeGreaterThan(size / 2);
  expect(after.peakBytes).toBeGreaterThanOrEqual(after.memoryBytes);
});

test.skipIf(!existsSync('/proc/self/status'))('the code that processes share is not counted', () => {
  const shared = process.memoryUsage.rss() - ownMemory().memoryBytes;
  expect(shared).toBeGreaterThan(16 * 1024 ** 2);
});
