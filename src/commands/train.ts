/** `npm run train -- --data DIR [--out models/digits] [--seed N]`: trains, evaluates and writes the shipped digits model. */
import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { encodeModel } from '../inference/onnx/onnx.ts';
import {
  type CardText,
  classifierCard,
  classify,
  createNet,
  type Dataset,
  drawStrokes,
  type EpochReport,
  evaluate,
  exportModel,
  fitNet,
  readIdxDataset,
  SEVEN,
  signatureOf,
} from '../training/training.ts';

const EPOCHS = 5;
const BATCH_ROWS = 32;
const SIDE = 28;
const CLASSES = 10;

const net = createNet({
  input: { name: 'image', datatype: 'UINT8', dims: [SIDE, SIDE] },
  layers: [
    { kind: 'scale', factor: 1 / 255 },
    { kind: 'flatten' },
    { kind: 'dense', units: 128, activation: 'relu' },
    { kind: 'dropout', rate: 0.2 },
    { kind: 'dense', units: CLASSES, activation: 'softmax' },
  ],
});

const { data, out, seed } = readArguments();
const trainSet = await readDigits(data, 'train');
const testSet = await readDigits(data, 't10k');
let last: EpochReport | undefined;
const weights = await fitNet(net, trainSet, { epochs: EPOCHS, batchRows: BATCH_ROWS, seed, onEpoch });
const bytes = encodeModel(exportModel(net, weights));
const evaluation = await evaluate(bytes, testSet, CLASSES);
console.log(`accuracy ${(100 * evaluation.accuracy).toFixed(2)} % on ${testSet.rows} images that it was not trained on`);

const image = drawStrokes(SEVEN, SIDE);
const answer = await classify(bytes, Uint8Array.from(image.flat()), [SIDE, SIDE]);
console.log(`our own drawing of a 7 is read as ${answer.label}, probability ${answer.probability.toFixed(4)}`);
if (answer.label !== 7) throw new Error('the model does not read the example');

const run = {
  seed,
  epochs: EPOCHS,
  batchRows: BATCH_ROWS,
  parameters: [...weights.values()].reduce((sum, one) => sum + one.length, 0),
  bytes: bytes.length,
  sha256: createHash('sha256').update(bytes).digest('hex'),
  loss: last?.loss ?? Number.NaN,
};
await mkdir(out, { recursive: true });
await writeFile(join(out, 'model.onnx'), bytes);
await writeFile(join(out, 'signature.json'), `${JSON.stringify(signatureOf(bytes), null, 2)}\n`);
await writeFile(join(out, 'card.md'), classifierCard(cardText(), run, evaluation));
await writeFile(join(out, 'example.json'), `{"expected":7,"image":[\n${image.map((row) => JSON.stringify(row)).join(',\n')}\n]}\n`);
console.log(`wrote model.onnx (${bytes.length} bytes), signature.json, card.md and example.json to ${out}`);

function readArguments(): { data: string; out: string; seed: number } {
  const { values } = parseArgs({
    options: { data: { type: 'string' }, out: { type: 'string', default: 'models/digits' }, seed: { type: 'string', default: '1' } },
  });
  const chosen = Number(values.seed);
  if (values.data === undefined || !Number.isSafeInteger(chosen)) {
    console.error('usage: npm run train -- --data DIR [--out models/digits] [--seed N]   (DIR holds the four gzipped IDX files of MNIST)');
    process.exit(2);
  }
  return { data: values.data, out: values.out, seed: chosen };
}

function readDigits(folder: string, part: 'train' | 't10k'): Promise<Dataset> {
  return readIdxDataset(join(folder, `${part}-images-idx3-ubyte.gz`), join(folder, `${part}-labels-idx1-ubyte.gz`));
}

function onEpoch(report: EpochReport): void {
  last = report;
  console.log(`epoch ${report.epoch}/${EPOCHS}  loss ${report.loss.toFixed(4)}  ${(report.elapsedMs / 1000).toFixed(2)} s`);
}

function cardText(): CardText {
  const rows = (one: Dataset) => one.rows.toLocaleString('en-US');
  return {
    title: 'digits',
    what: `Reads one handwritten digit from a picture of ${SIDE} × ${SIDE} grey pixels (0 paper, 255 ink) and says which of the ten it is, and how sure it is.

Input \`image\` UINT8 [N, ${SIDE}, ${SIDE}]; outputs \`probabilities\` FP32 [N, ${CLASSES}] and \`label\` INT64 [N]. The scaling of pixels is inside the
graph: send them as they are. The net: flatten, dense 128 with ReLU, dropout 0.2 (in training only), dense ${CLASSES} with softmax.`,
    trainedOn: `The first ${rows(trainSet)} training images of MNIST (Y. LeCun, C. Cortes, C. Burges), by Adam (learning rate 0.001) on sparse
categorical cross-entropy, with this project's own trainer.`,
    evaluatedOn: `The ${rows(testSet)} test images of MNIST, none of which it was trained on, through the exported file itself.`,
    use: 'Demonstrations, tests and load figures: a small model with an answer that a person can check.',
    limits: [
      'One digit, upright, centred, light ink on dark as MNIST stores it; other pictures get a confident answer that means nothing.',
      'It has no class for "not a digit", and its probabilities are not calibrated.',
      'MNIST is by writers from the United States; other ways to write 1, 4, 7 and 9 may be read less well.',
      'Not for decisions about people or money: cheques, forms, identification.',
    ],
  };
}
