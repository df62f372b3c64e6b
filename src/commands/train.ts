/** `npm run train -- --data DIR [--out models]`: trains, optimises, evaluates and writes the shipped models. DIR holds the four gzipped files of MNIST. */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { drawStrokes, housesCsv, SEVEN } from '../training/data/data.ts';
import { openSession, Tensor } from '../training/net/net.ts';
import { optimise, train } from '../training/performances.ts';
import type { Figures, RunData, TrainingSpec } from '../training/training.ts';
import { readDigitFiles } from './demo-digits.ts';
import { modelCard } from './model-card.ts';
import { signatureOf } from './model-signature.ts';
import { CARDS, CONVOLUTIONAL, DENSE, LINEAR } from './shipped-models.ts';

const HOUSES = 2_000;
const SIDE = 28;

const { data, out } = readArguments();
const folder = await mkdtemp(join(tmpdir(), 'train-'));
process.chdir(folder);
try {
  const digits = await readDigitFiles(data);
  await writeFile('digits', digits.train);
  await writeFile('digits.test', digits.test);
  await writeFile('houses', housesCsv({ rows: HOUSES, seed: 1 }));
  const ofDigits = {
    dataset: { file: 'digits', format: 'IDX', badRowsMax: 0 },
    test: { file: 'digits.test', format: 'IDX', badRowsMax: 0 },
  } as const;
  const ofHouses = { dataset: { file: 'houses', format: 'CSV', badRowsMax: 0 }, test: null } as const;

  const dense = await trained({ ...ofDigits, rows: DENSE }, 'digits');
  await writeExample(dense);
  await writeFile('source.onnx', dense);
  const small = await optimise({
    kind: 'OPTIMISE',
    model: 'source.onnx',
    to: 'STATIC_INT8',
    rule: { maxAccuracyDrop: 0.005, minSpeedup: 0 },
    data: { ...ofDigits, rows: DENSE },
  });
  if (small.figures === null) throw new Error('the variant was not evaluated');
  await write('digits-int8', await readFile(small.model), small.figures);
  await trained({ ...ofDigits, rows: CONVOLUTIONAL }, 'digits-conv');
  await trained({ ...ofHouses, rows: LINEAR }, 'house-price');
} finally {
  await rm(folder, { recursive: true, force: true });
}

function readArguments(): { data: string; out: string } {
  const { values } = parseArgs({ options: { data: { type: 'string' }, out: { type: 'string', default: 'models' } } });
  if (values.data === undefined) {
    console.error('usage: npm run train -- --data DIR [--out models]   (DIR holds the four gzipped IDX files of MNIST)');
    process.exit(2);
  }
  return { data: resolve(values.data), out: resolve(values.out) };
}

async function trained(run: RunData & { rows: TrainingSpec }, name: keyof typeof CARDS): Promise<Buffer> {
  const { model, figures } = await train({ kind: 'TRAIN', data: run, checkpoint: null }, async ({ report }) => {
    console.log(
      `${name}  epoch ${report.epoch} of ${run.rows.epochs}  loss ${report.loss.toFixed(4)}  ${(report.elapsedMs / 1000).toFixed(2)} s`,
    );
  });
  const bytes = await readFile(model);
  await write(name, bytes, figures);
  return bytes;
}

async function write(name: keyof typeof CARDS, bytes: Buffer, figures: Figures): Promise<void> {
  const target = join(out, name);
  await mkdir(target, { recursive: true });
  const facts = { bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') };
  await writeFile(join(target, 'model.onnx'), bytes);
  await writeFile(join(target, 'signature.json'), `${JSON.stringify(signatureOf(bytes), null, 2)}\n`);
  await writeFile(join(target, 'card.md'), modelCard(CARDS[name], facts, figures));
  console.log(
    `${name}  ${figures.kind === 'CLASSES' ? `accuracy ${(100 * figures.accuracy).toFixed(2)} %` : `R² ${figures.r2.toFixed(4)}`}  ${bytes.length} bytes`,
  );
}

/** A seven that is drawn here, which the model must read. */
async function writeExample(model: Buffer): Promise<void> {
  const image = drawStrokes(SEVEN, SIDE);
  const session = await openSession(model);
  const { label } = await session.run({ image: new Tensor('uint8', Uint8Array.from(image.flat()), [1, SIDE, SIDE]) });
  await session.release();
  if (Number(label?.data[0]) !== 7) throw new Error('the model does not read the example');
  await writeFile(
    join(out, 'digits', 'example.json'),
    `{"expected":7,"image":[\n${image.map((row) => JSON.stringify(row)).join(',\n')}\n]}\n`,
  );
}
