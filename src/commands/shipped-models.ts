import type { TrainingSpec } from '../training/training.ts';
import type { CardText } from './model-card.ts';

const COMMON = {
  preprocessing: null,
  weightDecay: 0,
  earlyStopping: null,
  schedule: null,
  seed: 1,
  validationShare: 0,
} satisfies Partial<TrainingSpec>;

const DIGITS = {
  ...COMMON,
  task: 'CLASSIFICATION',
  targets: ['label'],
  features: ['image'],
  loss: 'SPARSE_CROSS_ENTROPY',
  optimiser: { kind: 'ADAM', learningRate: 0.001 },
  batchRows: 32,
  testShare: 0,
} satisfies Partial<TrainingSpec>;

/** The net of the seed. */
export const DENSE: TrainingSpec = {
  ...DIGITS,
  layers: [
    { kind: 'flatten' },
    { kind: 'dense', units: 128, activation: 'relu' },
    { kind: 'dropout', rate: 0.2 },
    { kind: 'dense', units: 10, activation: 'softmax' },
  ],
  epochs: 5,
};

export const CONVOLUTIONAL: TrainingSpec = {
  ...DIGITS,
  layers: [
    { kind: 'conv2d', filters: 8, kernel: 3, activation: 'relu' },
    { kind: 'maxPool2d', size: 2 },
    { kind: 'conv2d', filters: 16, kernel: 3, activation: 'relu' },
    { kind: 'maxPool2d', size: 2 },
    { kind: 'flatten' },
    { kind: 'dropout', rate: 0.2 },
    { kind: 'dense', units: 64, activation: 'relu' },
    { kind: 'dense', units: 10, activation: 'softmax' },
  ],
  schedule: { kind: 'COSINE', floor: 0.05 },
  epochs: 12,
};

export const LINEAR: TrainingSpec = {
  ...COMMON,
  task: 'REGRESSION',
  targets: ['price_eur'],
  features: ['area_m2', 'rooms', 'age_years', 'distance_km'],
  layers: [{ kind: 'dense', units: 1 }],
  loss: 'MEAN_SQUARED_ERROR',
  optimiser: { kind: 'GRADIENT_DESCENT', learningRate: 0.1 },
  epochs: 30,
  batchRows: 64,
  testShare: 0.2,
};

const INPUT = `Input \`image\` UINT8 [N, 28, 28]; outputs \`probabilities\` FP32 [N, 10] and \`label\` INT64 [N]. The scaling of pixels is inside the graph:
send them as they are.`;
const READS =
  'Reads one handwritten digit from a picture of 28 × 28 grey pixels (0 paper, 255 ink) and says which of the ten it is, and how sure it is.';
const MNIST_TEST = 'The 10,000 test images of MNIST, none of which it was trained on, through the exported file itself.';
const LIMITS = [
  'One digit, upright, centred, light ink on dark as MNIST stores it; other pictures get a confident answer that means nothing.',
  'It has no class for "not a digit".',
  'MNIST is by writers from the United States; other ways to write 1, 4, 7 and 9 may be read less well.',
  'Not for decisions about people or money: cheques, forms, identification.',
];
const mnist = (how: string) =>
  `The first 10,000 training images of MNIST (Y. LeCun, C. Cortes, C. Burges), by Adam (learning rate 0.001${how}) on sparse categorical
cross-entropy, with this project's own trainer. Batches of 32, seed 1.`;

export const CARDS = {
  digits: {
    title: 'digits',
    what: `${READS}\n\n${INPUT} The net: flatten, dense 128 with ReLU, dropout 0.2 (in training only), dense 10 with softmax.`,
    trainedOn: `${mnist('')} 5 epochs.`,
    evaluatedOn: MNIST_TEST,
    use: 'Demonstrations, tests and load figures: a small model with an answer that a person can check.',
    limits: LIMITS,
  },
  'digits-int8': {
    title: 'digits-int8',
    what: `The model \`digits\` in a quarter of the size: weights of both dense layers are 8-bit integers by unit, activations 8-bit integers in the range that they
had on 512 training images.\n\n${INPUT}`,
    trainedOn: 'Not trained: made from `models/digits` by `optimizeVersion` with STATIC_INT8.',
    evaluatedOn: MNIST_TEST,
    use: 'Where size or many rows at once matter more than the last tenth of a percent.',
    limits: LIMITS,
  },
  'digits-conv': {
    title: 'digits-conv',
    what: `${READS}\n\n${INPUT} The net: convolution 3 × 3 of 8 filters with ReLU, the largest of 2 × 2, convolution 3 × 3 of 16 filters with ReLU, the largest of
2 × 2, flatten, dropout 0.2 (in training only), dense 64 with ReLU, dense 10 with softmax.`,
    trainedOn: `${mnist(', falling to a twentieth along a cosine')} 12 epochs.`,
    evaluatedOn: MNIST_TEST,
    use: 'Where accuracy matters more than speed: a quarter of the parameters of `digits`, more arithmetic, about a third of its errors.',
    limits: LIMITS,
  },
  'house-price': {
    title: 'house-price',
    what: `Guesses the price of a house from its area, rooms, age and distance to the centre: linear regression.

Inputs \`area_m2\`, \`rooms\`, \`age_years\`, \`distance_km\` FP32 [N], a missing one NaN; output \`price_eur\` FP32 [N]. Standardising is inside the graph: send
numbers as they are.`,
    trainedOn: `2,000 houses that this project generates (linear in the four, with normal noise of 18,000 EUR), of which a fifth was kept aside. By gradient descent,
θ ← θ − η∇L with η = 0.1, on L(θ) = 1/(2n) Σ (y − ŷ)² of the standardised price; 30 epochs, batches of 64, seed 1.`,
    evaluatedOn: 'The 400 houses that were kept aside, through the exported file itself. No model can be better than the noise.',
    use: 'To see a regression trained, published and called.',
    limits: [
      'The houses are made up: it knows nothing of any real one.',
      'Outside the ranges that were generated it goes on in a straight line.',
    ],
  },
} satisfies Record<string, CardText>;
