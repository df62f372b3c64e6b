import { expect, test, vi } from 'vitest';
import { type ErrorCode, MercatoError } from '../../src/base/errors.ts';
import { CallCounts } from '../../src/inference/call-counts.ts';
import type { Outcomes } from '../../src/inference/frames.ts';

test('calls are told by version within a second, each once, as their callers were told', async () => {
  vi.useFakeTimers();
  const told: [string, Outcomes][] = [];
  const counts = new CallCounts({ count: async (...one) => void told.push(one) });
  const fails = (versionId: string, error: unknown) => expect(counts.follow(versionId, Promise.reject(error))).rejects.toBe(error);
  const codes: ErrorCode[] = ['OVERLOADED', 'DEADLINE_EXCEEDED', 'DEADLINE_EXCEEDED', 'MODEL_FAILED', 'CANCELLED'];
  for (const code of codes) await fails('a', new MercatoError(code));
  await fails('a', new Error('a fault'));
  expect(await counts.follow('b', Promise.resolve(7))).toBe(7);
  expect(told).toEqual([]);
  await vi.advanceTimersByTimeAsync(1_000);
  vi.useRealTimers();
  const none = { answered: 0, overloaded: 0, late: 0, failed: 0 };
  const expected = [
    ['a', { ...none, overloaded: 1, late: 2, failed: 1 }],
    ['b', { ...none, answered: 1 }],
  ];
  expect(told).toEqual(expected);
  await counts.tell();
  expect(told).toEqual(expected);
  await counts.follow('b', Promise.resolve());
  await counts.tell();
  expect(told.slice(2)).toEqual([['b', { ...none, answered: 1 }]]);
});
