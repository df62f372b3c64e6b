import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { type Figure, type NotRun, ratios } from './figure.ts';
import { ROOT, start } from './processes.ts';
import { type Effort, median } from './sides.ts';

type Trained = { seconds: number; accuracy: number };

const WHAT = '5 epochs of the seed’s net on MNIST : Keras';
const EPOCHS = 5;
/** A Python with TensorFlow: `python3 -m venv DIR && DIR/bin/pip install tensorflow-cpu`, then BENCH_PYTHON=DIR/bin/python. */
const PYTHON = process.env.BENCH_PYTHON ?? 'python3';

/** P10: the wall time of the epochs of `npm run train`, beside the same net in Keras on the same images; both take all cores that they want. */
export async function training({ rounds }: Effort, data: string | undefined): Promise<Figure | NotRun> {
  const not = (why: string): NotRun => ({ id: 'P10', what: WHAT, why });
  if (!data) return not('give the folder of MNIST’s four files with --data or MERCATO_TEST_DATA');
  if ((await python(['-c', 'import tensorflow'])) === null)
    return not(`${PYTHON} has no TensorFlow: see BENCH_PYTHON in test/bench/training.ts`);
  const ours: Trained[] = [];
  const theirs: Trained[] = [];
  for (let round = 0; round < rounds; round++) {
    ours.push(await train(data));
    const said = await python(['test/bench/keras_net.py', data]);
    if (said === null) throw new Error('the Keras program failed');
    theirs.push(JSON.parse(said.trim().split('\n').at(-1) ?? '') as Trained);
  }
  const seconds = (runs: readonly Trained[]) => runs.map((run) => run.seconds);
  const said = (runs: readonly Trained[]) =>
    `${median(seconds(runs)).toFixed(2)} s, ${(100 * median(runs.map(({ accuracy }) => accuracy))).toFixed(2)} %`;
  return {
    id: 'P10',
    what: WHAT,
    unit: '×',
    ...ratios(seconds(ours), seconds(theirs)),
    ours: said(ours),
    theirs: said(theirs),
    mark: { most: 1.5 },
    goal: { most: 1 },
    notes: [],
  };
}

/** The command as a user runs it, until it has said how well the first net does. */
async function train(data: string): Promise<Trained> {
  const out = await mkdtemp(join(tmpdir(), 'mercato-bench-train-'));
  try {
    await using command = await start('src/commands/train.ts', {}, /accuracy [\d.]+ %/, [], ['--data', data, '--out', out]);
    const epochs = [...command.output.matchAll(/^(?:digits +)?epoch \d+ ?(?:\/|of) ?\d+ .* ([\d.]+) s$/gm)].map((line) => Number(line[1]));
    if (epochs.length !== EPOCHS) throw new Error(`${epochs.length} epochs in: ${command.output}`);
    const accuracy = Number(/accuracy ([\d.]+) %/.exec(command.output)?.[1]) / 100;
    return { seconds: epochs.reduce((sum, one) => sum + one, 0), accuracy };
  } finally {
    await rm(out, { recursive: true, force: true });
  }
}

/** What a Python program says; null where it fails. */
async function python(args: readonly string[]): Promise<string | null> {
  const child = spawn(PYTHON, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'ignore'] });
  const ended = once(child, 'exit');
  try {
    const [said, [code]] = await Promise.all([text(child.stdout), ended]);
    return code === 0 ? said : null;
  } catch {
    return null;
  }
}
