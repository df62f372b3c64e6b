import type { OnnxModel } from '../../src/inference/onnx/onnx.ts';
import { FEATURES } from '../../src/training/net/gradient.ts';
import { LOSS, type LossKind, TARGETS } from '../../src/training/net/losses.ts';
import type { Net } from '../../src/training/net/net.ts';
import { createRandom } from '../../src/training/net/random.ts';
import { filled, startWeights } from '../../src/training/net/sequential.ts';
import { floats, openSession, Tensor } from '../../src/training/net/session.ts';

export const ROWS = 5;

/** Random inputs of a gradient or step graph in double precision: features, targets, masks, parameters, and what layers carry. */
export function feedsOf(net: Net, loss: LossKind): Record<string, Tensor> {
  const random = createRandom(11);
  const uniform = (dims: readonly number[]) => filled(net, dims).map(() => 2 * random.uniform() - 1);
  const feeds: Record<string, Tensor> = { [FEATURES]: floats(uniform([ROWS, ...net.dims]), [ROWS, ...net.dims]) };
  const units = net.outputDims[0] ?? 1;
  feeds[TARGETS] =
    loss === 'MEAN_SQUARED_ERROR'
      ? floats(uniform([ROWS, units]), [ROWS, units])
      : new Tensor(
          'int64',
          BigInt64Array.from({ length: ROWS }, () => BigInt(random.below(Math.max(2, units)))),
          [ROWS],
        );
  for (const { name, dims, rate } of net.masks) {
    const mask = uniform([ROWS, ...dims]).map((one) => ((one + 1) / 2 < rate ? 0 : 1 / (1 - rate)));
    feeds[name] = floats(mask, [ROWS, ...dims]);
  }
  const weights = startWeights(net, createRandom(12));
  for (const { name, dims } of [...net.parameters, ...net.carried]) {
    feeds[name] = floats(
      (weights.get(name) as Float64Array).map((one) => one + 0.1 * random.uniform()),
      dims,
    );
  }
  return feeds;
}

/**
 * How numbers are checked: ONNX Runtime convolves in single precision alone, where differences have to be coarser. A right gradient is below `right`,
 * one that lacks a term above `wrong`.
 */
export const CHECKS = {
  FP64: { h: 1e-5, floor: 1e-6, right: 1e-4, wrong: 1e-3 },
  FP32: { h: 4e-3, floor: 2e-2, right: 1e-2, wrong: 5e-2 },
} as const;

/** The largest |analytic − numeric| / (|analytic| + |numeric| + floor) over all parameters; numeric: (L(θ + h) − L(θ − h)) / 2h. */
export async function worstGradientError(net: Net, loss: LossKind, model: OnnxModel): Promise<number> {
  const session = await openSession(model);
  const given = feedsOf(net, loss);
  const lossOf = async () => Number((await session.run(given, [LOSS]))[LOSS]?.data[0]);
  const analytic = await session.run(given);
  const { h, floor } = CHECKS[net.precision];
  let worst = 0;
  for (const { name } of net.parameters) {
    const theta = given[name]?.data as Float64Array;
    for (const [index, start] of theta.entries()) {
      theta[index] = start + h;
      const [above, high] = [await lossOf(), theta[index] ?? 0];
      theta[index] = start - h;
      const [below, low] = [await lossOf(), theta[index] ?? 0];
      theta[index] = start;
      const numeric = (above - below) / (high - low);
      const exact = Number(analytic[`${name}.gradient`]?.data[index]);
      worst = Math.max(worst, Math.abs(exact - numeric) / (Math.abs(exact) + Math.abs(numeric) + floor));
    }
  }
  await session.release();
  return worst;
}
