import { readFileSync } from 'node:fs';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { type CallRequest, connectRunner, type Place } from '../../src/inference/connection.ts';
import type { FleetPort } from '../../src/inference/fleet-port.ts';
import { loadable } from '../../src/inference/hosts.ts';
import { node } from '../../src/inference/onnx/onnx.ts';
import { Trials } from '../../src/inference/trials.ts';
import { floats, longs, numbersOf, testFleet, versionOf } from './setup.ts';
import { identityModel, loopModel, tinyModel } from './tiny-models.ts';

const MATRICES = [['a', 'FP32', ['N', 'K']] as const, ['b', 'FP32', ['K', 'M']] as const];
/** Multiplies matrices: those of `rows` 2 fit, others do not. */
const version = loadable(versionOf(tinyModel(MATRICES, [['y', 'FP32', ['N', 'M']]], [node('MatMul', ['a', 'b'], ['y'])])));
const request = (rows: number, tenantKey = 'tenant'): CallRequest => {
  const inputs = [floats([1, 2], [1, 2], 'a'), floats([rows, 1], new Array(rows).fill(1), 'b')];
  return { tenantKey, priority: 0, outputs: null, alone: false, rows: 1, inputs };
};

/** The lending part of a fleet. */
function portOf(fleet: FleetPort, changes: Partial<FleetPort> = {}): FleetPort & { lent: number } {
  const port = {
    lent: 0,
    lend: (...of: Parameters<FleetPort['lend']>) => {
      port.lent++;
      return fleet.lend(...of);
    },
    giveBack: (id: string) => fleet.giveBack(id),
    fallBack: (...of: Parameters<FleetPort['fallBack']>) => fleet.fallBack(...of),
    ...changes,
  };
  return port as FleetPort & { lent: number };
}

describe('a trial', () => {
  test('tells the answer of the next device, and a failure there', async () => {
    const trials = new Trials(portOf(await testFleet()));
    const answer = await trials.run(version, request(2), 'webgpu', null);
    expect(answer).toMatchObject({ device: 'cpu' });
    if (typeof answer === 'object') expect(numbersOf(answer.outputs[0])).toEqual([3]);
    expect(await trials.run(version, request(3), 'webgpu', null)).toBe('fails');
  });

  test('after one that failed pauses for its tenant alone, and not for crashes', async () => {
    const trials = new Trials(portOf(await testFleet()));
    expect(await trials.run(version, request(3), 'webgpu', null)).toBe('fails');
    expect(await trials.run(version, request(2), 'webgpu', null)).toBe('unknown');
    expect(await trials.run(version, request(2, 'another'), 'webgpu', null)).toMatchObject({ device: 'cpu' });
    expect(await trials.run(version, request(2), 'webgpu', { kind: 'CRASH', runner: 'one' })).toMatchObject({ device: 'cpu' });
    expect(await trials.run(version, request(3), 'webgpu', { kind: 'CRASH', runner: 'one' })).toBe('fails');
  });

  test('makes the device answer for a crash at once, for a failure once another tenant has one, for a late run once another runner has', async () => {
    const told: unknown[] = [];
    const fallBack: FleetPort['fallBack'] = async (_, device, tenantKey) => void told.push([device, tenantKey]);
    const trials = new Trials(portOf(await testFleet(), { fallBack }));
    await trials.run(version, request(2), 'webgpu', null);
    for (const kind of ['OVERRUN', 'CRASH'] as const) await trials.run(version, request(2), 'webgpu', { kind, runner: 'one' });
    expect(told).toEqual([
      ['webgpu', 'tenant'],
      ['webgpu', 'one'],
      ['webgpu', null],
    ]);
  });

  test('that cannot be made says nothing of the model', async () => {
    const fleet = await testFleet({ maxLoaded: 1 });
    await fleet.scale('pinned', { min: 1, max: null });
    await fleet.claim(loadable(versionOf(identityModel(), { id: 'pinned' })), []);
    expect(await new Trials(portOf(fleet)).run(version, request(2), 'webgpu', { kind: 'CRASH', runner: 'one' })).toBe('unasked');
  });

  test('whose runner is killed from outside says nothing of the model', async () => {
    const fleet = await testFleet();
    const lent = Promise.withResolvers<Place>();
    const lend: FleetPort['lend'] = async (...of) => {
      const loan = await fleet.lend(...of);
      if (loan !== null) lent.resolve(loan);
      return loan;
    };
    const endless = { ...request(1), inputs: [longs([2 ** 52])] };
    const port = portOf(fleet, { lend, wasKilled: (path) => fleet.wasKilled(path) });
    const verdict = new Trials(port).run(loadable(versionOf(loopModel())), endless, 'webgpu', { kind: 'CRASH', runner: 'one' });
    const connection = await connectRunner(await lent.promise, () => {});
    onTestFinished(() => connection.close());
    await vi.waitFor(async () => expect(await connection.stats()).toMatchObject({ running: 1 }), { timeout: 20_000 });
    const children = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8').trim();
    process.kill(Number(children), 'SIGKILL');
    expect(await verdict).toBe('unknown');
  });

  test('without a next device is the fault of the model', async () => {
    expect(await new Trials(portOf(await testFleet())).run(version, request(2), 'cpu', { kind: 'CRASH', runner: 'one' })).toBe('fails');
  });

  test('loads once for calls that fail together, each of which is told its own', async () => {
    const fleet = portOf(await testFleet());
    const trials = new Trials(fleet);
    const verdicts = await Promise.all([2, 3, 2].map((rows, i) => trials.run(version, request(rows, `${i}`), 'webgpu', null)));
    expect(verdicts).toMatchObject([{ device: 'cpu' }, 'fails', { device: 'cpu' }]);
    expect(fleet.lent).toBe(1);
  });

  test('keeps its answer where the fleet does not hear of it', async () => {
    const fleet = await testFleet();
    const giveBack = async (id: string) => {
      await fleet.giveBack(id);
      throw new Error('gone');
    };
    const trials = new Trials(portOf(fleet, { giveBack, fallBack: () => Promise.reject(new Error('gone')) }));
    expect(await trials.run(version, request(2), 'webgpu', null)).toMatchObject({ device: 'cpu' });
  });
});
