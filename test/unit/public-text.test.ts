import { expect, test } from 'vitest';
import { publicText } from '../../src/inference/public-text.ts';

test.each([
  [
    '/onnxruntime_src/onnxruntime/core/graph/model.cc:182 onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::PathString&, const onnxruntime::ModelOptions&) Unsupported model IR version: 99, max supported IR version: 13',
    'Unsupported model IR version: 99, max supported IR version: 13',
  ],
  [
    'Node (a::b) Op (MatMul) [ShapeInferenceError] Incompatible dimensions',
    'Node (a::b) Op (MatMul) [ShapeInferenceError] Incompatible dimensions',
  ],
  ['one\n\ttwo\0 three', 'one two three'],
  [`${'x'.repeat(400)}`, `${'x'.repeat(299)}…`],
])('of %s a caller is told %s', (message, text) => {
  expect(publicText(message)).toBe(text);
});

test('a long text without an end of what is looked for takes no long time', () => {
  const message = 'a::'.repeat(100_000);
  expect(publicText(message)).toHaveLength(300);
});
