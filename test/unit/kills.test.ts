import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { NO_STATS } from '../../src/inference/frames.ts';
import { Kills } from '../../src/inference/kills.ts';

beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }));
afterEach(() => void vi.useRealTimers());

const GIB = 2 ** 30;
/** A runner of a version that was seen to need a gibibyte, and may take three. */
const ended = (path: string, killed: boolean, memoryBytes = GIB) => ({
  runner: { path, killed, refusedMemory: false },
  stats: { ...NO_STATS, memoryBytes },
  footprint: { device: 'cpu', bytes: GIB, deviceBytes: 0 },
  ...{ deviceBytes: null, deviceBytesMax: 0 },
});

test("a runner's calls are to blame for its end unless it was killed, holding no more than it may", () => {
  const kills = new Kills();
  kills.add('version', ended('killed', true));
  kills.add(null, ended('lent', true, 3 * GIB));
  kills.add('version', ended('hog', true, 3 * GIB + 1));
  kills.add('version', ended('crashed', false));
  const paths = ['killed', 'lent', 'hog', 'crashed', 'living'];
  expect(paths.map((path) => kills.isBlameless(path))).toEqual([true, true, false, false, false]);
});

test('a runner lacked memory that said so, or held more than it was expected to, however it ended', () => {
  const kills = new Kills();
  const said = ended('said', false);
  kills.add(null, { ...said, runner: { ...said.runner, refusedMemory: true } });
  kills.add(null, ended('held', true, GIB + 1));
  kills.add(null, { ...ended('device', true), deviceBytes: 1 });
  kills.add(null, ended('small', false));
  const paths = ['said', 'held', 'device', 'small', 'living'];
  expect(paths.map((path) => kills.lackedMemory(path))).toEqual([true, true, true, false, false]);
});

test('a version is not loaded while three of its runners were killed in a minute', () => {
  const kills = new Kills();
  for (let kill = 0; kill < 3; kill++) {
    kills.admit('version');
    kills.add('version', ended(`${kill}`, true));
    kills.add('crashing', ended(`c${kill}`, false));
    kills.add(null, ended(`l${kill}`, true));
    vi.advanceTimersByTime(10_000);
  }
  kills.admit('crashing');
  const refused = { code: 'OVERLOADED', data: { rule: 'RUNNER_LOST', retryAfterMs: 30_000 } };
  expect(() => kills.admit('version')).toThrow(expect.objectContaining(refused));
  vi.advanceTimersByTime(30_000);
  kills.admit('version');
  kills.add('version', ended('again', true));
  expect(() => kills.admit('version')).toThrow(expect.objectContaining({ code: 'OVERLOADED' }));
});
