import { describe, expect, test, vi } from 'vitest';
import { DATATYPES, type Datatype, encodeBytes, type Inference, type Tensor } from '../../src/inference/inference.ts';
import { floats, longs, numbersOf, request, testInference, versionOf } from './setup.ts';
import { bombModel, identityModel, loopModel, tableModel, twoOutputsModel } from './tiny-models.ts';

const bytesOf = (view: ArrayBufferView<ArrayBuffer>) => new Uint8Array(view.buffer);
const FOUR: Record<Datatype, Uint8Array> = {
  BOOL: Uint8Array.of(1, 0, 0, 1),
  UINT8: Uint8Array.of(0, 1, 254, 255),
  UINT16: bytesOf(Uint16Array.of(0, 1, 2, 65535)),
  UINT32: bytesOf(Uint32Array.of(0, 1, 2, 2 ** 32 - 1)),
  UINT64: bytesOf(BigUint64Array.of(0n, 1n, 2n ** 53n + 1n, 2n ** 64n - 1n)),
  INT8: bytesOf(Int8Array.of(-128, -1, 0, 127)),
  INT16: bytesOf(Int16Array.of(-32768, -1, 0, 32767)),
  INT32: bytesOf(Int32Array.of(-(2 ** 31), -1, 0, 2 ** 31 - 1)),
  INT64: bytesOf(BigInt64Array.of(-(2n ** 63n), -1n, 0n, 2n ** 63n - 1n)),
  FP16: bytesOf(Uint16Array.of(0x3c00, 0xc000, 0x7c00, 0x7e00)),
  FP32: bytesOf(Float32Array.of(1.5, -0, Number.POSITIVE_INFINITY, Number.NaN)),
  FP64: bytesOf(Float64Array.of(Math.PI, -0, Number.NEGATIVE_INFINITY, Number.NaN)),
  BYTES: encodeBytes(['', 'ä€😀', 'plain', ' ']),
};

/** Keeps the version's runner busy with a run that is under way when this resolves. */
async function occupy(inference: Inference, version: ReturnType<typeof versionOf>): Promise<void> {
  void inference.run(request(version, [longs([1_000_000])])).catch(() => {});
  const busy = { versionId: version.id, replicas: [{ queued: 0, running: 1 }] };
  await vi.waitFor(async () => expect((await inference.status()).deployments).toMatchObject([busy]), { timeout: 20_000 });
}

