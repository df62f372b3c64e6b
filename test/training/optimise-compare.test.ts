import { describe, expect, it } from 'vitest';
import { encodeModel, graph, model, node, tensor, value } from '../../src/inference/onnx/onnx.ts';
import { compareModels, decide, optimiseModel, type Report, randomFeeds } from '../../src/training/optimise/optimise.ts';
import { denseModel, modelOf, rowsOf } from '../support/optimise.ts';

const shifted = (by: number, above: number) => {
  const nodes = [node('Add', ['x', 'b'], ['y']), node('Greater', ['x', 'c'], ['g']), node('Cast', ['g'], ['label'], { to: 7 })];
  const initializers = [tensor('b', 'FP32', [], Float32Array.of(by)), tensor('c', 'FP32', [], Float32Array.of(above))];
  const outputs = [value('y', 'FP32', ['N', 4]), value('label', 'INT64', ['N', 4])];
  return encodeModel(model(graph({ name: 'g', nodes, inputs: [value('x', 'FP32', ['N', 4])], outputs, initializers })));
};

describe('a report', () => {
  it('says sizes, differences of fractions, agreement of labels, and times of the batches that the rows allow', async () => {
    const [a, b] = [shifted(0, 0), shifted(0.5, 100)];
    const report = await compareModels(a, b, { ...rowsOf([4], 16), batches: [1, 8, 64] });
    expect(report.sizeBytes).toEqual({ source: a.length, optimised: b.length });
    expect(report.latency.map(({ batch }) => batch)).toEqual([1, 8]);
    expect(report.difference.map(({ output }) => output)).toEqual(['y']);
    expect(report.difference[0]?.worst).toBeCloseTo(0.5, 5);
    expect(report.difference[0]?.mean).toBeCloseTo(0.5, 5);
    const { x } = rowsOf([4], 16).feeds(0, 16);
    const positive = Array.from((x?.data ?? []) as Float32Array).filter((one) => one > 0).length;
    expect(report.agreement).toEqual([{ output: 'label', share: 1 - positive / 64 }]);
  });

  it('is of no difference between a model and itself, and is JSON', async () => {
    const report = await compareModels(denseModel(), denseModel(), { ...rowsOf([64]), batches: [1] });
    expect(report.difference).toEqual([{ output: 'y', worst: 0, mean: 0 }]);
    const infinite = modelOf([4], [4], [node('Log', ['x'], ['y'])], []);
    const other = modelOf([4], [4], [node('Neg', ['x'], ['y'])], []);
    const found = await compareModels(infinite, other, { ...rowsOf([4]), batches: [] });
    expect(JSON.parse(JSON.stringify(found))).toEqual(found);
  });

  it('times a model that fixes its rows with those, on rows made up', async () => {
    const fixed = encodeModel(
      model(
        graph({
          name: 'g',
          nodes: [node('Relu', ['x'], ['y'])],
          inputs: [value('x', 'FP32', [2, 3])],
          outputs: [value('y', 'FP32', [2, 3])],
        }),
      ),
    );
    const report = await compareModels(fixed, fixed, { ...randomFeeds(fixed), batches: [1, 8] });
    expect(report.latency.map(({ batch }) => batch)).toEqual([2]);
  });

  it('is made of rows made up for an optimised model', async () => {
    const { bytes } = await optimiseModel(denseModel(), 'FP16');
    expect((await compareModels(denseModel(), bytes, { ...randomFeeds(denseModel()), batches: [1] })).difference[0]?.worst).toBeGreaterThan(
      0,
    );
  });
});

describe('a decision', () => {
  const report = (speedups: readonly number[]): Report => ({
    sizeBytes: { source: 2, optimised: 1 },
    latency: speedups.map((one, batch) => ({ batch, sourceMs: one, optimisedMs: 1 })),
    difference: [],
    agreement: [],
  });
  const rule = { maxAccuracyDrop: 0.005, minSpeedup: 1 };

  it.each([
    [0.95, 0.946, [2, 0.5], true],
    [0.95, 0.945, [1], true],
    [0.95, 0.944, [2], false],
    [0.95, 0.95, [0.9], false],
    [0.95, 0.96, [1.1], true],
    [0.95, 0.96, [], false],
    [null, 0.96, [2], false],
    [0.95, null, [2], false],
  ] as const)('from %d to %d at speedups %j is %j', (sourceMetric, optimisedMetric, speedups, promotable) => {
    const decision = decide(report(speedups), { sourceMetric, optimisedMetric }, rule);
    expect(decision.promotable).toBe(promotable);
    expect(decision.reasons).toHaveLength(2);
  });
});
