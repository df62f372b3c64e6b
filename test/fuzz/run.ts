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
export type Report = {
  tally: Tally;
  rss: number[];
  victims: number;
  leaks: number[];
  unexpected: { seed: number; error: string }[];
  accepted: Uint8Array[];
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
const READER_MS_MAX = 1_000;

/**
 * Mutants of the models by seeds from `seed` on: Mercato's reader first, and what it lets through to the runtime, in a process as confined as a
 * runner that lies beside a secret file. `accepted`: of one in `every` those that the reader let through.
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
  const report: Report = { tally, rss: [process.memoryUsage.rss()], victims: 0, leaks: [], unexpected: [], accepted: [] };
  {
    await using victims = new Victims(cwd, LIMIT_MS);
    for (let one = seed; one < seed + count; one++) {
      const dice = new Dice(one);
      const file = mutant(dice.pick(models), dice);
      const met = file === null ? 'UNWRITABLE' : await meet(file, one, victims, report);
      tally[met]++;
      if (file !== null && met !== 'REJECTED' && one % every === 0) report.accepted.push(file);
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
  const { outcome, outputs } = await victims.meet(file);
  if (outputs.some((output) => Buffer.from(output, 'base64').includes(SECRET.subarray(0, 16)))) report.leaks.push(seed);
  return outcome;
}