describe('a run', () => {
  test.each(DATATYPES)('carries every value of %s in and out, none of no rows too', async (datatype) => {
    const inference = await testInference();
    const version = versionOf(identityModel(datatype));
    for (const shape of [
      [2, 2],
      [0, 2],
    ]) {
      const x: Tensor = { name: 'x', datatype, shape, data: shape[0] === 0 ? new Uint8Array() : FOUR[datatype] };
      const result = await inference.run(request(version, [x]));
      expect(result.outputs).toEqual([{ ...x, name: 'y' }]);
      expect(result).toMatchObject({ rows: shape[0], runs: 1, device: 'cpu' });
    }
  });

  test('computes only the outputs that are asked for, in their order', async () => {
    const inference = await testInference();
    const version = versionOf(twoOutputsModel());
    const run = async (outputs: string[] | null) => {
      const result = await inference.run(request(version, [floats([1, 2], [3, 5])], { outputs }));
      return result.outputs.map((output) => [output.name, ...numbersOf(output)]);
    };
    const [double, square] = [
      ['double', 6, 10],
      ['square', 9, 25],
    ];
    expect(await run(null)).toEqual([double, square]);
    expect(await run(['square'])).toEqual([square]);
    expect(await run(['square', 'double'])).toEqual([square, double]);
  });

  test('of more rows than the batch limit goes in slices and comes back whole', async () => {
    const inference = await testInference();
    const values = Array.from({ length: 38 }, (_, index) => index);
    const sliced = await inference.run(request(versionOf(identityModel()), [floats([19, 2], values)]));
    expect(numbersOf(sliced.outputs[0])).toEqual(values);
    expect(sliced).toMatchObject({ rows: 19, runs: 3, batchRows: 8, outputs: [{ shape: [19, 2] }] });
  });

  test('is not sliced where rows are not known to be independent', async () => {
    const inference = await testInference();
    const version = versionOf(identityModel(), { joinable: false });
    const whole = await inference.run(request(version, [floats([19, 2], Array(38).fill(1))]));
    expect(whole).toMatchObject({ rows: 19, runs: 1, batchRows: 19 });
  });

  test('of slices fails as a whole when one of them fails', async () => {
    const inference = await testInference();
    const version = versionOf(tableModel(), { maxBatchRows: 2 });
    await expect(inference.run(request(version, [longs([0, 1, 2, 9])]))).rejects.toMatchObject({ code: 'MODEL_FAILED' });
  });

  test('that the model refuses says why, without a path of the machine', async () => {
    const inference = await testInference();
    const failing = inference.run(request(versionOf(tableModel()), [longs([9])]));
    const error: Error = await failing.then(
      () => new Error('it ran'),
      (reason: Error) => reason,
    );
    expect(error).toMatchObject({ code: 'MODEL_FAILED', message: expect.stringContaining('idx=9'), data: { rule: 'RUN' } });
    expect(error.message).not.toMatch(/\.(cc|h|so|ts)\b/);
    expect(error.message.length).toBeLessThanOrEqual(300);
  });

  test('is counted by what came of it, for the owner of the version', async () => {
    const inference = await testInference();
    const version = versionOf(tableModel());
    await inference.run(request(version, [longs([1])]));
    await inference.run(request(version, [longs([9])])).catch(() => {});
    const [deployment] = (await inference.status()).deployments;
    const calls = { answered: 1, failed: 1, overloaded: 0, late: 0 };
    expect(deployment).toMatchObject({ ...calls, left: [], replicas: [calls] });
  });

  test('is counted as its caller was told, whatever became of its runner', async () => {
    const inference = await testInference();
    const version = versionOf(loopModel(), { runLimitMs: 1_000 });
    const call = (turns: number, given: object = {}) => inference.run(request(version, [longs([turns])], given)).catch(() => {});
    await call(1);
    await call(2 ** 52);
    await call(2 ** 52, { deadlineMs: 300 });
    await call(1, { signal: AbortSignal.abort() });
    await call(1);
    expect((await inference.status()).deployments).toMatchObject([{ answered: 2, failed: 1, late: 1, overloaded: 0 }]);
  });

  test('reads any non-zero byte of BOOL as true', async () => {
    const inference = await testInference();
    const x: Tensor = { name: 'x', datatype: 'BOOL', shape: [1, 2], data: Uint8Array.of(2, 255) };
    const { outputs } = await inference.run(request(versionOf(identityModel('BOOL')), [x]));
    expect(outputs[0]?.data).toEqual(Uint8Array.of(1, 1));
  });

  test('that asks for more memory than there is fails alone', async () => {
    const inference = await testInference();
    const version = versionOf(bombModel());
    await expect(inference.run(request(version, [longs([2 ** 38])]))).rejects.toMatchObject({ code: 'MODEL_FAILED' });
    expect(numbersOf((await inference.run(request(version, [longs([2])]))).outputs[0])).toEqual([0, 0]);
  });

  test('refuses text that the runtime would cut', async () => {
    const inference = await testInference();
    const x: Tensor = { name: 'x', datatype: 'BYTES', shape: [1, 2], data: encodeBytes(['a\0b', 'c']) };
    await expect(inference.run(request(versionOf(identityModel('BYTES')), [x]))).rejects.toMatchObject({ code: 'MODEL_FAILED' });
  });
});

