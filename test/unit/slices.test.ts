import { expect, it } from 'vitest';
import type { CallResult } from '../../src/inference/connection.ts';
import { joinResults } from '../../src/inference/slices.ts';

const on = (device: string): CallResult => ({ outputs: [], queueMs: 1, computeMs: 1, computeMicros: 1n, batchRows: 1, device });

it.each([
  [['cuda:0', 'cuda:0'], 'cuda:0'],
  [['cuda:0', 'cpu', 'cuda:0'], 'cpu'],
  [['cpu', 'cuda:0'], 'cpu'],
  [['cuda:0', 'webgpu'], 'webgpu'],
])('slices that ran on %j name %s', (devices, named) => {
  expect(joinResults(devices.map(on)).device).toBe(named);
});
