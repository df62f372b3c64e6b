import { expect, it, vi } from 'vitest';
import { loadVersion } from '../../src/inference/load.ts';
import type { Runner } from '../../src/inference/runner-process.ts';
import { versionOf } from '../inference/setup.ts';

const done: string[] = [];
vi.mock(import('../../src/inference/confinement.ts'), async (original) => ({
  ...(await original()),
  lowerPriority: (pid) => void done.push(`lowered ${pid}`),
  limitMemory: async (pid) => void done.push(`bounded ${pid}`),
}));

it.each([
  { trusted: false, steps: ['lowered 7', 'loaded', 'bounded 7'] },
  { trusted: true, steps: ['loaded', 'bounded 7'] },
])('a version is loaded at the priority of its runs, trusted $trusted', async ({ trusted, steps }) => {
  done.length = 0;
  const loaded = { signature: { inputs: [], outputs: [], batchDimension: null }, partlyOnCpu: false };
  const loadModel = async () => {
    done.push('loaded');
    return loaded;
  };
  const runner = { pid: 7, connection: { loadModel }, kill() {} } as unknown as Runner;
  const version = versionOf(new Uint8Array(), { trusted, peakMemoryBytes: 1 });
  expect(await loadVersion(runner, version, 'cpu', new Uint8Array())).toBe(loaded);
  expect(done).toEqual(steps);
});
