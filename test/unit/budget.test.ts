import { describe, expect, it } from 'vitest';
import { type Footprint, footprintOf, MemoryBudget } from '../../src/inference/budget.ts';
import { loadOptionsOf } from '../../src/inference/load.ts';
import { versionOf } from '../inference/setup.ts';

const MIB = 1024 ** 2;
const budgetOf = (held: Footprint[]) => new MemoryBudget({ memoryBytesMax: 1000, deviceMemoryBytesMax: 100 }, () => held);
const on = (device: string, bytes: number, deviceBytes = 0): Footprint => ({ device, bytes, deviceBytes });

describe('a budget of memory', () => {
  it('counts what is held and what is promised, of the host and of the device', () => {
    const budget = budgetOf([on('cpu', 300), on('cuda:0', 100, 60)]);
    expect([budget.fits(on('cpu', 600)), budget.fits(on('cpu', 601))]).toEqual([true, false]);
    expect([budget.fits(on('cuda:0', 1, 40)), budget.fits(on('cuda:0', 1, 41)), budget.fits(on('cuda:1', 1, 41))]).toEqual([
      true,
      false,
      true,
    ]);
    const place = Symbol();
    budget.promise(place, on('cuda:0', 500, 40), { owner: null, isReplica: true });
    expect([budget.fits(on('cpu', 101)), budget.fits(on('cuda:0', 1, 1))]).toEqual([false, false]);
    expect(budget.memoryOf('cuda:0')).toEqual({ device: 'cuda:0', memoryBytes: 100, memoryBytesMax: 100 });
    expect(budget.memoryOf('cpu')).toEqual({ device: 'cpu', memoryBytes: 900, memoryBytesMax: 1000 });
    budget.release(place);
    expect(budget.fits(on('cuda:0', 1, 40))).toBe(true);
  });

  it('has no more of a device than that has', () => {
    const budget = budgetOf([on('cuda:0', 100, 60)]);
    budget.has = new Map([
      ['cuda:0', 80],
      ['cuda:1', 500],
    ]);
    expect([budget.fits(on('cuda:0', 1, 20)), budget.fits(on('cuda:0', 1, 21))]).toEqual([true, false]);
    expect(['cuda:0', 'cuda:1', 'cpu'].map((device) => budget.memoryOf(device).memoryBytesMax)).toEqual([80, 100, 1000]);
  });

  it('lets what is larger than all of it be alone', () => {
    expect(budgetOf([]).fits(on('cuda:0', 5000, 500))).toBe(true);
    expect(budgetOf([on('cpu', 1)]).fits(on('cuda:0', 5000, 500))).toBe(false);
    expect(budgetOf([on('cpu', 1)]).fits(on('cuda:0', 5, 500))).toBe(true);
  });
});

describe('the footprint of a model', () => {
  it('is what was measured, else what its file lets expect; on the CPU it takes nothing of another device', () => {
    const seen = (host: number | null, device: number | null = null) => ({
      peakMemoryBytes: host && host * MIB,
      peakOnDevice: device === null ? null : { device: 'cuda:1', bytes: device * MIB },
    });
    expect(footprintOf('cpu', 10 * MIB, seen(null))).toEqual(on('cpu', 84 * MIB));
    expect(footprintOf('cpu', 10 * MIB, seen(200, 900))).toEqual(on('cpu', 200 * MIB));
    expect(footprintOf('webgpu', 10 * MIB, seen(null))).toEqual(on('webgpu', 84 * MIB, 20 * MIB));
    expect(footprintOf('webgpu', 10 * MIB, seen(200))).toEqual(on('webgpu', 200 * MIB, 136 * MIB));
    expect(footprintOf('webgpu', 10 * MIB, seen(70))).toEqual(on('webgpu', 70 * MIB, 20 * MIB));
  });

  it('has what CUDA takes before a model in it, unless its device told what it held', () => {
    const peaks = (bytes: number | null) => ({
      peakMemoryBytes: 500 * MIB,
      peakOnDevice: bytes === null ? null : { device: 'cuda:1', bytes },
    });
    expect(footprintOf('cuda:0', 10 * MIB, { peakMemoryBytes: null, peakOnDevice: null })).toEqual(on('cuda:0', 468 * MIB, 660 * MIB));
    expect(footprintOf('cuda:0', 10 * MIB, peaks(null))).toEqual(on('cuda:0', 500 * MIB, 692 * MIB));
    expect(footprintOf('cuda:0', 10 * MIB, peaks(800 * MIB))).toEqual(on('cuda:0', 500 * MIB, 800 * MIB));
    expect(footprintOf('webgpu', 10 * MIB, peaks(800 * MIB))).toEqual(on('webgpu', 500 * MIB, 436 * MIB));
  });
});

describe('how a version is loaded', () => {
  it('has the fixed rows on devices of the kind that they were measured on, and as many in a batch', () => {
    const version = versionOf(new Uint8Array(), { maxBatchRows: 64, fixedRows: { device: 'cuda:0', rows: 8 } });
    expect(loadOptionsOf(version, 'cuda:1')).toMatchObject({ device: 'cuda:1', maxBatchRows: 8, fixedRows: 8 });
    expect(loadOptionsOf(version, 'cpu')).toMatchObject({ device: 'cpu', maxBatchRows: 64, fixedRows: null });
    expect(loadOptionsOf({ ...version, fixedRows: null }, 'cuda:0')).toMatchObject({ maxBatchRows: 64, fixedRows: null });
  });
});
