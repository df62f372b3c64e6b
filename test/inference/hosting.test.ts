import { describe, expect, test, vi } from 'vitest';
import { floats, isAlive, longs, request, testInference, versionOf } from './setup.ts';
import { identityModel, loopModel } from './tiny-models.ts';

const row = floats([1, 2], [1, 2]);

describe('hosting', () => {
  test('loads a version once for all callers that come first together', async () => {
    const inference = await testInference();
    const readModel = vi.fn(async () => identityModel());
    const version = versionOf(identityModel(), { readModel });
    await Promise.all(Array.from({ length: 20 }, () => inference.run(request(version, [row]))));
    expect(readModel).toHaveBeenCalledTimes(1);
    expect(inference.status().loaded).toHaveLength(1);
  });

  test('bounds the wait for a load by the deadline, and the load goes on for others', async () => {
    const inference = await testInference();
    const { promise, resolve } = Promise.withResolvers<Uint8Array>();
    const version = versionOf(identityModel(), { readModel: () => promise });
    const patient = inference.run(request(version, [row]));
    const gone = inference.run(request(version, [row], { deadlineMs: 1 }));
    const cancelled = inference.run(request(version, [row], { signal: AbortSignal.abort() }));
    const refused = { status: 'rejected', reason: { code: 'DEADLINE_EXCEEDED' } };
    expect(await Promise.allSettled([gone, cancelled])).toMatchObject([refused, refused]);
    resolve(identityModel());
    expect(await patient).toMatchObject({ rows: 1 });
  });

  test('tries again after a load that failed, and says why it failed', async () => {
    const inference = await testInference();
    const readModel = vi.fn(async () => identityModel()).mockResolvedValueOnce(new Uint8Array([1, 2, 3]));
    const version = versionOf(identityModel(), { readModel });
    await expect(inference.run(request(version, [row]))).rejects.toMatchObject({ code: 'MODEL_FAILED' });
    expect(await inference.run(request(version, [row]))).toMatchObject({ rows: 1 });
  });

  test('ends the idle version that was used the longest ago when it needs its place', async () => {
    const inference = await testInference({ maxLoaded: 2 });
    const use = (id: string) => inference.run(request(versionOf(identityModel(), { id }), [row]));
    for (const id of ['a', 'b', 'a', 'c']) await use(id);
    expect(inference.status().loaded.map(({ versionId }) => versionId)).toEqual(['a', 'c']);
  });

  test('refuses a version when every place is busy, and never ends a busy one', async () => {
    const inference = await testInference({ maxLoaded: 1 });
    const busy = inference.run(request(versionOf(loopModel(), { id: 'busy' }), [longs([200_000])]));
    const refused = inference.run(request(versionOf(identityModel()), [row]));
    await expect(refused).rejects.toMatchObject({ code: 'OVERLOADED', data: { retryAfterMs: expect.any(Number) } });
    expect(await busy).toMatchObject({ rows: 1 });
  });

  test('ends the process of an unloaded version', async () => {
    const inference = await testInference();
    await inference.run(request(versionOf(identityModel()), [row]));
    const [loaded] = inference.status().loaded;
    await inference.unload('version');
    expect(isAlive(loaded?.pid ?? 0)).toBe(false);
    expect(inference.status().loaded).toEqual([]);
    await inference.unload('version');
  });

  test('takes a waiting spare for a load and replaces it', async () => {
    const inference = await testInference({ spares: 1 });
    await vi.waitFor(() => expect(inference.status().spares).toBe(1), { timeout: 20_000 });
    await inference.run(request(versionOf(identityModel()), [row]));
    await vi.waitFor(() => expect(inference.status()).toMatchObject({ loaded: [{ device: 'cpu' }], spares: 1 }), { timeout: 20_000 });
  });
});
