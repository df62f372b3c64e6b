import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { decodeModel, readContents } from '../../src/inference/onnx/onnx.ts';
import { bombModel, identityModel, loopModel, mixingModel, tableModel } from '../inference/tiny-models.ts';
import { mutant, SECRET_FILE } from './mutate.ts';
import { Dice } from './random.ts';
import { type Met, Victims } from './victims.ts';

/** 32 bytes that no model can make up. */
export const SECRET = Buffer.from('5d1f4b8ec9a27730e6f18d4cb2a95e077c30d1f2964be8a5130c7de8f24b6a91', 'hex');

export type Tally = Record<'UNWRITABLE' | 'REJECTED' | Met['outcome'], number>;
/** A mutant for the way over HTTP, and whether the reader rejected it. */
export type Chosen = { file: Uint8Array; rejected: boolean };
export type Report = {
  tally: Tally;
  rss: number[];
  victims: number;
  worstLateMs: number;
  leaks: number[];
  unexpected: { seed: number; error: string }[];
  chosen: Chosen[];
};

export const TINY = [
  identityModel(),
  identityModel('INT64'),
  identityModel('BYTES'),
  loopModel(),
  loopModel(4),
  tableModel(),
  bombModel(),
  mixingModel(),
];

const LIMIT_MS = 2_000;
/** A call is answered by so much after its deadline, whatever the model does. */
export const LATE_MS_MAX = 250;
/** What the secret begins with: no output holds it by chance. */
export const SECRET_START = SECRET.subarray(0, 16);
const READER_MS_MAX = 1_000;

/**
 * Mutants of the models by seeds from `seed` on: Mercato's reader first, and what it lets through to the runtime, in a process as confined as a
 * runner that lies beside a secret file. `chosen`: one in `every`, rejected or not, of those that can be written down; each was `padded`.
 */
export async function fuzz(
  bases: readonly Uint8Array[],
  count: number,
  seed: number,
  onEach: (done: number) => void = () => {},
  every = 100,
): Promise<Report> {
  const cwd = await mkdtemp(join(tmpdir(), 'mercato-fuzz-'));
  await writeFile(join(cwd, SECRET_FILE), Buffer.concat(Array<Buffer>(64).fill(SECRET)));
  const models = bases.map((base) => decodeModel(base));
  const tally: Tally = { UNWRITABLE: 0, REJECTED: 0, NOT_LOADED: 0, NOT_RUN: 0, RAN: 0, CRASHED: 0, OVERRAN: 0 };
  const report: Report = {
    tally,
    rss: [process.memoryUsage.rss()],
    victims: 0,
    worstLateMs: -LIMIT_MS,
    leaks: [],
    unexpected: [],
    chosen: [],
  };
  {
    await using victims = new Victims(cwd, LIMIT_MS, SECRET_START);
    for (let one = seed; one < seed + count; one++) {
      const dice = new Dice(one);
      const file = mutant(dice.pick(models), dice);
      const isChosen = file !== null && report.chosen.length * every <= one - seed;
      const met = file === null ? 'UNWRITABLE' : await meet(isChosen ? padded(file) : file, one, victims, report);
      tally[met]++;
      if (isChosen) report.chosen.push({ file, rejected: met === 'REJECTED' });
      if ((one - seed) % Math.ceil(count / 4) === 0) report.rss.push(process.memoryUsage.rss());
      onEach(one - seed + 1);
    }
    report.victims = victims.started;
  }
  report.rss.push(process.memoryUsage.rss());
  await rm(cwd, { recursive: true, force: true });
  return report;
}

async function meet(file: Uint8Array, seed: number, victims: Victims, report: Report): Promise<keyof Tally> {
  const startedMs = performance.now();
  try {
    readContents(file, [1, 64]);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'MODEL_REJECTED') return 'REJECTED';
    report.unexpected.push({ seed, error: String(error) });
  }
  if (performance.now() - startedMs > READER_MS_MAX) report.unexpected.push({ seed, error: 'the reader took too long' });
  const { outcome, leaks, lateMs } = await victims.meet(file);
  if (leaks) report.leaks.push(seed);
  report.worstLateMs = Math.max(report.worstLateMs, lateMs);
  if (lateMs > LATE_MS_MAX) report.unexpected.push({ seed, error: `${outcome} ${lateMs.toFixed(0)} ms after its time` });
  return outcome;
}

/** So large that a server which kept one for each upload would be seen to grow. */
export const PADDING_BYTES = 4 * 1024 ** 2;

/** The file with a long comment (field 6 of a ModelProto) after all else. */
export function padded(file: Uint8Array): Uint8Array<ArrayBuffer> {
  return Buffer.concat([file, Uint8Array.of(0x32, 0x80, 0x80, 0x80, 0x02), Buffer.alloc(PADDING_BYTES, 'x')]);
}
