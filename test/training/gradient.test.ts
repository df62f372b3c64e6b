import { describe, expect, it } from 'vitest';
import { node, type OnnxModel } from '../../src/inference/onnx/onnx.ts';
import { gradientModel, layGradient } from '../../src/training/net/gradient.ts';
import type { LossKind } from '../../src/training/net/losses.ts';
import { createNet, type LayerSpec, type Net } from '../../src/training/net/net.ts';
import { createOptimiser, type OptimiserSpec } from '../../src/training/net/optimisers.ts';
import { floats, openSession } from '../../src/training/net/session.ts';
import { DECAY, nextOf, RATE, stateOf, stepModel } from '../../src/training/net/step.ts';
import { CHECKS, feedsOf, worstGradientError } from './gradients.ts';

/** Each layer between layers with parameters, so that its gradient goes on to something. */
const LAYERS: Record<string, { dims: number[]; layers: LayerSpec[] }> = {
  dense: { dims: [3], layers: [{ kind: 'dense', units: 4 }] },
  relu: { dims: [3], layers: [{ kind: 'dense', units: 5, activation: 'relu' }] },
  sigmoid: { dims: [3], layers: [{ kind: 'dense', units: 4, activation: 'sigmoid' }] },
  tanh: { dims: [3], layers: [{ kind: 'dense', units: 4, activation: 'tanh' }] },
  softmax: { dims: [3], layers: [{ kind: 'dense', units: 4, activation: 'softmax' }] },
  dropout: {
    dims: [3],
    layers: [
      { kind: 'dense', units: 6 },
      { kind: 'dropout', rate: 0.4 },
    ],
  },
  batchNorm: { dims: [3], layers: [{ kind: 'dense', units: 4 }, { kind: 'batchNorm' }] },
  flatten: { dims: [4, 4], layers: [{ kind: 'conv2d', filters: 2, kernel: 3 }, { kind: 'flatten' }] },
  conv2d: {
    dims: [5, 4, 2],
    layers: [{ kind: 'conv2d', filters: 2, kernel: 2, activation: 'tanh' }, { kind: 'conv2d', filters: 2, kernel: 2 }, { kind: 'flatten' }],
  },
  'conv2d, SAME, stride 2': {
    dims: [6, 5],
    layers: [
      { kind: 'conv2d', filters: 2, kernel: 3, padding: 'SAME', activation: 'tanh' },
      { kind: 'conv2d', filters: 2, kernel: 3, stride: 2, padding: 'SAME' },
      { kind: 'flatten' },
    ],
  },
  'conv2d, stride 2 with a rest': {
    dims: [6, 7],
    layers: [
      { kind: 'conv2d', filters: 2, kernel: 2, activation: 'tanh' },
      { kind: 'conv2d', filters: 1, kernel: 2, stride: 2 },
      { kind: 'flatten' },
    ],
  },
  maxPool2d: { dims: [6, 6], layers: [{ kind: 'conv2d', filters: 2, kernel: 3 }, { kind: 'maxPool2d', size: 2 }, { kind: 'flatten' }] },
  'maxPool2d with a rest': {
    dims: [6, 7],
    layers: [{ kind: 'conv2d', filters: 1, kernel: 2 }, { kind: 'maxPool2d', size: 2 }, { kind: 'flatten' }],
  },
  // Twice, so that the gradient of the second goes on to the parameters of the first.
  'batchNorm of pictures': {
    dims: [3, 2, 2],
    layers: [{ kind: 'batchNorm' }, { kind: 'tanh' }, { kind: 'batchNorm' }, { kind: 'flatten' }],
  },
};

const ENDS: Record<LossKind, LayerSpec> = {
  MEAN_SQUARED_ERROR: { kind: 'dense', units: 2 },
  SPARSE_CROSS_ENTROPY: { kind: 'dense', units: 3, activation: 'softmax' },
  BINARY_CROSS_ENTROPY: { kind: 'dense', units: 1, activation: 'sigmoid' },
};
const LOSSES = Object.keys(ENDS) as LossKind[];

function netOf(layer: string, loss: LossKind): Net {
  const { dims, layers } = LAYERS[layer] ?? { dims: [], layers: [] };
  const precision = layers.some(({ kind }) => kind === 'conv2d') ? 'FP32' : 'FP64';
  return createNet({ dims, layers: [...layers, ENDS[loss]], precision });
}

const PAIRS = Object.keys(LAYERS).flatMap((layer) => LOSSES.map((loss): [string, LossKind] => [layer, loss]));

describe('every gradient', () => {
  it.each(PAIRS)('of %s under %s agrees with central finite differences', async (layer, loss) => {
    const net = netOf(layer, loss);
    expect(await worstGradientError(net, loss, gradientModel(net, loss))).toBeLessThan(CHECKS[net.precision].right);
  });
});

