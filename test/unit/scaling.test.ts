import { describe, expect, it } from 'vitest';
import { NO_STATS, type RunnerStats } from '../../src/inference/frames.ts';
import { Scaler, withinHost } from '../../src/inference/scaling.ts';

const calm: RunnerStats = { ...NO_STATS, idleSinceMs: 1, runMs: 10, memoryBytes: 1, peakBytes: 1 };
const crowded: RunnerStats = { ...calm, queued: 5, running: 1, idleSinceMs: null, queueMs: 200 };
const steps = (count: number, replicas: RunnerStats[], busyShare: number, bounds: { min: number; max: number }) => {
  const scaler = new Scaler();
  return Array.from({ length: count }, () => scaler.step(replicas, busyShare, bounds));
};

describe('the number of replicas', () => {
  it('grows where all are crowded for a while, up to the maximum', () => {
    expect(steps(2, [crowded, crowded], 2, { min: 0, max: 3 })).toEqual([0, 1]);
    expect(steps(9, [crowded, crowded], 2, { min: 0, max: 2 })).toEqual(new Array(9).fill(0));
    expect(steps(9, [crowded, calm], 2, { min: 0, max: 3 })).toEqual(new Array(9).fill(0));
  });

  it('shrinks where it is calm for long, down to one and to the minimum', () => {
    expect(steps(11, [calm, calm], 0.1, { min: 0, max: 4 })).toEqual([...new Array(9).fill(0), -1, 0]);
    expect(steps(30, [calm], 0, { min: 0, max: 4 })).toEqual(new Array(30).fill(0));
    expect(steps(30, [calm, calm], 0, { min: 2, max: 4 })).toEqual(new Array(30).fill(0));
  });

  it('comes back at once into bounds that have changed', () => {
    expect(steps(1, [], 0, { min: 1, max: 4 })).toEqual([1]);
    expect(steps(1, [crowded, crowded], 2, { min: 0, max: 1 })).toEqual([-1]);
  });

  it("is within the host's maximum, and of a minimum and a maximum the maximum holds", () => {
    expect(withinHost({ min: 0, max: null }, 4)).toEqual({ min: 0, max: 4 });
    expect(withinHost({ min: 9, max: null }, 4)).toEqual({ min: 4, max: 4 });
    expect(withinHost({ min: 2, max: 1 }, 4)).toEqual({ min: 1, max: 1 });
  });
});
