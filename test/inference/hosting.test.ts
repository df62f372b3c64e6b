import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { ERRORS, MercatoError } from '../../src/base/errors.ts';
import { boxed, inRunner } from '../../src/inference/check-runner.ts';
import { connectRunner } from '../../src/inference/connection.ts';
import { loadable } from '../../src/inference/hosts.ts';
import { createInference, estimateApart, type FleetPort, type Inference, ModelKilled, type Tensor } from '../../src/inference/inference.ts';
import { fileOf, floats, isAlive, longs, numbersOf, request, testFleet, testInference, versionOf } from './setup.ts';
import { bombModel, hogModel, identityModel, loopModel } from './tiny-models.ts';

const WAIT = { timeout: 20_000 };

async function loadedIds(inference: Inference): Promise<string[]> {
  return (await inference.status()).deployments.map(({ versionId }) => versionId);
}

const row = floats([1, 2], [1, 2]);

describe('hosting', () => {
  test('loads a version once for all callers that come first together', async () => {
    const inference = await testInference();
    const readModel = vi.fn(async () => identityModel());
    const version = versionOf(identityModel(), { file: fileOf(readModel) });
    await Promise.all(Array.from({ length: 20 }, () => inference.run(request(version, [row]))));
    expect(readModel).toHaveBeenCalledTimes(1);
    expect((await inference.status()).deployments).toHaveLength(1);
  });

  test('bounds the wait for a load by the deadline, and the load goes on for others', async () => {
    const inference = await testInference();
    const { promise, resolve } = Promise.withResolvers<Uint8Array>();
    const version = versionOf(identityModel(), { file: fileOf(() => promise) });
    const patient = inference.run(request(version, [row]));
    const gone = inference.run(request(version, [row], { deadlineMs: 1 }));
    const cancelled = inference.run(request(version, [row], { signal: AbortSignal.abort() }));
    const refused = (code: string) => ({ status: 'rejected', reason: { code } });
    const settled = await Promise.allSettled([gone, cancelled]);
    expect(settled).toMatchObject([refused('DEADLINE_EXCEEDED'), refused('CANCELLED')]);
    resolve(identityModel());
    expect(await patient).toMatchObject({ rows: 1 });
  });

  test('waits for the samples of a version to be answered here, and runs it where they are', async () => {
    const fleet = await testFleet();
    const { promise, resolve } = Promise.withResolvers<Uint8Array>();
    const readModel = vi.fn(() => promise);
    const version = loadable(versionOf(identityModel(), { verifiedOn: [], file: fileOf(readModel) }));
    const waits = async () =>
      expect((await fleet.status()).deployments).toMatchObject([{ versionId: version.id, state: 'LOADING', replicas: [] }]);
    const early = fleet.claim(version, []);
    await vi.waitFor(waits, WAIT);
    await fleet.setDevices(version.id, { passedOver: [], verifiedOn: [{ device: 'webgpu' }] });
    expect(readModel).not.toHaveBeenCalled();
    await fleet.setDevices(version.id, { passedOver: [], verifiedOn: [{ device: 'webgpu' }, { device: 'cpu' }] });
    await vi.waitFor(() => expect(readModel).toHaveBeenCalled(), WAIT);
    // Of a process that has not heard of it yet.
    const unaware = fleet.claim(version, []);
    resolve(identityModel());
    expect(await Promise.all([early, unaware])).toMatchObject([[{ device: 'cpu' }], [{ device: 'cpu' }]]);
    await fleet.unload(version.id);
    await fleet.setDevices(version.id, { passedOver: [], verifiedOn: [] });
    const late = fleet.claim({ ...version, verifiedOn: [{ device: 'cpu' }] }, []).catch((error: unknown) => error);
    await vi.waitFor(waits, WAIT);
    await fleet.unload(version.id);
    expect(await late).toMatchObject({ code: 'OVERLOADED', data: { rule: 'SAMPLES_UNANSWERED', retryAfterMs: 2_000 } });
    await fleet.setDevices(version.id, { passedOver: [{ device: 'cpu' }], verifiedOn: [] });
    await expect(fleet.claim(version, [])).rejects.toMatchObject({ code: 'OVERLOADED' });
    await fleet.setDevices(version.id, { passedOver: [], verifiedOn: [{ device: 'cpu' }] });
    expect(await fleet.claim(version, [])).toMatchObject([{ device: 'cpu' }]);
  });

  test('takes what was seen of a device for true only where the same hardware computes there', async () => {
    const fleet = await testFleet();
    const version = loadable(versionOf(identityModel()));
    const [own, other] = [
      { device: 'cpu', hardware: (await fleet.hardware()).cpu },
      { device: 'cpu', hardware: 'another' },
    ];
    await fleet.setDevices(version.id, { passedOver: [], verifiedOn: [other] });
    await expect(fleet.lend(version, 'webgpu')).rejects.toMatchObject({ code: 'OVERLOADED' });
    await fleet.setDevices(version.id, { passedOver: [other], verifiedOn: [other, own] });
    expect(await fleet.claim(version, [])).toMatchObject([{ device: 'cpu' }]);
    expect((await fleet.status()).memory).toMatchObject([own]);
  });

  test('tries again after a load that failed, and says why it failed', async () => {
    const inference = await testInference();
    const readModel = vi.fn(async () => identityModel()).mockResolvedValueOnce(new Uint8Array([1, 2, 3]));
    const version = versionOf(identityModel(), { file: fileOf(readModel) });
    await expect(inference.run(request(version, [row]))).rejects.toMatchObject({ code: 'MODEL_FAILED', data: { rule: 'LOAD' } });
    expect(await inference.run(request(version, [row]))).toMatchObject({ rows: 1 });
  });

  test('ends the idle version that was used the longest ago when it needs its place', async () => {
    const inference = await testInference({ maxLoaded: 2 });
    const use = (id: string) => inference.run(request(versionOf(identityModel(), { id }), [row]));
    for (const id of ['a', 'b', 'a', 'c']) await use(id);
    expect((await inference.status()).deployments.map(({ versionId }) => versionId)).toEqual(['a', 'c']);
  });

  test('waits for a place where all are busy', async () => {
    const inference = await testInference({ maxLoaded: 1 });
    const busy = inference.run(request(versionOf(loopModel(), { id: 'busy' }), [longs([20_000])]));
    expect(await inference.run(request(versionOf(identityModel()), [row]))).toMatchObject({ rows: 1 });
    expect(await busy).toMatchObject({ rows: 1 });
  });

  test('refuses a version when every place stays busy, and ends no busy one for who would have as much', async () => {
    const inference = await testInference({ maxLoaded: 1 });
    const leaving = new AbortController();
    const endless = request(versionOf(loopModel(), { id: 'busy' }), [longs([2 ** 52])], { signal: leaving.signal });
    const busy = inference.run(endless).catch((error: unknown) => error);
    await vi.waitFor(async () => expect((await inference.status()).deployments[0]?.replicas).toMatchObject([{ running: 1 }]), WAIT);
    const refused = inference.run(request(versionOf(identityModel()), [row]));
    const others = inference.run(request(versionOf(identityModel(), { id: 'others', owner: 'another' }), [row]));
    const refusal = { status: 'rejected', reason: { code: 'OVERLOADED', data: { rule: 'NO_PLACE', retryAfterMs: expect.any(Number) } } };
    expect(await Promise.allSettled([refused, others])).toMatchObject([refusal, refusal]);
    const told = { state: 'FAILED', failure: { code: 'OVERLOADED' }, replicas: [] };
    expect((await inference.status()).deployments).toMatchObject([
      { versionId: 'busy', replicas: [{ running: 1 }] },
      { ...told, versionId: 'version' },
      { ...told, versionId: 'others' },
    ]);
    leaving.abort();
    await busy;
  });

  test('lets no publisher keep others out by runs that take all places: one ends, and its calls come back', {
    timeout: 60_000,
  }, async () => {
    const inference = await testInference({ maxLoaded: 4 });
    const leaving = new AbortController();
    const hold = (id: string) =>
      inference
        .run(request(versionOf(loopModel(), { id, owner: 'hog', joinable: false }), [longs([2 ** 52])], { signal: leaving.signal }))
        .catch((error: unknown) => error);
    const ids = ['a', 'b', 'c', 'd'];
    const held = ids.map(hold);
    const running = async () => {
      const { deployments } = await inference.status();
      return deployments.flatMap(({ versionId, replicas }) => (replicas.some((replica) => replica.running === 1) ? [versionId] : []));
    };
    await vi.waitFor(async () => expect((await running()).toSorted()).toEqual(ids), { timeout: 40_000 });
    const small = versionOf(identityModel(), { id: 'small', owner: 'other' });
    expect(await inference.run(request(small, [row]))).toMatchObject({ rows: 1 });
    const ended = await Promise.race(held);
    expect(ended).toMatchObject({ code: 'OVERLOADED' });
    expect(ended).not.toBeInstanceOf(ModelKilled);
    expect(await running()).toHaveLength(3);
    leaving.abort();
    await Promise.all(held);
  });

  /** A run without end in each of these versions of one publisher, which has begun. */
  const hog = async (fleet: FleetPort, ids: readonly string[], begun = new Set<string>()) => {
    for (const id of ids) {
      const [place] = await fleet.claim(loadable(versionOf(loopModel(), { id, owner: 'hog' })), []);
      if (place === undefined || begun.has(place.path)) continue;
      begun.add(place.path);
      const connection = await connectRunner(place, () => {});
      onTestFinished(() => connection.close());
      const call = { tenantKey: '', priority: 0, rows: 1, outputs: null, alone: true, inputs: [longs([2 ** 52])] };
      connection.call(call, { expiresMs: performance.now() + 60_000, signal: undefined }).catch(() => {});
      await vi.waitFor(async () => expect(await connection.stats()).toMatchObject({ running: 1 }), WAIT);
    }
  };
  const small = loadable(versionOf(identityModel(), { id: 'small', owner: 'other' }));

  test('loads a version again whose busy replicas ended for others', { timeout: 60_000 }, async () => {
    const fleet = await testFleet({ maxLoaded: 2 });
    const begun = new Set<string>();
    for (let taken = 0; taken < 5; taken++) {
      await hog(fleet, ['a', 'b'], begun);
      await fleet.claim(small, []);
      await fleet.unload(small.id);
    }
    await hog(fleet, ['a', 'b'], begun);
    expect(begun.size).toBe(7);
  });

  test('ends a busy version for others that is pinned no more, and none of the minimum of one that is', { timeout: 60_000 }, async () => {
    const fleet = await testFleet({ maxLoaded: 2 });
    for (const id of ['a', 'b']) await fleet.scale(id, { min: 1, max: null });
    await hog(fleet, ['a', 'b']);
    await expect(fleet.claim(small, [])).rejects.toMatchObject({ code: 'OVERLOADED' });
    for (const id of ['a', 'b']) await fleet.scale(id, { min: 0, max: null });
    expect(await fleet.claim(small, [])).toMatchObject([{ device: 'cpu' }]);
  });

  test('never ends a pinned version for another', async () => {
    const inference = await testInference({ maxLoaded: 2 });
    await inference.scale('a', { min: 1, max: null });
    const use = (id: string) => inference.run(request(versionOf(identityModel(), { id }), [row]));
    for (const id of ['a', 'b', 'c']) await use(id);
    expect(await loadedIds(inference)).toEqual(['a', 'c']);
    await inference.scale('a', { min: 0, max: null });
    await use('d');
    expect(await loadedIds(inference)).toEqual(['c', 'd']);
  });

  test('keeps to its memory: what was called the longest ago ends first', async () => {
    const inference = await testInference({ memoryBytesMax: 180 * 1024 ** 2 });
    for (const id of ['a', 'b', 'c', 'd']) {
      await inference.run(request(versionOf(identityModel(), { id }), [row]));
      const [host] = (await inference.status()).memory;
      expect(host?.memoryBytes).toBeLessThanOrEqual(host?.memoryBytesMax ?? 0);
    }
    const ids = await loadedIds(inference);
    expect(ids.length).toBeLessThan(4);
    expect(ids.at(-1)).toBe('d');
  });

  test('keeps room for what is checked: a load waits for it, and it for nobody who is idle', async () => {
    const fleet = await testFleet({ memoryBytesMax: 200 * 1024 ** 2 });
    const inference = createInference(fleet);
    onTestFinished(() => inference[Symbol.asyncDispose]());
    const use = (id: string) => inference.run(request(versionOf(identityModel(), { id }), [row]));
    await use('a');
    const now = process.hrtime.bigint;
    const later = vi.spyOn(process.hrtime, 'bigint').mockImplementation(() => now() + 60_000_000_000n);
    onTestFinished(() => later.mockRestore());
    const loan = await fleet.borrow(60 * 1024 ** 2, 'cpu');
    expect(await loadedIds(inference)).toEqual([]);
    expect((await inference.status()).memory).toMatchObject([{ device: 'cpu', memoryBytes: 184 * 1024 ** 2 }]);
    await expect(use('b')).rejects.toMatchObject({ code: 'OVERLOADED' });
    await fleet.giveBack(loan.id);
    expect(await use('b')).toMatchObject({ rows: 1 });
  });

  test('ends a check that takes more than was promised to it before a version that serves', { timeout: 60_000 }, async () => {
    const fleet = await testFleet({ memoryBytesMax: 2 ** 28 });
    const inference = createInference(fleet);
    onTestFinished(() => inference[Symbol.asyncDispose]());
    const serves = versionOf(identityModel(), { peakMemoryBytes: 1 });
    await inference.run(request(serves, [row]));
    const pidOf = async () => (await inference.status()).deployments[0]?.replicas[0]?.pid;
    const pid = await pidOf();
    const loan = await fleet.borrow(1, 'cpu');
    const lost = Promise.withResolvers<void>();
    const connection = await connectRunner({ path: loan.path, device: 'cpu' }, lost.resolve);
    const load = { device: 'cpu', threads: 1, joinable: false, shared: false, maxBatchRows: 1, fixedRows: null, runLimitMs: 60_000 };
    await connection.loadModel(load, hogModel());
    const call = { tenantKey: '', priority: 0, rows: 1, outputs: null, alone: true, inputs: [floats([1], [7]), longs([2 ** 27], 'k')] };
    let alive = true;
    void lost.promise.then(() => {
      alive = false;
    });
    while (alive && (await pidOf()) === pid)
      await connection.call(call, { expiresMs: performance.now() + 60_000, signal: undefined }).catch(() => {});
    expect(await pidOf()).toBe(pid);
    expect(await inference.run(request(serves, [row]))).toMatchObject({ rows: 1 });
  });

  describe.skipIf(!existsSync('/usr/bin/prlimit'))('a check that was refused memory', { timeout: 60_000 }, () => {
    /** The largest of so many copies of 7, or why there is none. */
    const copying = (fleet: FleetPort) => {
      const options = { ...boxed({ runLimitMs: 60_000, maxBatchRows: 1 }), device: 'cpu' };
      return (copies: number) =>
        inRunner(hogModel(), options, fleet, async (loaded) => {
          const result = await loaded.run([floats([1], [7]), longs([copies], 'k')], 1).catch((error: unknown) => error);
          return result instanceof Error ? result : numbersOf((result as { outputs: Tensor[] }).outputs[0]);
        }).catch((error: unknown) => error);
    };

    test('is done again with more, step by step, and goes on with that', async () => {
      const fleet = await testFleet();
      const borrow = vi.spyOn(fleet, 'borrow');
      const run = copying(fleet);
      expect(await run(5 * 2 ** 27)).toEqual([7]);
      const promised = borrow.mock.calls.map(([, , runBytes]) => runBytes ?? 0);
      expect(promised.length).toBeGreaterThan(1);
      const [first = 0, second = 0] = promised;
      expect([first, second < 2 ** 29]).toEqual([0, true]);
      borrow.mockClear();
      expect(await run(2)).toEqual([7]);
      expect(borrow.mock.calls).toEqual([[expect.any(Number), 'cpu', promised.at(-1)]]);
      expect(await run(2 ** 40)).toMatchObject({ code: 'MODEL_FAILED' });
    });

    test('keeps what it found with less where there is no room for more', async () => {
      const fleet = await testFleet();
      const run = copying(fleet);
      const full = new MercatoError('OVERLOADED');
      const lend = fleet.borrow.bind(fleet);
      const borrow = vi.spyOn(fleet, 'borrow');
      borrow.mockImplementationOnce(lend).mockRejectedValueOnce(full);
      expect(await run(2 ** 40)).toMatchObject({ code: 'MODEL_FAILED' });
      borrow.mockRejectedValueOnce(full);
      expect(await run(2)).toBe(full);
    });

    test('has no more than what stays loaded leaves, and is told by that', async () => {
      const fleet = await testFleet({ memoryBytesMax: 2 ** 30 });
      await fleet.scale('version', { min: 1, max: null });
      await fleet.claim(loadable(versionOf(identityModel(), { peakMemoryBytes: 900 * 2 ** 20 })), []);
      expect(await copying(fleet)(2 ** 40)).toMatchObject({ code: 'MODEL_FAILED' });
    });
  });

  test('tries a model that crashes a check once, and puts off one whose runner was killed from outside', { timeout: 60_000 }, async () => {
    const fleet = await testFleet();
    const borrow = vi.spyOn(fleet, 'borrow');
    const end = (signal: NodeJS.Signals) =>
      inRunner(identityModel(), { ...boxed({ runLimitMs: 60_000, maxBatchRows: 1 }), device: 'cpu' }, fleet, async ({ run }) => {
        process.kill(Number(readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8')), signal);
        await run([row], 1).catch(() => {});
        return 'seen';
      });
    expect(await end('SIGABRT')).toBe('seen');
    expect(borrow).toHaveBeenCalledTimes(1);
    await expect(end('SIGKILL')).rejects.toMatchObject({ code: 'OVERLOADED', data: { rule: 'RUNNER_LOST' } });
    expect(borrow).toHaveBeenCalledTimes(2);
  });

  test('ends a version that nobody calls, and a pinned one not', async () => {
    const inference = await testInference({ keepAliveMs: 1 });
    await inference.scale('pinned', { min: 1, max: null });
    for (const id of ['pinned', 'idle']) await inference.run(request(versionOf(identityModel(), { id }), [row]));
    await vi.waitFor(async () => expect(await loadedIds(inference)).toEqual(['pinned']), WAIT);
  });

  test('fails no call by ending a version, though it is called all the while', async () => {
    const inference = await testInference();
    const version = versionOf(identityModel());
    let stop = false;
    const callers = Array.from({ length: 8 }, async () => {
      let answered = 0;
      for (; !stop; answered++) await inference.run(request(version, [row]));
      return answered;
    });
    for (let i = 0; i < 5; i++) await inference.unload('version');
    stop = true;
    for (const answered of await Promise.all(callers)) expect(answered).toBeGreaterThan(0);
  });

  test('answers what was asked before a version is ended, a run under way too', async () => {
    const inference = await testInference();
    const version = versionOf(loopModel(), { joinable: false });
    const busy = inference.run(request(version, [longs([2_000_000])]));
    const waiting = inference.run(request(version, [longs([7])]));
    await vi.waitFor(async () => expect((await inference.status()).deployments[0]?.replicas).toMatchObject([{ running: 1 }]), WAIT);
    await inference.unload('version');
    expect(numbersOf((await busy).outputs[0])).toEqual([2_000_000]);
    expect(numbersOf((await waiting).outputs[0])).toEqual([7]);
    expect((await inference.status()).deployments).toEqual([]);
  });

  test('starts a second replica when calls wait long, uses both, and ends one when it is calm again', async () => {
    const inference = await testInference({ replicasMax: 2 });
    const version = versionOf(loopModel(), { joinable: false });
    let stop = false;
    const callers = Array.from({ length: 8 }, async () => {
      while (!stop) await inference.run(request(version, [longs([100_000])]));
    });
    const bothRun = async () => expect((await inference.status()).deployments[0]?.replicas).toMatchObject([{ running: 1 }, { running: 1 }]);
    await vi.waitFor(bothRun, WAIT);
    stop = true;
    await Promise.all(callers);
    await vi.waitFor(async () => expect((await inference.status()).deployments[0]?.replicas).toHaveLength(1), { timeout: 30_000 });
  }, 60_000);

  test('keeps a minimum of replicas loaded: from the first load on, when one dies, and through idleness', WAIT, async () => {
    const inference = await testInference({ replicasMax: 3, keepAliveMs: 1 });
    await inference.scale('version', { min: 2, max: null });
    await inference.run(request(versionOf(identityModel()), [row]));
    const pids = async () => (await inference.status()).deployments[0]?.replicas.map(({ pid }) => pid) ?? [];
    await vi.waitFor(async () => expect(await pids()).toHaveLength(2), WAIT);
    const before = await pids();
    for (const pid of before) process.kill(pid, 'SIGKILL');
    const renewed = async () => {
      const now = await pids();
      expect(now).toHaveLength(2);
      for (const pid of before) expect(now).not.toContain(pid);
    };
    await vi.waitFor(renewed, WAIT);
    await inference.scale('version', { min: 1, max: 1 });
    await vi.waitFor(async () => expect(await pids()).toHaveLength(1), WAIT);
    await inference.unload('version');
    expect(await pids()).toEqual([]);
  });

  test('has no more replicas of a version than its maximum and that of the host, however long calls wait', {
    timeout: 60_000,
  }, async () => {
    const inference = await testInference({ replicasMax: 2 });
    await inference.scale('one', { min: 0, max: 1 });
    await inference.scale('two', { min: 9, max: 9 });
    await inference.run(request(versionOf(identityModel(), { id: 'two' }), [row]));
    const crowded = versionOf(loopModel(), { id: 'one', joinable: false });
    const counts = async () => {
      const { deployments } = await inference.status();
      return Object.fromEntries(deployments.map(({ versionId, replicas }) => [versionId, replicas.length]));
    };
    await vi.waitFor(async () => expect(await counts()).toEqual({ two: 2 }), WAIT);
    // Long enough for ticks that would bring another: one run alone takes longer than two of them.
    const calls = Array.from({ length: 6 }, () => inference.run(request(crowded, [longs([600_000])])));
    let most = 0;
    let done = false;
    void Promise.allSettled(calls).then(() => {
      done = true;
    });
    while (!done) most = Math.max(most, (await counts()).one ?? 0);
    await Promise.all(calls);
    expect(most).toBe(1);
    expect(await counts()).toMatchObject({ two: 2 });
  });

  test.skipIf(!existsSync('/usr/bin/prlimit'))('bounds the memory of a version by what it was seen to need', async () => {
    const inference = await testInference();
    const use = (id: string, peakMemoryBytes: number | null) =>
      inference.run(request(versionOf(identityModel(), { id, peakMemoryBytes }), [row]));
    await Promise.all([use('measured', 2 ** 27), use('unknown', null)]);
    const { deployments } = await inference.status();
    const limits = deployments.map(({ versionId, replicas }) => {
      const text = readFileSync(`/proc/${replicas[0]?.pid}/limits`, 'utf8');
      return [versionId, Number(/Max data size +(\d+)/.exec(text)?.[1])] as const;
    });
    const of = new Map(limits);
    expect(of.get('measured')).toBe(2 * 2 ** 30 + 2 ** 27 + 2 ** 30);
    expect(of.get('unknown')).toBeGreaterThan(of.get('measured') ?? 0);
  });

  test('fails a call whose model wants more memory than that, and no other', async () => {
    const inference = await testInference();
    const version = versionOf(bombModel(), { joinable: false, peakMemoryBytes: 2 ** 27 });
    const bomb = inference.run(request(version, [longs([2 ** 34])]));
    await expect(bomb).rejects.toMatchObject({ code: 'MODEL_FAILED' });
    expect((await inference.run(request(version, [longs([3])]))).outputs[0]?.shape).toEqual([3]);
  });

  test('ends a version that took more memory than it was seen to need, where the host has no more', { timeout: 60_000 }, async () => {
    const inference = await testInference({ memoryBytesMax: 2 ** 28 });
    const version = versionOf(hogModel(), { joinable: false, peakMemoryBytes: 2 ** 27 });
    const call = (copies: number) => inference.run(request(version, [floats([1], [7]), longs([copies], 'k')]));
    const pidOf = async () => (await inference.status()).deployments[0]?.replicas[0]?.pid;
    await call(2);
    const first = await pidOf();
    expect(readFileSync(`/proc/${first}/oom_score_adj`, 'utf8').trim()).toBe('900');
    // It holds the memory for as long as a run takes: the fleet has to look meanwhile.
    const again = async () => {
      expect(numbersOf((await call(2 ** 27)).outputs[0])).toEqual([7]);
      expect(await pidOf()).not.toBe(first);
    };
    await vi.waitFor(again, { timeout: 30_000, interval: 1 });
    expect(numbersOf((await call(2)).outputs[0])).toEqual([7]);
  });

  test('tells why what is to stay loaded could not be, until it is', async () => {
    const faults = [new MercatoError('MODEL_FAILED', 'No kernel.'), new Error('/secret is gone')];
    const readModel = async () => {
      const fault = faults.shift();
      if (fault !== undefined) throw fault;
      return identityModel();
    };
    const fleet = await testFleet({ readModel });
    await fleet.scale('version', { min: 1, max: null });
    const claim = () => fleet.claim(loadable(versionOf(identityModel())), []);
    const told = async () => (await fleet.status()).deployments;
    await expect(claim()).rejects.toThrow('No kernel.');
    expect(await told()).toMatchObject([{ state: 'FAILED', failure: { code: 'MODEL_FAILED', message: 'No kernel.' }, replicas: [] }]);
    await expect(claim()).rejects.toThrow('is gone');
    expect(await told()).toMatchObject([{ state: 'FAILED', failure: { code: 'INTERNAL', message: ERRORS.INTERNAL.text } }]);
    await claim();
    expect(await told()).toMatchObject([{ state: 'LOADED', failure: null }]);
  });

  test('tells why nothing is loaded for minutes, until it is or is told to be unloaded', async () => {
    const readModel = async (): Promise<Uint8Array> => {
      throw new MercatoError('MODEL_FAILED', 'No kernel.');
    };
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] });
    const fleet = await testFleet({ readModel });
    onTestFinished(() => void vi.useRealTimers());
    const told = async () => (await fleet.status()).deployments;
    const fail = () => expect(fleet.claim(loadable(versionOf(identityModel())), [])).rejects.toThrow('No kernel.');
    const failed = [{ state: 'FAILED', failure: { message: 'No kernel.' }, replicas: [] }];
    await fail();
    await vi.advanceTimersByTimeAsync(299_000);
    expect(await told()).toMatchObject(failed);
    await vi.advanceTimersByTimeAsync(3_000);
    await vi.waitFor(async () => expect(await told()).toEqual([]));
    await fail();
    expect(await told()).toMatchObject(failed);
    await fleet.unload('version');
    expect(await told()).toEqual([]);
  });

  test('tries a further replica again only after a while where its load failed', { timeout: 60_000 }, async () => {
    let reads = 0;
    const readModel = async () => {
      reads++;
      if (reads === 2) throw new MercatoError('MODEL_FAILED', 'The file is gone for now.');
      return identityModel();
    };
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] });
    const fleet = await testFleet({ replicasMax: 2, readModel });
    // Before the fleet ends, for which time has to pass.
    onTestFinished(() => void vi.useRealTimers());
    await fleet.scale('version', { min: 2, max: null });
    await fleet.claim(loadable(versionOf(identityModel())), []);
    await vi.waitFor(() => expect(reads).toBeGreaterThan(1));
    await vi.advanceTimersByTimeAsync(5_000);
    expect(reads).toBe(2);
    await vi.advanceTimersByTimeAsync(6_000);
    await vi.waitFor(async () => expect((await fleet.status()).deployments[0]?.replicas).toHaveLength(2), { timeout: 20_000 });
    expect(reads).toBe(3);
  });

  test('answers a claim by the further replica that is being loaded, where the only one ends meanwhile', { timeout: 60_000 }, async () => {
    let reads = 0;
    const file = Promise.withResolvers<void>();
    const readModel = async () => {
      if (++reads === 2) await file.promise;
      return identityModel();
    };
    const fleet = await testFleet({ replicasMax: 2, readModel });
    const version = loadable(versionOf(identityModel()));
    await fleet.scale(version.id, { min: 2, max: null });
    const [first] = await fleet.claim(version, []);
    await vi.waitFor(() => expect(reads).toBe(2));
    process.kill((await fleet.status()).deployments[0]?.replicas[0]?.pid ?? 0, 'SIGKILL');
    await vi.waitFor(async () => expect((await fleet.status()).deployments).toMatchObject([{ state: 'LOADING', replicas: [] }]), {
      timeout: 20_000,
    });
    const claims = [fleet.claim(version, []), fleet.claim(version, [])];
    file.resolve();
    const [places, again] = await Promise.all(claims);
    expect(places).toHaveLength(1);
    expect(again).toEqual(places);
    expect(places?.[0]?.path).not.toBe(first?.path);
  });

  test('says that the server shuts down to who asks for a runner then', async () => {
    const fleet = await testFleet();
    await fleet[Symbol.asyncDispose]();
    const refusal = {
      code: 'OVERLOADED',
      message: expect.stringContaining('shutting down'),
      data: { rule: 'SHUTTING_DOWN', retryAfterMs: 1_000 },
    };
    await expect(fleet.claim(loadable(versionOf(identityModel())), [])).rejects.toMatchObject(refusal);
    await expect(fleet.borrow(100, 'cpu')).rejects.toMatchObject(refusal);
  });

  test('tells who asks for an estimate that takes too long why there is none', async () => {
    const timeout = vi.spyOn(AbortSignal, 'timeout').mockReturnValue(AbortSignal.abort());
    onTestFinished(() => timeout.mockRestore());
    const reason = expect.stringContaining('more than 10 s, or 512 MiB');
    const nothing = { flops: null, activationBytes: null, weightBytes: null, reason };
    expect(await estimateApart(identityModel(), new Map())).toEqual(nothing);
    timeout.mockRestore();
    expect(await estimateApart(identityModel(), new Map([['x', [1, 2]]]))).toMatchObject({ activationBytes: 16 });
  });

  test('ends the process of an unloaded version', async () => {
    const inference = await testInference();
    await inference.run(request(versionOf(identityModel()), [row]));
    const [loaded] = (await inference.status()).deployments;
    await inference.unload('version');
    expect(isAlive(loaded?.replicas[0]?.pid ?? 0)).toBe(false);
    expect((await inference.status()).deployments).toEqual([]);
    await inference.unload('version');
  });

  test('takes a waiting spare for a load and replaces it', async () => {
    const inference = await testInference({ spares: 1 });
    await vi.waitFor(() => inference.status().then(({ spares }) => expect(spares).toBe(1)), { timeout: 20_000 });
    await inference.run(request(versionOf(identityModel()), [row]));
    await vi.waitFor(
      () =>
        inference.status().then((status) => expect(status).toMatchObject({ deployments: [{ replicas: [{ device: 'cpu' }] }], spares: 1 })),
      { timeout: 20_000 },
    );
  });
});
