import { spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { loadable } from '../../src/inference/hosts.ts';
import { createInference, type FleetPort, type Inference, serveFleet } from '../../src/inference/inference.ts';
import { createRunFolder } from '../../src/inference/run-folder.ts';
import { Trials } from '../../src/inference/trials.ts';
import { isAlive, longs, numbersOf, request, testFleet, testInference, versionOf } from './setup.ts';
import { identityModel, loopModel } from './tiny-models.ts';

const ENDLESS = 2 ** 52;
const WAIT = { timeout: 20_000 };

/** The pid of the version's runner, once it has begun every call that it got, so many. */
async function busyRunner(inference: Inference, running = 1): Promise<number> {
  return await vi.waitFor(async () => {
    const replica = (await inference.status()).deployments[0]?.replicas[0];
    expect(replica).toMatchObject({ queued: 0, running });
    return replica?.pid ?? 0;
  }, WAIT);
}

describe('a runner', () => {
  test('is killed by the run limit of its version, and only the calls in that run pay for it', async () => {
    const inference = await testInference();
    const version = versionOf(loopModel(), { runLimitMs: 60_000, measuredLimit: { device: 'cpu', runLimitMs: 1_000 } });
    const endless = inference.run(request(version, [longs([ENDLESS])])).catch((error: unknown) => error);
    const pid = await busyRunner(inference);
    const waiting = [1, 2, 3].map((value) => inference.run(request(version, [longs([value])])));
    expect(await endless).toMatchObject({ code: 'MODEL_FAILED', message: 'The model exceeded its run limit of 1000 ms.' });
    expect((await Promise.all(waiting)).map(({ outputs }) => numbersOf(outputs[0]))).toEqual([[1], [2], [3]]);
    await vi.waitFor(() => expect(isAlive(pid)).toBe(false), WAIT);
  });

  test('that crashes costs only the calls in the run', async () => {
    const inference = await testInference();
    const version = versionOf(loopModel());
    const running = inference.run(request(version, [longs([ENDLESS])])).catch((error: unknown) => error);
    const pid = await busyRunner(inference);
    const waiting = [1, 2, 3].map((value) => inference.run(request(version, [longs([value])])));
    process.kill(pid, 'SIGABRT');
    expect(await running).toMatchObject({ code: 'MODEL_FAILED', data: { rule: 'CRASH' } });
    expect((await Promise.all(waiting)).map(({ outputs }) => numbersOf(outputs[0]))).toEqual([[1], [2], [3]]);
    expect((await inference.status()).deployments[0]?.replicas[0]?.pid).not.toBe(pid);
  });

  test('that is killed from outside fails no call: others answer, alone those that shared a run', async () => {
    const inference = await testInference();
    const version = versionOf(loopModel(), { shared: true });
    await inference.run(request(version, [longs([0])]));
    const killed: object[] = [];
    const call = (tenantKey: string, turns: number) =>
      inference.run(request(version, [longs([turns])], { tenantKey, onKilled: (one) => void killed.push(one) }));
    const first = call('a', 1_000_000);
    await busyRunner(inference);
    const shared = [call('b', 1_000_000), call('c', 7)];
    expect(numbersOf((await first).outputs[0])).toEqual([1_000_000]);
    const pid = await busyRunner(inference, 2);
    process.kill(pid, 'SIGKILL');
    const answers = await Promise.all(shared);
    expect(answers.map(({ outputs, batchRows }) => [...numbersOf(outputs[0]), batchRows])).toEqual([
      [1_000_000, 1],
      [7, 1],
    ]);
    expect(killed).toEqual([]);
  });

  test('that is killed from outside strikes nobody who gave up before', async () => {
    const inference = await testInference();
    const version = versionOf(loopModel());
    const killed: object[] = [];
    const leaving = new AbortController();
    const given = { signal: leaving.signal, onKilled: (one: object) => void killed.push(one) };
    const left = inference.run(request(version, [longs([ENDLESS])], given)).catch((error: unknown) => error);
    const pid = await busyRunner(inference);
    leaving.abort();
    expect(await left).toMatchObject({ code: 'CANCELLED' });
    process.kill(pid, 'SIGKILL');
    await vi.waitFor(async () => expect((await inference.status()).deployments).toEqual([]), WAIT);
    expect(numbersOf((await inference.run(request(version, [longs([3])]))).outputs[0])).toEqual([3]);
    expect(killed).toEqual([]);
  });

  test('that is killed again and again takes a call along twice, and its version is not loaded for a while', {
    timeout: 60_000,
  }, async () => {
    const inference = await testInference();
    const version = versionOf(loopModel());
    const call = () => inference.run(request(version, [longs([ENDLESS])])).catch((error: unknown) => error);
    const lost = { code: 'OVERLOADED', data: { rule: 'RUNNER_LOST', retryAfterMs: expect.any(Number) } };
    const pids: number[] = [];
    const kill = async () => {
      const pid = await vi.waitFor(async () => {
        const next = await busyRunner(inference);
        expect(pids).not.toContain(next);
        return next;
      }, WAIT);
      pids.push(pid);
      process.kill(pid, 'SIGKILL');
    };
    const first = call();
    await kill();
    await kill();
    expect(await first).toMatchObject(lost);
    const second = call();
    await kill();
    expect(await second).toMatchObject({ ...lost, message: expect.stringContaining('again and again') });
    expect(await call()).toMatchObject(lost);
  });

  test('goes on after the deadline of its only caller, and serves the next one', async () => {
    const inference = await testInference();
    const version = versionOf(loopModel());
    await inference.run(request(version, [longs([0])]));
    const before = (await inference.status()).deployments[0]?.replicas[0];
    const late = inference.run(request(version, [longs([300_000])], { deadlineMs: 50 }));
    await expect(late).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    expect(numbersOf((await inference.run(request(version, [longs([4])]))).outputs[0])).toEqual([4]);
    expect((await inference.status()).deployments[0]?.replicas[0]?.pid).toBe(before?.pid);
  });

  test('that is a spare and dies is never handed out', async () => {
    const inference = await testInference({ spares: 1 });
    await vi.waitFor(() => inference.status().then(({ spares }) => expect(spares).toBe(1)), WAIT);
    const version = versionOf(identityModel('INT64', ['N']));
    const [spare] = await runnersOf(process.pid);
    process.kill(spare ?? 0, 'SIGKILL');
    await vi.waitFor(() => inference.status().then(({ spares }) => expect(spares).toBe(0)), WAIT);
    expect(numbersOf((await inference.run(request(version, [longs([1])]))).outputs[0])).toEqual([1]);
  });

  test('leaves no socket, whatever killed it', async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'mercato-test-'));
    const fleet = await testFleet({ dataDir });
    const inference = createInference(fleet);
    onTestFinished(() => inference[Symbol.asyncDispose]());
    const sockets = async () => (await readdir(join(dataDir, 'run'), { recursive: true })).filter((name) => name.endsWith('.sock'));
    const endless = { inputs: [longs([ENDLESS])], outputs: null, rows: 1, alone: true, tenantKey: 'tenant', priority: 0 };

    const late = versionOf(loopModel(), { id: 'late', runLimitMs: 1_000 });
    await expect(inference.run(request(late, endless.inputs))).rejects.toMatchObject({ code: 'MODEL_FAILED' });
    await vi.waitFor(async () => expect(await sockets()).toEqual([]), WAIT);

    const crashed = versionOf(loopModel(), { id: 'crashed' });
    const running = inference.run(request(crashed, endless.inputs)).catch((error: unknown) => error);
    const pid = await busyRunner(inference);
    expect(await sockets()).toHaveLength(1);
    process.kill(pid, 'SIGABRT');
    expect(await running).toMatchObject({ code: 'MODEL_FAILED', data: { rule: 'CRASH' } });
    await vi.waitFor(async () => expect(await sockets()).toEqual([]), WAIT);

    await inference.inspect(identityModel(), { runLimitMs: 5_000, maxBatchRows: 1 });
    expect(await sockets()).toEqual([]);
    const trials = new Trials(fleet);
    expect(await trials.run(loadable(late), { ...endless, inputs: [longs([1])] }, 'webgpu', null)).toMatchObject({ device: 'cpu' });
    expect(await trials.run(loadable(late), endless, 'webgpu', { kind: 'CRASH', runner: 'one' })).toBe('fails');
    expect(await sockets()).toEqual([]);
  });

  test('ends when its supervisor is killed, and the next one clears what it left', async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'mercato-test-'));
    onTestFinished(() => rm(dataDir, { recursive: true, force: true }));
    const server = spawn(process.execPath, [fileURLToPath(new URL('./doomed-server.ts', import.meta.url)), dataDir]);
    const pids = await new Promise<number[]>((resolve, reject) => {
      server.stdout.once('data', (text) => resolve(JSON.parse(String(text))));
      server.once('exit', () => reject(new Error('the server did not start')));
    });
    expect(pids.map(isAlive)).toEqual([true]);
    const gone = once(server, 'exit');
    server.kill('SIGKILL');
    await gone;
    await vi.waitFor(() => expect(pids.map(isAlive)).toEqual([false]), WAIT);
    expect(await readdir(join(dataDir, 'run'))).toHaveLength(1);
    const fleet = await testFleet({ dataDir });
    expect(await readdir(join(dataDir, 'run'))).toHaveLength(1);
    await fleet[Symbol.asyncDispose]();
    expect(await readdir(join(dataDir, 'run'))).toEqual([]);
  });

  test('leaves nothing in the folder for everybody either, where the path of the data is too long for sockets', async () => {
    const base = await mkdtemp(join(tmpdir(), 'm-'));
    onTestFinished(() => rm(base, { recursive: true, force: true }));
    vi.stubEnv('TMPDIR', base);
    onTestFinished(() => void vi.unstubAllEnvs());
    const dead = 2 ** 22 + 1;
    const others = [`mercato-${process.pid}-abcdef`, `mercato-${dead}-abc`, `mercato-test-abcdef`, `${dead}-abcdef`];
    for (const name of [`mercato-${dead}-abcdef`, ...others]) await mkdir(join(base, name));
    await symlink(base, join(base, `mercato-${dead}-ghijkl`));
    const folder = createRunFolder(join(base, 'long'.repeat(20)));
    const own = folder.nextSocket().split('/').at(-2);
    expect((await readdir(base)).toSorted()).toEqual([...others, `mercato-${dead}-ghijkl`, own].toSorted());
    await folder.remove();
  });

  test('that was told to end is ended where a server process never leaves it', async () => {
    const fleet = await testFleet();
    const [place] = await fleet.claim(loadable(versionOf(identityModel())), []);
    const stays = connect(place?.path ?? '');
    onTestFinished(() => void stays.destroy());
    await once(stays, 'connect');
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    onTestFinished(() => void vi.useRealTimers());
    const unloaded = fleet.unload('version').then(() => 'ended');
    // The runner has been told: it takes nobody any more.
    await once(stays, 'data');
    await vi.advanceTimersByTimeAsync(119_000);
    expect((await fleet.status()).deployments).toMatchObject([{ replicas: [{ running: 0 }] }]);
    await vi.advanceTimersByTimeAsync(2_000);
    expect(await unloaded).toBe('ended');
  });

  test('that serves is told to no server process that has ended', async () => {
    const fleet = await testFleet();
    const child = Object.assign(new EventEmitter(), { send: vi.fn(() => true) });
    const [heard, stopped] = [vi.fn(), vi.fn()];
    const onPlace: FleetPort['onPlace'] = (listener) => {
      const stop = fleet.onPlace(listener);
      return () => {
        stopped();
        stop();
      };
    };
    serveFleet({ ...fleet, onPlace } as FleetPort, child);
    const stop = fleet.onPlace(heard);
    await fleet.claim(loadable(versionOf(identityModel(), { id: 'first' })), []);
    expect([heard, child.send].map((listener) => listener.mock.calls.length)).toEqual([1, 1]);
    stop();
    child.emit('exit');
    expect(stopped).toHaveBeenCalledOnce();
    await fleet.claim(loadable(versionOf(identityModel(), { id: 'second' })), []);
    expect([heard, child.send].map((listener) => listener.mock.calls.length)).toEqual([1, 1]);
  });
});

/** Ids of the processes that this one started. */
async function runnersOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return text.trim().split(' ').filter(Boolean).map(Number);
}