describe('a busy runner', () => {
  test('joins the calls that wait, shares compute by rows, and gives each caller its own rows', async () => {
    const inference = await testInference();
    const version = versionOf(loopModel());
    await occupy(inference, version);
    const calls = [[1], [2, 3], [4]].map((values) => inference.run(request(version, [longs(values)])));
    const results = await Promise.all(calls);
    expect(results.map(({ outputs }) => numbersOf(outputs[0]))).toEqual([[1], [2, 3], [4]]);
    expect(results.map(({ batchRows }) => batchRows)).toEqual([4, 4, 4]);
    const [one, two] = results.map(({ computeMicros }) => Number(computeMicros));
    expect(Math.abs((two ?? 0) - 2 * (one ?? 0))).toBeLessThanOrEqual(2);
  });

  test.each([
    [false, [1, 1]],
    [true, [2, 2]],
  ])('joins the rows of two tenants only if the version is shared (%s)', async (shared, batchRows) => {
    const inference = await testInference();
    const version = versionOf(loopModel(), { shared });
    await occupy(inference, version);
    const results = await Promise.all(['a', 'b'].map((tenantKey) => inference.run(request(version, [longs([1])], { tenantKey }))));
    expect(results.map((result) => result.batchRows)).toEqual(batchRows);
  });

  test('fails only the caller whose input is bad', async () => {
    const inference = await testInference();
    const version = versionOf(tableModel(), { shared: true });
    await inference.run(request(version, [longs([0])]));
    const calls = [0, 1, 9, 2, 3].map((index) => inference.run(request(version, [longs([index])], { tenantKey: `tenant ${index}` })));
    const results = await Promise.allSettled(calls);
    expect(results.map((result) => (result.status === 'fulfilled' ? numbersOf(result.value.outputs[0]) : 'failed'))).toEqual([
      [10],
      [11],
      'failed',
      [12],
      [13],
    ]);
  });

  test('does not run a call whose deadline passes or whose caller cancels while it waits', async () => {
    const inference = await testInference();
    const version = versionOf(loopModel());
    await occupy(inference, version);
    const cancelling = new AbortController();
    const late = inference.run(request(version, [longs([1])], { deadlineMs: 1 }));
    const cancelled = inference.run(request(version, [longs([1])], { signal: cancelling.signal }));
    cancelling.abort();
    const refused = (code: string) => ({ status: 'rejected', reason: { code } });
    const settled = await Promise.allSettled([late, cancelled]);
    expect(settled).toMatchObject([refused('DEADLINE_EXCEEDED'), refused('CANCELLED')]);
    expect(await inference.run(request(version, [longs([5])]))).toMatchObject({ batchRows: 1 });
  });

  test('lets a run go on that one of its callers leaves', async () => {
    const inference = await testInference();
    const version = versionOf(loopModel());
    await occupy(inference, version);
    const leaving = new AbortController();
    const left = inference.run(request(version, [longs([200_000])], { signal: leaving.signal }));
    const stays = inference.run(request(version, [longs([7])]));
    const shared = { queued: 0, running: 2 };
    await vi.waitFor(async () => expect((await inference.status()).deployments[0]?.replicas).toMatchObject([shared]), { timeout: 20_000 });
    leaving.abort();
    await expect(left).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(numbersOf((await stays).outputs[0])).toEqual([7]);
  });

  test('that ends its runner and was shared by tenants is done again for each alone: who is at fault pays, and nobody else', async () => {
    const inference = await testInference();
    const version = versionOf(loopModel(), { shared: true, runLimitMs: 3_000 });
    const busy = inference.run(request(version, [longs([250_000])], { tenantKey: 'good' }));
    const alone = { replicas: [{ queued: 0, running: 1 }] };
    await vi.waitFor(async () => expect((await inference.status()).deployments).toMatchObject([alone]), { timeout: 20_000, interval: 10 });
    const [hostile, good] = await Promise.allSettled([
      inference.run(request(version, [longs([2 ** 52])], { tenantKey: 'hostile' })),
      inference.run(request(version, [longs([7])], { tenantKey: 'good' })),
    ]);
    await busy;
    expect(hostile).toMatchObject({ status: 'rejected', reason: { name: 'MercatoError', code: 'MODEL_FAILED', kind: 'OVERRUN' } });
    expect(good).toMatchObject({ status: 'fulfilled', value: { rows: 1 } });
  });

  test('that ends its runner after its caller gave up is told all the same, also where other tenants shared it', async () => {
    const inference = await testInference();
    const version = versionOf(loopModel(), { shared: true, runLimitMs: 1_500 });
    await inference.run(request(version, [longs([1])], { tenantKey: 'good' }));
    const [alone, shared] = [Promise.withResolvers<object>(), Promise.withResolvers<object>()];
    const short = { tenantKey: 'hostile', deadlineMs: 300, onKilled: alone.resolve };
    await expect(inference.run(request(version, [longs([2 ** 52])], short))).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    expect(await alone.promise).toMatchObject({ kind: 'OVERRUN' });

    const busy = inference.run(request(version, [longs([150_000])], { tenantKey: 'good' }));
    await vi.waitFor(async () => expect((await inference.status()).deployments).toMatchObject([{ replicas: [{ running: 1 }] }]), {
      timeout: 20_000,
      interval: 10,
    });
    const leaving = new AbortController();
    const hangsUp = { tenantKey: 'hostile', signal: leaving.signal, onKilled: shared.resolve };
    const both = Promise.allSettled([
      inference.run(request(version, [longs([2 ** 52])], hangsUp)),
      inference.run(request(version, [longs([7])], { tenantKey: 'good' })),
    ]);
    const running = async () => (await inference.status()).deployments[0]?.replicas[0]?.running;
    await vi.waitFor(async () => expect(await running()).toBeGreaterThan(1), { timeout: 20_000 });
    leaving.abort();
    const [hostile, good] = await both;
    await busy;
    expect(hostile).toMatchObject({ status: 'rejected', reason: { code: 'CANCELLED' } });
    expect(good).toMatchObject({ status: 'fulfilled', value: { rows: 1 } });
    expect(await shared.promise).toMatchObject({ kind: 'OVERRUN' });
  });

  test("whose caller gives up while the version is unloaded is nobody's fault", async () => {
    const inference = await testInference();
    const version = versionOf(loopModel(), { runLimitMs: 30_000 });
    await inference.run(request(version, [longs([1])]));
    const killed: object[] = [];
    const given = { deadlineMs: 1_000, onKilled: (one: object) => void killed.push(one) };
    const run = inference.run(request(version, [longs([2_500_000])], given)).catch((error: unknown) => error);
    const busy = { replicas: [{ running: 1 }] };
    await vi.waitFor(async () => expect((await inference.status()).deployments).toMatchObject([busy]), { timeout: 20_000 });
    await inference.unload(version.id);
    expect(await run).toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    expect(killed).toEqual([]);
  });
});
