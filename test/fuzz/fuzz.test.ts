import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { checkModel, node, tensor } from '../../src/inference/onnx/onnx.ts';
import { tinyModel } from '../inference/tiny-models.ts';
import { throughTheDoor } from './door.ts';
import { SECRET_FILE } from './mutate.ts';
import { fuzz, SECRET, SECRET_START, TINY } from './run.ts';
import { Victims } from './victims.ts';

test('mutants of models are rejected by the reader or contained by a process, and no file comes out', { timeout: 120_000 }, async () => {
  const report = await fuzz(TINY, 500, 1);
  expect(report.unexpected).toEqual([]);
  expect(report.leaks).toEqual([]);
  const { UNWRITABLE, REJECTED, ...met } = report.tally;
  expect(REJECTED).toBeGreaterThan(50);
  expect(met.RAN).toBeGreaterThan(20);
  const door = await throughTheDoor(report.chosen);
  expect(door.faults).toEqual([]);
  expect(door.asked).toBe(5);
});

test('without the reader the runtime would read a file of its working directory: the fuzzing can see it', async () => {
  const cwd = await mkdtemp(join(tmpdir(), 'mercato-fuzz-'));
  await writeFile(join(cwd, SECRET_FILE), SECRET);
  const { rawData: _, ...rest } = tensor('c', 'UINT8', [32], new Uint8Array(32));
  const outside = { ...rest, dataLocation: 1, externalData: [{ key: 'location', value: SECRET_FILE }] };
  const before = tensor('b', 'UINT8', [100_000], new Uint8Array(100_000));
  const file = tinyModel(
    [['x', 'UINT8', ['N']]],
    [['y', 'UINT8', ['M']]],
    [node('Concat', ['b', 'c', 'x'], ['y'], { axis: 0 })],
    [before, outside],
  );
  expect(() => checkModel(file)).toThrow('another file');
  await using victims = new Victims(cwd, 5_000, SECRET_START);
  expect(await victims.meet(file)).toMatchObject({ outcome: 'RAN', leaks: true });
  await rm(cwd, { recursive: true });
});

test('a row that is proved to be apart comes out of ONNX Runtime alone as it does among others', async () => {
  const program = fileURLToPath(new URL('rows.ts', import.meta.url));
  const args = ['--disable-warning=ExperimentalWarning', program, '--count', '1500', '--seed', '1'];
  const { stdout } = await promisify(execFile)(process.execPath, args);
  const { tally, mixed } = JSON.parse(stdout) as { tally: { apart: number }; mixed: object[] };
  expect(mixed).toEqual([]);
  expect(tally.apart).toBeGreaterThan(300);
});
