import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { availableParallelism, getPriority } from 'node:os';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { MercatoError } from '../../src/base/errors.ts';
import { boxed } from '../../src/inference/check-runner.ts';
import { RunnerLost } from '../../src/inference/connection.ts';
import { createInference, encodeBytes, type FleetPort } from '../../src/inference/inference.ts';
import { inspectModel } from '../../src/inference/inspect.ts';
import { node, readContents, tensor } from '../../src/inference/onnx/onnx.ts';
import { checkSamples } from '../../src/inference/samples.ts';
import { askSamples } from '../../src/inference/verify.ts';
import { testFleet, testInference } from './setup.ts';
import { identityModel, loopModel, mixingModel, tableModel, tinyModel } from './tiny-models.ts';

/** A fleet that lends as `borrow` does. */
const lending = (fleet: FleetPort, borrow: FleetPort['borrow']): FleetPort =>
  ({
    borrow,
    devices: () => fleet.devices(),
    hardware: () => fleet.hardware(),
    deviceBytesOf: (id: string) => fleet.deviceBytesOf(id),
    giveBack: (id: string) => fleet.giveBack(id),
    wasKilled: (path: string) => fleet.wasKilled(path),
    lackedMemory: (path: string) => fleet.lackedMemory(path),
    onPlace: () => {},
  }) as unknown as FleetPort;

/** An inspection without its thread. */
const inspectHere = (model: Uint8Array, gate: Parameters<typeof inspectModel>[2], fleet: FleetPort) =>
  inspectModel(model, readContents(model, [1]), gate, fleet);

const GATE = { runLimitMs: 5_000, maxBatchRows: 8 };

