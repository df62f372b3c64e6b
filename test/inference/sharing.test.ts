import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { createLog } from '../../src/base/log.ts';
import { rejected } from '../../src/inference/check-runner.ts';
import { connectRunner } from '../../src/inference/connection.ts';
import { loadInto } from '../../src/inference/load.ts';
import { createRunFolder } from '../../src/inference/run-folder.ts';
import { startRunner } from '../../src/inference/runner-process.ts';
import { longs, numbersOf } from './setup.ts';
import { loopModel } from './tiny-models.ts';

async function openRunner() {
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-test-'));
  const folder = createRunFolder(dataDir);
  const path = folder.nextSocket();
  const runner = await startRunner({ folder: { ...folder, nextSocket: () => path }, env: {}, gpu: false }, createLog('error'));
  onTestFinished(async () => {
    runner.kill();
    await runner.ended;
    await rm(dataDir, { recursive: true, force: true });
  });
  return { runner, path };
}

const OPTIONS = { device: 'cpu', threads: 1, joinable: true, shared: false, maxBatchRows: 8, fixedRows: null, runLimitMs: 30_000 };

test('a load that takes longer than it may ends its runner, and is told from one that crashes', async () => {
  const { runner } = await openRunner();
  process.kill(runner.pid, 'SIGSTOP');
  const failure = await loadInto(runner, OPTIONS, loopModel(), 10).catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: 'MODEL_FAILED', data: { rule: 'LOAD', limit: '10' } });
  expect(rejected(failure)).toMatchObject({ code: 'MODEL_REJECTED', data: { rule: 'LOAD_LIMIT', limit: '10' } });
  await runner.ended;

  const { runner: crashing } = await openRunner();
  const crashed = loadInto(crashing, OPTIONS, loopModel()).catch((error: unknown) => error);
  process.kill(crashing.pid, 'SIGKILL');
  expect(rejected(await crashed)).toMatchObject({ code: 'MODEL_REJECTED', data: { rule: 'LOAD_CRASHED' } });
});

test('a runner that ends itself, past its run limit or since it is told to, is told from one that is killed', async () => {
  const { runner: late, path } = await openRunner();
  await loadInto(late, { ...OPTIONS, runLimitMs: 100 }, loopModel());
  const endless = { tenantKey: 'a', priority: 0, outputs: null, alone: false, rows: 1, inputs: [longs([2 ** 52])] };
  const connection = await connectRunner({ path, device: 'cpu' }, () => {});
  await connection.call(endless, { expiresMs: performance.now() + 30_000, signal: undefined }).catch(() => {});
  const { runner: retired } = await openRunner();
  retired.connection.retire();
  const { runner: killed } = await openRunner();
  process.kill(killed.pid, 'SIGKILL');
  await Promise.all([late.ended, retired.ended, killed.ended]);
  expect([late.killed, retired.killed, killed.killed]).toEqual([false, false, true]);
});

test('server processes share the batches of one runner, and one that leaves takes only its own calls with it', async () => {
  const { runner, path } = await openRunner();
  await loadInto(runner, OPTIONS, loopModel());
  const [second, third] = [await connectRunner({ path, device: 'cpu' }, () => {}), await connectRunner({ path, device: 'cpu' }, () => {})];
  onTestFinished(() => second.close());

  const patience = { expiresMs: performance.now() + 60_000, signal: undefined };
  const request = (value: number) => ({ tenantKey: 'a', priority: 0, rows: 1, outputs: null, alone: false, inputs: [longs([value])] });
  const busy = runner.connection.call(request(1_000_000), patience);
  await vi.waitFor(async () => expect(await runner.connection.stats()).toMatchObject({ queued: 0, running: 1 }), { timeout: 20_000 });
  const leaves = third.call(request(3), patience).catch((error: unknown) => error);
  const calls = [runner.connection.call(request(1), patience), second.call(request(2), patience)];
  third.close();
  expect(await leaves).toMatchObject({ name: 'RunnerLost', begun: false });
  const results = await Promise.all(calls);
  expect(results.map(({ outputs, batchRows }) => [numbersOf(outputs[0]), batchRows])).toEqual([
    [[1], 2],
    [[2], 2],
  ]);
  expect(numbersOf((await busy).outputs[0])).toEqual([1_000_000]);
});
