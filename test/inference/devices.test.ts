import { existsSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { runRequest } from '../../src/inference/calls.ts';
import { type DeviceEnvironment, usableDevices } from '../../src/inference/devices.ts';
import { Hosts, loadable } from '../../src/inference/hosts.ts';
import { createInference, type FleetPort, ModelKilled } from '../../src/inference/inference.ts';
import { node, tensor } from '../../src/inference/onnx/onnx.ts';
import type { Runner } from '../../src/inference/runner-process.ts';
import { Trials } from '../../src/inference/trials.ts';
import { hasVulkan, vulkan } from '../support/vulkan.ts';
import { floats, isAlive, longs, numbersOf, request, testFleet, testInference, versionOf } from './setup.ts';
import { hogModel, identityModel, loopModel, poolModel, tinyModel } from './tiny-models.ts';

const hasCuda = existsSync('/dev') && readdirSync('/dev').some((name) => /^nvidia\d+$/.test(name));

const unless = (there: boolean, what: string) => (there ? '' : ` (not run: no ${what})`);

const MIB = 1024 ** 2;
const row = floats([1, 2], [1, 2]);
const LIMIT = { timeout: 90_000 };

const pick = (env: NodeJS.ProcessEnv, names: readonly string[]) =>
  Object.fromEntries(names.flatMap((name) => (env[name] === undefined ? [] : [[name, env[name]]])));

/** A convolution and a dense layer, as a small network has them. */
function network(): Uint8Array {
  const weights = Float32Array.from({ length: 2 * 1 * 3 * 3 }, (_, i) => Math.sin(i));
  const dense = Float32Array.from({ length: 72 * 3 }, (_, i) => Math.cos(i) / 10);
  return tinyModel(
    [['x', 'FP32', ['N', 1, 8, 8]]],
    [['y', 'FP32', ['N', 3]]],
    [
      node('Conv', ['x', 'w'], ['c'], { kernel_shape: [3, 3] }),
      node('Relu', ['c'], ['r']),
      node('Flatten', ['r'], ['f'], { axis: 1 }),
      node('MatMul', ['f', 'd'], ['m']),
      node('Softmax', ['m'], ['y'], { axis: 1 }),
    ],
    [tensor('w', 'FP32', [2, 1, 3, 3], weights), tensor('d', 'FP32', [72, 3], dense)],
  );
}

describe('the chain of devices', () => {
  test('is the CPU where nothing else is there, and a prediction says so', async () => {
    const inference = await testInference({ devices: 'cpu' });
    expect(await inference.run(request(versionOf(identityModel()), [row]))).toMatchObject({ device: 'cpu' });
    expect((await inference.status()).deployments[0]?.replicas).toMatchObject([{ device: 'cpu', partlyOnCpu: false }]);
  });

  test('counts CUDA devices as CUDA does, of those that there are, and warns of what does not work', async () => {
    const dev = await mkdtemp(join(tmpdir(), 'mercato-dev-'));
    onTestFinished(() => rm(dev, { recursive: true, force: true }));
    await mkdir(join(dev, 'dri'));
    for (const file of ['nvidia3', 'nvidia5', 'nvidiactl', 'nvidia-uvm', 'dri/renderD128']) await writeFile(join(dev, file), '');
    const refuses = { connection: { loadModel: () => Promise.reject(new Error('no driver')) }, kill() {} } as unknown as Runner;
    const tell = async (env: DeviceEnvironment) => {
      const told: Record<string, unknown>[] = [];
      const log = pino({}, { write: (line) => told.push(JSON.parse(line)) });
      expect(await usableDevices('auto', env, async () => refuses, log, dev)).toEqual(['cpu']);
      return told;
    };
    const fault = { level: 40, fault: 'no driver' };
    expect(await tell({})).toMatchObject(['cuda:0', 'cuda:1', 'webgpu'].map((device) => ({ device, ...fault })));
    expect(await tell({ CUDA_VISIBLE_DEVICES: '5' })).toMatchObject(['cuda:0', 'webgpu'].map((device) => ({ device, ...fault })));
  });

  test.skipIf(hasCuda)('goes on to the next device where one does not work, and to the CPU where none does', LIMIT, async () => {
    for (const devices of ['cuda:0,cpu', 'cuda:0']) {
      const inference = await testInference({ devices });
      expect(await inference.run(request(versionOf(identityModel()), [row]))).toMatchObject({ device: 'cpu' });
      expect((await inference.inspect(identityModel(), { runLimitMs: 5_000, maxBatchRows: 1 })).profile.device).toBe('cpu');
    }
  });

  test.skipIf(!hasVulkan)(`runs tiny models and a convolution on WebGPU as on the CPU${unless(hasVulkan, 'Vulkan')}`, LIMIT, async () => {
    const fleet = await testFleet({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
    const gpu = createInference(fleet);
    const cpu = await testInference();
    const pictures = floats(
      [2, 1, 8, 8],
      Array.from({ length: 128 }, (_, i) => Math.sin(i / 3)),
    );
    for (const [id, version, input] of [
      ['identity', versionOf(identityModel()), row],
      ['network', versionOf(network()), pictures],
    ] as const) {
      const [there, here] = await Promise.all([gpu, cpu].map((inference) => inference.run(request({ ...version, id }, [input]))));
      expect(there).toMatchObject({ device: 'webgpu' });
      expect(here).toMatchObject({ device: 'cpu' });
      const [got, wanted] = [numbersOf(there?.outputs[0]), numbersOf(here?.outputs[0])];
      expect(got.length).toBe(wanted.length);
      for (const [index, value] of got.entries()) expect(value).toBeCloseTo(wanted[index] ?? Number.NaN, 3);
    }
    expect((await gpu.inspect(network(), { runLimitMs: 20_000, maxBatchRows: 2 })).profile.device).toBe('webgpu');
    await gpu[Symbol.asyncDispose]();
  });

  test.skipIf(!hasVulkan)(`tells where operators of a model have to run on the CPU${unless(hasVulkan, 'Vulkan')}`, LIMIT, async () => {
    const gpu = await testInference({ devices: 'webgpu', deviceEnvironment: vulkan });
    const whole = versionOf(network(), { id: 'whole' });
    const strings = identityModel('BYTES', ['N']);
    const partly = versionOf(strings, { id: 'partly' });
    await gpu.load(whole);
    await gpu.load(partly);
    const replicas = (await gpu.status()).deployments.map(({ versionId, replicas: [replica] }) => [versionId, replica]);
    expect(Object.fromEntries(replicas)).toMatchObject({
      whole: { device: 'webgpu', partlyOnCpu: false },
      partly: { device: 'webgpu', partlyOnCpu: true },
    });
    const { profile } = await gpu.inspect(strings, { runLimitMs: 20_000, maxBatchRows: 1 });
    expect(profile).toMatchObject({ device: 'webgpu', partlyOnCpu: true });
  });

  const unlessVulkan = unless(hasVulkan, 'Vulkan');
  test.skipIf(!hasVulkan)(`checks a model on the next device where one takes it but does not run it${unlessVulkan}`, LIMIT, async () => {
    const inference = await testInference({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
    const gate = { runLimitMs: 20_000, maxBatchRows: 2 };
    const { profile } = await inference.inspect(poolModel(), gate);
    expect(profile).toMatchObject({ device: 'cpu', partlyOnCpu: false, devices: ['webgpu', 'cpu'] });
    expect(profile.fallbacks).toMatchObject([{ device: 'webgpu', fault: expect.stringContaining('Indices') }]);
    expect(profile.latencies.map(({ rows }) => rows)).toEqual([1, 2]);
    const ill = versionOf(poolModel(), { id: 'ill', passedOver: [{ device: 'webgpu' }] });
    const well = versionOf(network(), { id: 'well' });
    await Promise.all([ill, well].map((version) => inference.load(version)));
    const { deployments } = await inference.status();
    const devices = deployments.map(({ versionId, replicas: [replica] }) => [versionId, replica?.device]);
    expect(Object.fromEntries(devices)).toEqual({ ill: 'cpu', well: 'webgpu' });
  });

  test.skipIf(!hasVulkan)(`keeps a model that no device is sure of on the first${unlessVulkan}`, LIMIT, async () => {
    const inference = await testInference({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
    const never = tinyModel([['x', 'FP32', ['N', 2]]], [['y', 'FP32', ['N', 2]]], [node('MatMul', ['x', 'x'], ['y'])]);
    const { profile } = await inference.inspect(never, { runLimitMs: 20_000, maxBatchRows: 1 });
    expect(profile).toMatchObject({ device: 'webgpu', fallbacks: [], latencies: [] });
  });

  test.skipIf(!hasVulkan)(
    `lets a version leave a device where runs of two tenants fail that the next answers${unlessVulkan}`,
    LIMIT,
    async () => {
      const warnings: Record<string, unknown>[] = [];
      const log = pino({ level: 'warn' }, { write: (line) => warnings.push(JSON.parse(line)) });
      const inference = await testInference({ devices: 'webgpu,cpu', deviceEnvironment: vulkan }, log);
      const version = versionOf(poolModel());
      const pair = floats([1, 1, 2], [1, 2]);
      await inference.load(version);
      for (const tenantKey of ['tenant', 'another']) {
        expect((await inference.status()).deployments[0]?.replicas).toMatchObject([{ device: 'webgpu' }]);
        const results = await Promise.all(Array.from({ length: 4 }, () => inference.run(request(version, [pair], { tenantKey }))));
        for (const { device, outputs } of results) expect([device, numbersOf(outputs[0])]).toEqual(['cpu', [2]]);
      }
      expect(await inference.run(request(version, [pair]))).toMatchObject({ device: 'cpu' });
      expect((await inference.status()).deployments[0]?.replicas).toMatchObject([{ device: 'cpu' }]);
      expect(warnings.filter(({ versionId }) => versionId === version.id)).toMatchObject([{ level: 40, device: 'webgpu' }]);
    },
  );

  test.skipIf(!hasVulkan)(`keeps a version where an input fails that no device answers${unlessVulkan}`, LIMIT, async () => {
    const inference = await testInference({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
    const shapes = [['a', 'FP32', ['N', 'K']] as const, ['b', 'FP32', ['K', 'M']] as const];
    const version = versionOf(tinyModel(shapes, [['y', 'FP32', ['N', 'M']]], [node('MatMul', ['a', 'b'], ['y'])]), { joinable: false });
    const run = (inner: number) =>
      inference.run(request(version, [floats([1, 2], [1, 2], 'a'), floats([inner, 1], new Array(inner).fill(1), 'b')]));
    await expect(run(3)).rejects.toMatchObject({ code: 'MODEL_FAILED', message: expect.stringContaining('dimension mismatch') });
    expect(await run(2)).toMatchObject({ device: 'webgpu' });
    expect((await inference.status()).deployments[0]?.replicas).toMatchObject([{ device: 'webgpu' }]);
  });

  test.skipIf(!hasVulkan)(`asks the next device before a crash counts as the model's${unlessVulkan}`, LIMIT, async () => {
    const inference = await testInference({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
    const version = versionOf(loopModel());
    const killed: object[] = [];
    const run = inference.run(request(version, [longs([1_000_000])], { onKilled: (one) => void killed.push(one) }));
    const running = async () => {
      const [replica] = (await inference.status()).deployments[0]?.replicas ?? [];
      expect(replica).toMatchObject({ device: 'webgpu', running: 1 });
      return replica?.pid ?? 0;
    };
    process.kill(await vi.waitFor(running, { timeout: 60_000 }), 'SIGABRT');
    expect(await run).toMatchObject({ device: 'cpu', rows: 1 });
    expect(killed).toEqual([]);
  });

  /** Squares a matrix: some milliseconds of a CPU, seconds of a software GPU. */
  const squares = (size: number) =>
    tinyModel([['x', 'FP32', [size, size]]], [['y', 'FP32', [size, size]]], [node('MatMul', ['x', 'x'], ['y'])]);
  const matrix = (size: number) => floats([size, size], new Array(size * size).fill(1));

  test.skipIf(!hasVulkan)(`asks the next device before a run past its limit counts as the model's${unlessVulkan}`, LIMIT, async () => {
    const inference = await testInference({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
    const version = versionOf(squares(1024), { joinable: false, runLimitMs: 1_500 });
    const killed: object[] = [];
    const result = await inference.run(request(version, [matrix(1024)], { onKilled: (one) => void killed.push(one) }));
    expect(result).toMatchObject({ device: 'cpu' });
    expect(numbersOf(result.outputs[0])[0]).toBe(1024);
    expect(killed).toEqual([]);
    // Of a second runner: it leaves the device.
    expect(await inference.run(request(version, [matrix(1024)]))).toMatchObject({ device: 'cpu' });
    expect(await inference.run(request(version, [matrix(1024)]))).toMatchObject({ device: 'cpu' });
    expect((await inference.status()).deployments[0]?.replicas).toMatchObject([{ device: 'cpu' }]);
  });

  test.skipIf(!hasVulkan)(
    `is struck for a run past its limit that there is no room to try, not for one that was not run${unlessVulkan}`,
    LIMIT,
    async () => {
      const fleet = await testFleet({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
      const hosts = new Hosts(fleet);
      onTestFinished(() => hosts.close());
      const overrun = async (verdict: 'unasked' | 'unknown'): Promise<unknown> => {
        const version = versionOf(loopModel(), { id: verdict, runLimitMs: 300 });
        const trials = Object.assign(new Trials(fleet), { run: async () => verdict });
        return runRequest({ hosts, trials, fleet }, request(version, [longs([2 ** 52])])).catch((error: unknown) => error);
      };
      expect(await overrun('unasked')).toBeInstanceOf(ModelKilled);
      const untold = await overrun('unknown');
      expect(untold).toMatchObject({ code: 'MODEL_FAILED' });
      expect(untold).not.toBeInstanceOf(ModelKilled);
    },
  );

  test.skipIf(!hasVulkan)(`is struck once for a run past its limit that nobody waits for any more${unlessVulkan}`, LIMIT, async () => {
    const inference = await testInference({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
    const version = versionOf(loopModel(), { joinable: false, runLimitMs: 400 });
    await inference.load(version);
    const killed: object[] = [];
    const run = inference.run(request(version, [longs([2 ** 52])], { deadlineMs: 100, onKilled: (one) => void killed.push(one) }));
    await expect(run).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    await vi.waitFor(() => expect(killed).toMatchObject([{ kind: 'OVERRUN' }]), { timeout: 60_000 });
    expect((await inference.status()).deployments).toEqual([]);
  });

  test.skipIf(!hasVulkan)(`is struck for a run past its limit where the next device overruns too${unlessVulkan}`, LIMIT, async () => {
    const inference = await testInference({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
    const version = versionOf(loopModel(), { joinable: false, runLimitMs: 300 });
    const run = inference.run(request(version, [longs([2 ** 52])])).catch((error: unknown) => error);
    expect(await run).toMatchObject({ kind: 'OVERRUN', code: 'MODEL_FAILED' });
  });

  test.skipIf(!hasVulkan)(`is struck for a crash only where the next device crashes too${unlessVulkan}`, LIMIT, async () => {
    const fleet = await testFleet({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
    const hosts = new Hosts(fleet);
    onTestFinished(() => hosts.close());
    const crash = async (verdict: 'fails' | 'unknown'): Promise<unknown> => {
      const version = versionOf(loopModel(), { id: verdict });
      const trials = Object.assign(new Trials(fleet), { run: async () => verdict });
      const run = runRequest({ hosts, trials, fleet }, request(version, [longs([2 ** 52])])).catch((error: unknown) => error);
      const running = async () => {
        const [replica] = (await fleet.status()).deployments.find(({ versionId }) => versionId === verdict)?.replicas ?? [];
        expect(replica).toMatchObject({ device: 'webgpu', running: 1 });
        return replica?.pid ?? 0;
      };
      process.kill(await vi.waitFor(running, { timeout: 60_000 }), 'SIGABRT');
      return run;
    };
    expect(await crash('fails')).toBeInstanceOf(ModelKilled);
    const untold = await crash('unknown');
    expect(untold).toMatchObject({ code: 'MODEL_FAILED' });
    expect(untold).not.toBeInstanceOf(ModelKilled);
  });

  test.skipIf(!hasVulkan)(`has a budget of memory for each device${unlessVulkan}`, LIMIT, async () => {
    const inference = await testInference({ devices: 'webgpu,cpu', deviceEnvironment: vulkan, deviceMemoryBytesMax: 80 * MIB });
    const use = (id: string, passedOver: { device: string }[] = []) =>
      inference.run(
        request(versionOf(network(), { id, passedOver, peakMemoryBytes: 110 * MIB }), [floats([1, 1, 8, 8], new Array(64).fill(1))]),
      );
    await use('host', [{ device: 'webgpu' }]);
    await use('first');
    await use('second');
    const { deployments, memory } = await inference.status();
    expect(deployments.map(({ versionId }) => versionId)).toEqual(['host', 'second']);
    expect(memory).toMatchObject([
      { device: 'webgpu', memoryBytes: 46 * MIB, memoryBytesMax: 80 * MIB },
      { device: 'cpu', memoryBytesMax: 2 ** 34 },
    ]);
    await use('host', [{ device: 'webgpu' }]);
    expect((await inference.status()).deployments).toHaveLength(2);
  });

  test.skipIf(!hasVulkan)(`takes the next device where the first is full of what has to stay${unlessVulkan}`, LIMIT, async () => {
    const inference = await testInference({ devices: 'webgpu,cpu', deviceEnvironment: vulkan, deviceMemoryBytesMax: 80 * MIB });
    await inference.scale('first', { min: 1, max: null });
    for (const id of ['first', 'second']) await inference.load(versionOf(network(), { id, peakMemoryBytes: 110 * MIB }));
    expect((await inference.status()).deployments).toMatchObject([
      { versionId: 'first', replicas: [{ device: 'webgpu' }] },
      { versionId: 'second', replicas: [{ device: 'cpu' }] },
    ]);
  });

  test.skipIf(!hasVulkan)(`counts what is checked on its device${unlessVulkan}`, LIMIT, async () => {
    const fleet = await testFleet({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
    const loan = await fleet.borrow(50 * MIB, 'webgpu');
    expect((await fleet.status()).memory).toMatchObject([{ device: 'webgpu', memoryBytes: 100 * MIB }, { device: 'cpu' }]);
    await fleet.giveBack(loan.id);
  });

  const devicesOf = async (fleet: FleetPort) => (await fleet.status()).deployments[0]?.replicas.map(({ device }) => device);

  test.skipIf(!hasVulkan)(`leaves a device with a replica too that was being loaded there${unlessVulkan}`, LIMIT, async () => {
    const fleet = await testFleet({ devices: 'webgpu,cpu', deviceEnvironment: vulkan, replicasMax: 2 });
    const version = loadable(versionOf(network()));
    await fleet.scale(version.id, { min: 2, max: null });
    expect(await fleet.claim(version, [])).toMatchObject([{ device: 'webgpu' }]);
    await fleet.fallBack(version.id, 'webgpu', null);
    await vi.waitFor(async () => expect(await devicesOf(fleet)).toEqual(['cpu', 'cpu']), { timeout: 60_000 });
    expect(await fleet.claim(version, [])).toMatchObject([{ device: 'cpu' }, { device: 'cpu' }]);
  });

  test.skipIf(!hasVulkan)(`keeps a pinned version loaded that is passed over by a device, on the next${unlessVulkan}`, LIMIT, async () => {
    const fleet = await testFleet({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
    const version = loadable(versionOf(network()));
    await fleet.scale(version.id, { min: 1, max: null });
    await fleet.claim(version, []);
    expect(await devicesOf(fleet)).toEqual(['webgpu']);
    await fleet.setDevices(version.id, { passedOver: [{ device: 'webgpu' }], verifiedOn: null });
    await vi.waitFor(async () => expect(await devicesOf(fleet)).toEqual(['cpu']), { timeout: 60_000 });
  });

  test.skipIf(!hasVulkan)(
    `asks each of them a version's samples, and runs it only where they are answered${unlessVulkan}`,
    LIMIT,
    async () => {
      const inference = await testInference({ devices: 'cpu,webgpu', deviceEnvironment: vulkan });
      const x = { name: 'x', datatype: 'FP32', data: [[[1, 2]]] } as const;
      const y = { name: 'y', datatype: 'FP32', data: [[[2]]] } as const;
      const samples = [{ inputs: [x], outputs: [y], tolerance: 0 }];
      const gate = { runLimitMs: 20_000, maxBatchRows: 4, samples };
      const both = await inference.inspect(poolModel(false), gate);
      const answered = (device: string) => ({ device, runtime: both.profile.runtime });
      expect(both.profile).toMatchObject({ device: 'cpu', fallbacks: [], verifiedOn: [answered('cpu'), answered('webgpu')] });
      const one = await inference.inspect(poolModel(), gate);
      expect(one.profile).toMatchObject({ device: 'cpu', fallbacks: [{ device: 'webgpu' }], verifiedOn: [answered('cpu')] });
      const verified = { devices: ['cpu', 'webgpu'], fallbacks: [{ device: 'webgpu' }], verifiedOn: [answered('cpu')] };
      expect(await inference.verify(poolModel(), gate)).toMatchObject(verified);
      expect((await inference.inspect(poolModel(), { ...gate, samples: [] })).profile).toMatchObject({ fallbacks: [], verifiedOn: [] });
    },
  );

  test.skipIf(!hasVulkan)(`stays on the one that answers a version's samples where runs fail there${unlessVulkan}`, LIMIT, async () => {
    const fleet = await testFleet({ devices: 'webgpu,cpu', deviceEnvironment: vulkan });
    const version = loadable(versionOf(network(), { verifiedOn: [{ device: 'webgpu' }] }));
    await fleet.claim(version, []);
    await fleet.fallBack(version.id, 'webgpu', null);
    // Of the CPU it is not known.
    await expect(fleet.lend(version, 'webgpu')).rejects.toMatchObject({ code: 'OVERLOADED' });
    await fleet.setDevices(version.id, { passedOver: [{ device: 'cpu' }], verifiedOn: [{ device: 'webgpu' }] });
    expect(await fleet.lend(version, 'webgpu')).toBeNull();
    expect(await devicesOf(fleet)).toEqual(['webgpu']);
  });

  const unlessCuda = unless(hasCuda, 'CUDA device');
  const cuda = { devices: 'cuda:0,cpu', deviceEnvironment: pick(process.env, ['LD_LIBRARY_PATH', 'CUDA_VISIBLE_DEVICES']) };
  const gate = { runLimitMs: 20_000, maxBatchRows: 8 };

  test.skipIf(!hasCuda)(`joins rows on CUDA, where runs have the rows that cost the least${unlessCuda}`, LIMIT, async () => {
    const inference = await testInference(cuda);
    const inspection = await inference.inspect(network(), gate);
    expect(inspection).toMatchObject({ joinable: true, profile: { device: 'cuda:0', fallbacks: [] } });
    const { fixedRows } = inspection.profile;
    const version = versionOf(network(), { fixedRows: fixedRows ?? { device: 'cuda:0', rows: 8 } });
    const calls = Array.from({ length: 7 }, (_, i) => floats([1, 1, 8, 8], new Array(64).fill(i / 7)));
    const cpu = await testInference();
    const answers = async (on: typeof cpu, batch: typeof version) =>
      (await Promise.all(calls.map((call) => on.run(request(batch, [call]))))).flatMap(({ outputs }) => numbersOf(outputs[0]));
    const [there, here] = [await answers(inference, version), await answers(cpu, versionOf(network()))];
    expect(there.length).toBe(21);
    for (const [index, value] of there.entries()) expect(value).toBeCloseTo(here[index] ?? Number.NaN, 5);
  });

  test.skipIf(!hasCuda)(`knows what is held of a CUDA device, and what that has${unlessCuda}`, LIMIT, async () => {
    const inference = await testInference({ ...cuda, deviceMemoryBytesMax: 2 ** 50 });
    const { profile } = await inference.inspect(network(), gate);
    expect(profile.peakOnDevice).toMatchObject({ device: 'cuda:0' });
    expect(profile.peakOnDevice?.bytes).toBeGreaterThan(200 * MIB);
    await inference.load(versionOf(network()));
    const [memory] = (await inference.status()).memory;
    expect(memory).toMatchObject({ device: 'cuda:0' });
    expect(memory?.memoryBytes).toBeGreaterThan(200 * MIB);
    expect(memory?.memoryBytesMax).toBeLessThan(2 ** 40);
  });

  test.skipIf(!hasCuda)(`retires a runner that holds more of a full CUDA device than it may${unlessCuda}`, LIMIT, async () => {
    const inference = await testInference({ ...cuda, deviceMemoryBytesMax: 1_500 * MIB });
    const version = versionOf(hogModel(), { joinable: false, peakOnDevice: { device: 'cuda:0', bytes: 300 * MIB } });
    const hog = (elements: number) => request(version, [floats([1], [3]), longs([elements], 'k')]);
    expect(numbersOf((await inference.run(hog(1000))).outputs[0])).toEqual([3]);
    const pid = (await inference.status()).deployments[0]?.replicas[0]?.pid ?? 0;
    await inference.run(hog(2 ** 28)).catch(() => {});
    await vi.waitFor(() => expect(isAlive(pid)).toBe(false), { timeout: 20_000 });
    expect(numbersOf((await inference.run(hog(1000))).outputs[0])).toEqual([3]);
  });

  test.skipIf(!hasCuda)(`runs on CUDA as on the CPU${unlessCuda}`, LIMIT, async () => {
    const [gpu, cpu] = [await testInference({ ...cuda, devices: 'cuda:0' }), await testInference()];
    const version = versionOf(network(), { maxBatchRows: 2 });
    const pictures = floats(
      [2, 1, 8, 8],
      Array.from({ length: 128 }, (_, i) => Math.sin(i / 3)),
    );
    const [there, here] = await Promise.all([gpu, cpu].map((inference) => inference.run(request(version, [pictures]))));
    expect(there).toMatchObject({ device: 'cuda:0' });
    const wanted = numbersOf(here?.outputs[0]);
    for (const [index, value] of numbersOf(there?.outputs[0]).entries()) expect(value).toBeCloseTo(wanted[index] ?? Number.NaN, 3);
  });
});
