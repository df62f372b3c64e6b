import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { InferenceSession } from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { checkModel } from '../../src/inference/onnx/onnx.ts';
import { openSession, Tensor } from '../../src/training/net/net.ts';
import { compareModels, type OptimisationKind, optimiseModel, randomFeeds } from '../../src/training/optimise/optimise.ts';

const given = process.env.MERCATO_TEST_DATA;
const folder = given ?? '../shared/data';
const digits = readFileSync('models/digits/model.onnx');
const [IMAGE_HEAD, LABEL_HEAD] = [16, 8];

function unpacked(name: string, head: number): Uint8Array {
  return gunzipSync(readFileSync(join(folder, 'mnist', name))).subarray(head);
}

const picturesOf = (images: Uint8Array) => (from: number, to: number) => ({
  image: new Tensor('uint8', images.slice(from * 784, to * 784), [to - from, 28, 28]),
});

/** Right answers of 10,000. */
async function right(bytes: Uint8Array, images: Uint8Array, labels: Uint8Array): Promise<number> {
  const session = await openSession(bytes);
  let count = 0;
  for (let from = 0; from < labels.length; from += 500) {
    const { label } = await session.run(picturesOf(images)(from, from + 500), ['label']);
    for (const [at, answer] of ((label?.data ?? []) as BigInt64Array).entries()) if (Number(answer) === labels[from + at]) count++;
  }
  await session.release();
  return count;
}

describe.skipIf(given === undefined && !existsSync(folder))('on data of others', () => {
  it.each<[OptimisationKind, number]>([
    ['GRAPH', 1.01],
    ['DYNAMIC_INT8', 0.3],
    ['STATIC_INT8', 0.3],
    ['FP16', 0.51],
  ])('%s of the digits keeps within 0.5 points on the test images, in %d of the size', async (kind, share) => {
    const [images, labels] = [unpacked('t10k-images-idx3-ubyte.gz', IMAGE_HEAD), unpacked('t10k-labels-idx1-ubyte.gz', LABEL_HEAD)];
    const calibration = { rows: 512, feeds: picturesOf(unpacked('train-images-idx3-ubyte.gz', IMAGE_HEAD)) };
    const { bytes } = await optimiseModel(digits, kind, { calibration });
    expect(bytes.length).toBeLessThanOrEqual(share * digits.length);
    expect(await right(digits, images, labels)).toBeGreaterThan(9_400);
    expect(await right(bytes, images, labels)).toBeGreaterThanOrEqual((await right(digits, images, labels)) - 50);
  });

  it.each(['squeezenet', 'densenet121'])('%s is quantised after GRAPH has stored its weights, and runs', async (name) => {
    const source = readFileSync(join(folder, 'onnx', `light_${name}.onnx`));
    await expect(optimiseModel(source, 'STATIC_INT8', { calibration: randomFeeds(source) })).rejects.toMatchObject({
      code: 'BAD_USER_INPUT',
      data: { expected: expect.stringMatching(/GRAPH/) },
    });
    const stored = (await optimiseModel(source, 'GRAPH')).bytes;
    const { bytes } = await optimiseModel(stored, 'STATIC_INT8', { calibration: randomFeeds(source) });
    expect(bytes.length).toBeLessThan(0.4 * stored.length);
    const { difference } = await compareModels(stored, bytes, { ...randomFeeds(source), batches: [] });
    expect(difference[0]?.worst).toBeLessThan(0.01);
    const session = await InferenceSession.create(bytes);
    await session.release();
    expect(checkModel(bytes).inputs).toEqual(checkModel(source).inputs);
  });
});
