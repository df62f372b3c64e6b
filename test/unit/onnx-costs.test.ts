import { describe, expect, it } from 'vitest';
import { encodeModel, graph, model, node, proveRows, value } from '../../src/inference/onnx/onnx.ts';
import { RULES } from '../../src/inference/onnx/row-rules.ts';
import { Application, CONST, type Known, rowsOfRank } from '../../src/inference/onnx/row-values.ts';
import { refusalOf, withParts } from './onnx-parts.ts';

const ofRank = (rank: number): Known => ({ kind: 'ROWS', tail: Array<null>(rank - 1).fill(null) });
const dimsOf = (rank: number) => ['N', ...Array<number>(rank - 1).fill(1)];

describe('the number of dimensions', () => {
  it('is at most 64 at the door of a model', () => {
    expect(refusalOf(encodeModel(withParts({ inputs: [value('x', 'FP32', dimsOf(65))] })))).toMatchObject({
      message: expect.stringContaining('more than 64 dimensions'),
      data: { place: 'graph.input["x"]' },
    });
    expect(refusalOf(encodeModel(withParts({ outputs: [value('y', 'FP32', dimsOf(65))] }))).data.place).toBe('graph.output["y"]');
  });

  it('ends the proof of rows beyond 64, where a chain raises it without end or an input brings it', () => {
    const length = 2_000;
    const nodes = Array.from({ length }, (_, index) => {
      return node('Unsqueeze', [index === 0 ? 'x' : `v${index}`], [index === length - 1 ? 'y' : `v${index + 1}`], { axes: [1] });
    });
    const main = graph({ name: 'g', nodes, inputs: [value('x', 'FP32', dimsOf(2))], outputs: [value('y', 'FP32', ['N'])] });
    expect(proveRows(model(main, { opset: 11 }))).toEqual({ proved: false, node: 'graph.node[62] (Unsqueeze)' });
    const wide = { inputs: [value('x', 'FP32', dimsOf(65))], outputs: [value('y', 'FP32', dimsOf(65))] };
    expect(proveRows(withParts(wide))).toEqual({ proved: false, node: 'graph.input x' });
  });

  it.each([
    ['Gather', [ofRank(60), { ...CONST, dims: [1, 1, 1, 1, 1, 1] }], { axis: 1 }],
    ['Gather', [{ ...CONST, dims: [1, 1, 1, 1, 1, 1] }, ofRank(60)], { axis: 0 }],
    ['OneHot', [ofRank(64), CONST, CONST], { axis: -1 }],
  ] as const)('is not raised beyond 64 by %s', (operator, inputs, attributes) => {
    const rule = RULES.get(operator);
    expect(rule?.(new Application(node(operator, ['x', 'c'], ['y'], attributes), inputs, 17))).toBeNull();
  });

  it('takes no memory for each node', () => {
    expect(rowsOfRank(64)).toBe(rowsOfRank(64));
    expect(rowsOfRank(65)).toBeNull();
  });
});
