import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inParallel } from '../support/client.ts';
import { openCases } from './cases.ts';
import { openDoor } from './door.ts';
import { type Judged, judge } from './judge.ts';

const data = process.env.MERCATO_TEST_DATA ?? new URL('../../../shared/data', import.meta.url).pathname;
const ARCHIVE = join(data, 'onnx/onnx-backend-cases-v1.22.0.tar.gz');
/** Of many kinds; the whole is `npm run conformance`. */
const NAMES = [
  ...['add', 'cast_FLOAT16_to_DOUBLE', 'constantofshape_int_zeros', 'conv_with_strides_padding', 'dynamicquantizelinear', 'equal_string'],
  ...[
    'gru_defaults',
    'if',
    'loop11',
    'matmul_3d',
    'nonzero_example',
    'scan9_sum',
    'softmax_axis_0',
    'tfidfvectorizer_tf_only_bigrams_skip0',
  ],
].map((name) => `node/test_${name}`);

test.skipIf(!existsSync(ARCHIVE))("ONNX's own cases come out of upload and predict as ONNX says", { timeout: 120_000 }, async () => {
  await using cases = await openCases(ARCHIVE);
  await using door = await openDoor();
  const judged: Judged[] = [];
  await inParallel(NAMES.length, 4, async (i) => void judged.push(await judge(door, await cases.read(NAMES[i] ?? ''))));
  expect(judged.filter(({ verdict }) => verdict !== 'RIGHT')).toEqual([]);
});