describe('an inspection', () => {
  test('reads the signature with its symbolic dimensions', async () => {
    const inference = await testInference();
    const { signature, profile } = await inference.inspect(identityModel('FP16', ['N', 2, 'len']), GATE);
    const x = { name: 'x', datatype: 'FP16', shape: [-1, 2, -1], dimensions: ['N', null, 'len'] };
    expect(signature).toEqual({ inputs: [x], outputs: [{ ...x, name: 'y' }], batchDimension: 'N' });
    expect(profile.loadMs).toBeGreaterThan(0);
  });

  test('finds rows joinable that keep their outputs in any company', async () => {
    const inference = await testInference();
    for (const model of [identityModel('FP32'), identityModel('BYTES'), tableModel()]) {
      expect(await inference.inspect(model, GATE)).toMatchObject({ joinable: true });
    }
  });

  test('finds rows not joinable that change with the rows beside them', async () => {
    const inference = await testInference();
    const finding = { joinable: false, batchFinding: 'Output "y" of a row changes with the rows beside it.' };
    expect(await inference.inspect(mixingModel(), GATE)).toMatchObject(finding);
  });

  test('finds rows not joinable without a symbolic dimension in front of all', async () => {
    const inference = await testInference();
    const joined = tinyModel([['x', 'FP32', ['N', 2]]], [['y', 'FP32', [2, 'N']]], [node('Transpose', ['x'], ['y'])]);
    for (const model of [identityModel('FP32', [2, 2]), identityModel('FP32', []), joined]) {
      expect(await inference.inspect(model, GATE)).toMatchObject({ joinable: false, signature: { batchDimension: null } });
    }
  });

  test('accepts a model that no random input suits, unjoinable', async () => {
    const inference = await testInference();
    const nodes = [node('Gather', ['x', 'i'], ['y'])];
    const fixed = tinyModel(
      [
        ['x', 'FP32', ['N', 2]],
        ['i', 'INT64', ['N', 9, 9]],
      ],
      [['y', 'FP32', ['N', 9, 9, 2]]],
      nodes,
    );
    expect(await inference.inspect(fixed, GATE)).toMatchObject({ joinable: false });
  });

  test('measures a version by rows, in rising numbers, with its memory, runtime and device', async () => {
    const inference = await testInference();
    const { profile } = await inference.inspect(identityModel('FP32'), { runLimitMs: 5_000, maxBatchRows: 12 });
    expect(profile).toMatchObject({ device: 'cpu', threads: 1, runtime: expect.stringMatching(/^onnxruntime-node \d/) });
    expect(profile.peakMemoryBytes).toBeGreaterThan(2 ** 24);
    expect(profile.latencies.map(({ rows }) => rows)).toEqual([1, 2, 4, 8, 12]);
    for (const { rows, p50Ms, rowsPerSecond } of profile.latencies) expect(rowsPerSecond).toBeCloseTo((rows / p50Ms) * 1_000);
    expect((await inference.status()).deployments).toEqual([]);
  });

  test('asks for room for what a run takes by its file', async () => {
    const fleet = await testFleet();
    const borrow = vi.fn(fleet.borrow.bind(fleet));
    await inspectHere(identityModel('FP32', ['N', 1000]), { ...GATE, maxBatchRows: 1 }, lending(fleet, borrow));
    expect(borrow.mock.calls).toEqual([[expect.any(Number), 'cpu', 8_000]]);
  });

  test('measures one size where the rows are not a dimension of their own, and none of a model that no random input suits', async () => {
    const inference = await testInference();
    const { profile: fixed } = await inference.inspect(identityModel('FP32', [2, 2]), GATE);
    expect(fixed.latencies.map(({ rows }) => rows)).toEqual([1]);
    const never = await inference.inspect(tableModel(4), GATE);
    expect(never.profile.latencies).toEqual([]);
  });

  test('rejects a model that ends its runner on every random input, and is not held up by it', async () => {
    const inference = await testInference();
    await expect(inference.inspect(loopModel(2 ** 52), { ...GATE, runLimitMs: 200 })).rejects.toMatchObject({
      code: 'MODEL_REJECTED',
      message: expect.stringContaining('Give samples'),
      data: { rule: 'RUNS_CRASHED' },
    });
    expect((await inference.status()).deployments).toEqual([]);
  });

  test('tries narrower inputs, and single rows, in other runners where the first ended', async () => {
    const inference = await testInference();
    const narrow = await inference.inspect(loopModel(undefined, 2 ** 50, 1), { ...GATE, runLimitMs: 500 });
    expect(narrow).toMatchObject({
      joinable: true,
      profile: { latencies: expect.arrayContaining([expect.objectContaining({ rows: 8 })]) },
    });
    const single = await inference.inspect(loopModel(undefined, 2 ** 50, 1, 'Size'), { ...GATE, runLimitMs: 500 });
    expect(single).toMatchObject({ joinable: false, maxBatchRows: 1, batchFinding: expect.stringContaining('batch limit is 1') });
    expect(single.profile.latencies).toMatchObject([{ rows: 1 }]);
    for (const { profile } of [narrow, single]) expect(profile.peakMemoryBytes).toBeGreaterThan(2 ** 24);
  });

  test('of samples rejects a late run, and a verification of them tells it as what it is: it may be the host that is slow', async () => {
    const inference = await testInference();
    const x = { name: 'x', datatype: 'INT64', data: [String(2 ** 52)] } as const;
    const gate = { runLimitMs: 300, maxBatchRows: 1, samples: [{ inputs: [x], outputs: [{ ...x, name: 'y' }], tolerance: 0 }] };
    await expect(inference.inspect(loopModel(), gate)).rejects.toMatchObject({
      code: 'MODEL_REJECTED',
      message: expect.stringContaining('Sample 0'),
      data: { rule: 'SAMPLE_FAILED', field: 'samples[0]' },
    });
    await expect(inference.verify(loopModel(), gate)).rejects.toMatchObject({ code: 'MODEL_FAILED' });
  });

  test('holds samples against a model whose random inputs never end', async () => {
    const inference = await testInference();
    const x = { name: 'x', datatype: 'INT64', data: ['-1'] } as const;
    const gate = { runLimitMs: 300, maxBatchRows: 1, samples: [{ inputs: [x], outputs: [{ ...x, name: 'y' }], tolerance: 0 }] };
    expect(await inference.inspect(loopModel(undefined, 2 ** 50, -1), gate)).toMatchObject({ joinable: false });
  });

  test('reads a large file apart, tells its fault as of a small one, and rejects what takes too long to read', async () => {
    const inference = await testInference();
    const wide = (bytes: number) =>
      tinyModel(
        [['x', 'FP32', ['N', 2]]],
        [['y', 'FP32', ['N', 2]]],
        [node('Nonsense', ['x'], ['y'])],
        [tensor('w', 'UINT8', [bytes], new Uint8Array(bytes))],
      );
    const told = (model: Uint8Array) =>
      inference.inspect(model, GATE).catch((error: MercatoError) => [error.code, error.message, error.data]);
    const large = await told(wide(100_000));
    expect(large).toEqual(await told(wide(1)));
    expect(large).toEqual([
      'MODEL_REJECTED',
      expect.stringContaining('Nonsense'),
      { rule: 'UNKNOWN_OPERATOR', place: expect.stringContaining('node[0]') },
    ]);

    const timeout = vi.spyOn(AbortSignal, 'timeout').mockReturnValue(AbortSignal.abort());
    onTestFinished(() => void timeout.mockRestore());
    expect(await told(wide(100_000))).toEqual([
      'MODEL_REJECTED',
      expect.stringContaining('60 s and 512 MiB'),
      { rule: 'READING_LIMIT', place: 'graph' },
    ]);
  });

  test('of samples tells a crash as one of the sample', async () => {
    const x = { name: 'x', datatype: 'FP32', data: [1] } as const;
    const tensor = { name: 'x', datatype: 'FP32', shape: [-1], dimensions: ['N'] } as const;
    const signature = { inputs: [tensor], outputs: [{ ...tensor, name: 'y' }], batchDimension: 'N' };
    const checked = checkSamples([{ inputs: [x], outputs: [{ ...x, name: 'y' }], tolerance: 0 }], signature, 1, async () => {
      throw new RunnerLost(true);
    });
    await expect(checked).rejects.toMatchObject({
      code: 'MODEL_REJECTED',
      message: expect.stringMatching(/Sample 0 .* crashed/),
      data: { rule: 'SAMPLE_FAILED' },
    });
  });

  test('of samples tells the first word that differs, cut where it is long', async () => {
    const x = { name: 'x', datatype: 'BYTES', shape: [-1], dimensions: ['N'] } as const;
    const signature = { inputs: [x], outputs: [{ ...x, name: 'y' }], batchDimension: 'N' };
    const given = { name: 'x', datatype: 'BYTES', data: ['a', 'b', 'c'] } as const;
    const sample = { inputs: [given], outputs: [{ ...given, name: 'y' }], tolerance: 0 };
    const answering = (words: string[]) =>
      checkSamples([sample], signature, 3, async () => ({
        outputs: [{ name: 'y', datatype: 'BYTES', shape: [3], data: encodeBytes(words) }],
      }));
    await answering(['a', 'b', 'c']);
    const cut = `"${'ü'.repeat(59)}`;
    await expect(answering(['a', 'ü'.repeat(100), ''])).rejects.toMatchObject({
      message: expect.stringContaining(`has ${cut} at element 1, not "b" within 0`),
      data: { rule: 'SAMPLE_MISMATCH', given: cut, expected: '"b"' },
    });
  });

  test('does not count the wait for a runner', async () => {
    const fleet = await testFleet();
    const { now } = performance;
    let waitedMs = 0;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now.call(performance) + waitedMs);
    onTestFinished(() => clock.mockRestore());
    const borrow: FleetPort['borrow'] = async (...of) => {
      const loan = await fleet.borrow(...of);
      waitedMs += 100_000;
      return loan;
    };
    const found = await inspectHere(identityModel(), { ...GATE, limitMs: 100_000 }, lending(fleet, borrow));
    expect(found).toMatchObject({ joinable: true });
  });

  test.skipIf(availableParallelism() < 2)('keeps what it found where more threads cannot be tried', async () => {
    const fleet = await testFleet();
    const lent = vi.fn(fleet.borrow.bind(fleet)).mockImplementationOnce((...of) => {
      lent.mockRejectedValueOnce(new MercatoError('OVERLOADED'));
      return fleet.borrow(...of);
    });
    const found = await inspectHere(loopModel(200_000), GATE, lending(fleet, lent));
    expect(lent).toHaveBeenCalledTimes(2);
    expect(found).toMatchObject({ profile: { threads: 1 } });
  });

  test.runIf(existsSync('/proc/self'))('runs at a lower priority than what serves', async () => {
    const fleet = await testFleet();
    const { id, path } = await fleet.borrow(1, 'cpu');
    const isRunner = (pid: string) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(path);
      } catch {
        return false;
      }
    };
    const runners = readdirSync('/proc').filter(isRunner);
    expect(runners.map((pid) => getPriority(Number(pid)))).toContain(5);
    await fleet.giveBack(id);
  });

  test.runIf(existsSync('/proc/thread-self'))('works at a lower priority than the threads that serve', async () => {
    const fleet = await testFleet();
    const priorities = () => readdirSync('/proc/self/task').map((thread) => getPriority(Number(thread)));
    expect(priorities()).not.toContain(5);
    const seen: number[] = [];
    const borrow: FleetPort['borrow'] = (...of) => {
      seen.push(...priorities());
      return fleet.borrow(...of);
    };
    await createInference(lending(fleet, borrow)).inspect(identityModel(), GATE);
    expect(seen).toContain(5);
  });

  test('makes and compares what a file asks for apart: the event loop waits for none of it', async () => {
    const inference = await testInference();
    let [made, compared, most] = [0, 0, 0];
    const { random } = Math;
    const { compare } = Buffer;
    Math.random = () => {
      made++;
      return random();
    };
    Buffer.compare = (a, b) => {
      compared += a.length;
      return compare(a, b);
    };
    const turn = () => {
      most = Math.max(most, made, compared);
      [made, compared] = [0, 0];
      turns = setImmediate(turn);
    };
    let turns = setImmediate(turn);
    onTestFinished(() => {
      clearImmediate(turns);
      Object.assign(Math, { random });
      Object.assign(Buffer, { compare });
    });
    // Whether there is time for it does not matter here.
    const words = inference.inspect(identityModel('BYTES', [4_096, 4_096]), { ...GATE, limitMs: 3_000 });
    await Promise.allSettled([words]);
    const rows = inference.inspect(identityModel('UINT8', ['N', 2 ** 20]), { ...GATE, maxBatchRows: 1 });
    await expect(rows).resolves.toMatchObject({ joinable: true });
    expect(most).toBeLessThan(1_000);
  });

  test('ends with the server, and gives its runner back', async () => {
    const fleet = await testFleet();
    const lent = Promise.withResolvers<string>();
    const back = Promise.withResolvers<string>();
    const port = {
      ...lending(fleet, async (...of) => {
        const loan = await fleet.borrow(...of);
        lent.resolve(loan.id);
        return loan;
      }),
      async giveBack(id: string) {
        await fleet.giveBack(id);
        back.resolve(id);
      },
    };
    const inference = createInference(port);
    const inspected = inference.inspect(loopModel(2 ** 52), { ...GATE, runLimitMs: 60_000 }).catch((error: Error) => error.name);
    const id = await lent.promise;
    await inference[Symbol.asyncDispose]();
    expect(await inspected).toBe('AbortError');
    expect(await back.promise).toBe(id);
  });

  test('ends when its time is over, whatever its runs may take', async () => {
    const inference = await testInference();
    const slow = inference.inspect(loopModel(2 ** 52), { ...GATE, runLimitMs: 60_000, limitMs: 2_000 });
    await expect(slow).rejects.toMatchObject({ code: 'MODEL_REJECTED', data: { rule: 'TIME_BOX', limit: '2000' } });
    expect((await inference.status()).deployments).toEqual([]);
  });

  test('finds the batch limit of a model that fails with more rows', async () => {
    const inference = await testInference();
    const upTo8 = tinyModel(
      [['x', 'FP32', ['N', 1]]],
      [['y', 'FP32', ['N', 1]]],
      [
        node('Shape', ['x'], ['shape'], { end: 1 }),
        node('Squeeze', ['shape'], ['rows']),
        node('Range', ['zero', 'rows', 'one'], ['places']),
        node('Gather', ['table', 'places'], ['found']),
        node('Add', ['x', 'found'], ['y']),
      ],
      [
        tensor('zero', 'INT64', [], BigInt64Array.of(0n)),
        tensor('one', 'INT64', [], BigInt64Array.of(1n)),
        tensor('table', 'FP32', [8, 1], new Float32Array(8)),
      ],
    );
    const { maxBatchRows, batchFinding } = await inference.inspect(upTo8, { ...GATE, maxBatchRows: 64 });
    expect(maxBatchRows).toBe(8);
    expect(batchFinding).toContain('A run of 16 rows failed: its batch limit is 8.');
    expect(await inference.inspect(identityModel(), { ...GATE, maxBatchRows: 64 })).toMatchObject({ maxBatchRows: 64 });
  });

  test('rejects what is no model, and one that the runtime cannot load', async () => {
    const inference = await testInference();
    const unknown = tinyModel([['x', 'FP32', ['N']]], [['y', 'FP32', ['N']]], [node('NoSuchOperator', ['x'], ['y'])]);
    for (const model of [Buffer.from('hello'), new Uint8Array(), unknown]) {
      await expect(inference.inspect(model, GATE)).rejects.toMatchObject({ code: 'MODEL_REJECTED' });
    }
  });
});

test('samples are asked on each hardware of a kind of device', async () => {
  const hardware = { 'cuda:0': 'one GPU', 'cuda:1': 'another', 'cuda:2': 'one GPU' };
  const lender = { hardware: async () => hardware, borrow: () => Promise.reject(new RunnerLost(false)) } as Partial<FleetPort>;
  const where = { fleet: lender as FleetPort, devices: ['cuda:1', 'cuda:2'], answered: ['cuda:0'], rowsMax: 1 };
  const { verifiedOn, fallbacks } = await askSamples(identityModel(), GATE, boxed(GATE), where);
  expect(verifiedOn).toMatchObject(['cuda:0', 'cuda:2'].map((device) => ({ device, hardware: 'one GPU' })));
  expect(fallbacks).toEqual([{ device: 'cuda:1', hardware: 'another', fault: 'its process crashed' }]);
});