/** Nodes of the backward pass: those that the loss does not need, and that the gradients do. */
function backwardNodes(net: Net, loss: LossKind): number[] {
  const { graph } = gradientModel(net, loss);
  const nodes = graph?.node ?? [];
  const makers = new Map(nodes.flatMap((one, index) => one.output.map((name): [string, number] => [name, index])));
  const needed = (from: readonly string[]) => {
    const found = new Set<number>();
    const visit = (name: string) => {
      const index = makers.get(name);
      if (index === undefined || found.has(index)) return;
      found.add(index);
      for (const input of nodes[index]?.input ?? []) visit(input);
    };
    for (const name of from) visit(name);
    return found;
  };
  const forLoss = needed(['/loss']);
  const forGradients = needed(net.parameters.map(({ name }) => `${name}.gradient`));
  return [...forGradients].filter((index) => !forLoss.has(index));
}

/** The graphs with one node replaced by one that hands an input on: gradients without that term. Not every input has the shape that is wanted. */
function without(model: OnnxModel, index: number): OnnxModel[] {
  const { graph } = model;
  const found = graph?.node[index];
  if (graph === undefined || found === undefined || !['Mul', 'Sub', 'Div', 'Add'].includes(found.opType ?? '')) return [];
  return found.input.map((input) => {
    const nodes = [...graph.node];
    nodes[index] = node('Identity', [input], found.output);
    return { ...model, graph: { ...graph, node: nodes } };
  });
}

describe('the check of gradients', () => {
  it.each(PAIRS)('of %s under %s fails without any one of its terms', { timeout: 60_000 }, async (layer, loss) => {
    const net = netOf(layer, loss);
    const whole = gradientModel(net, loss);
    let terms = 0;
    for (const index of backwardNodes(net, loss)) {
      const errors = await Promise.all(without(whole, index).map((cut) => worstGradientError(net, loss, cut).catch(() => null)));
      const ran = errors.filter((error) => error !== null);
      if (ran.length === 0) continue;
      terms++;
      expect(Math.max(...ran), `${whole.graph?.node[index]?.output[0]}`).toBeGreaterThan(CHECKS[net.precision].wrong);
    }
    expect(terms).toBeGreaterThan(0);
  });
});

const OPTIMISERS: OptimiserSpec[] = [
  { kind: 'GRADIENT_DESCENT', learningRate: 0.05 },
  { kind: 'MOMENTUM', learningRate: 0.05, momentum: 0.8 },
  { kind: 'ADAM', learningRate: 0.01, beta1: 0.8, beta2: 0.99 },
];

/** θ after step 3 as the optimiser is written down, from a gradient and slots of 0.25. */
function formula(spec: OptimiserSpec, theta: number, g: number): number {
  switch (spec.kind) {
    case 'GRADIENT_DESCENT':
      return theta - spec.learningRate * g;
    case 'MOMENTUM':
      return theta - spec.learningRate * (0.8 * 0.25 + g);
    case 'ADAM': {
      const [m, v] = [0.8 * 0.25 + 0.2 * g, 0.99 * 0.25 + 0.01 * g * g];
      return theta - (((0.01 * Math.sqrt(1 - 0.99 ** 3)) / (1 - 0.8 ** 3)) * m) / (Math.sqrt(v) + 1e-7);
    }
  }
}

describe('a step', () => {
  it.each(OPTIMISERS.flatMap((spec) => LOSSES.map((loss): [string, LossKind, OptimiserSpec] => [spec.kind, loss, spec])))(
    'of %s under %s does with the checked gradient what the formula says, and decays weights but no biases',
    async (_, loss, spec) => {
      const net = netOf('tanh', loss);
      const optimiser = createOptimiser(spec);
      const [step, gradients] = [await openSession(stepModel(net, loss, optimiser, true)), await openSession(gradientModel(net, loss))];
      const given = feedsOf(net, loss);
      const exact = await gradients.run(given);
      for (const { name, dims } of stateOf(net, optimiser)) {
        given[name] ??= floats(new Float64Array(dims.reduce((product, dim) => product * dim, 1)).fill(0.25), dims);
      }
      const scalar = (value: number) => floats(Float64Array.of(value), []);
      const result = await step.run({ ...given, [RATE]: scalar(optimiser.rate(3, optimiser.learningRate)), [DECAY]: scalar(0.03) });
      for (const { name, decays } of net.parameters) {
        const theta = given[name]?.data as Float64Array;
        const after = result[nextOf(name)]?.data as Float64Array;
        for (const [index, next] of after.entries()) {
          const start = theta[index] ?? 0;
          const g = Number(exact[`${name}.gradient`]?.data[index]);
          expect(next).toBeCloseTo(formula(spec, start, g) - (decays ? 0.03 * start : 0), 12);
        }
      }
      await Promise.all([step.release(), gradients.release()]);
    },
  );

  it('is laid without a gradient for what stands before the first layer with parameters', () => {
    const net = createNet({ dims: [4, 4], layers: [{ kind: 'flatten' }, { kind: 'dense', units: 2, activation: 'softmax' }] });
    expect(layGradient(net, 'SPARSE_CROSS_ENTROPY').nodes.filter(({ opType }) => opType === 'Reshape')).toEqual([]);
  });
});
