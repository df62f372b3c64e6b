import type { Examples, Scaling } from './examples.ts';
import { FEATURES } from './gradient.ts';
import { sizeOf } from './layer.ts';
import { TARGETS } from './losses.ts';
import type { Random } from './random.ts';
import type { Floats, Net } from './sequential.ts';
import { filled } from './sequential.ts';
import { floats, Tensor } from './session.ts';

/** Errors: RangeError where the rows' dimensions are not the net's, then where the targets do not fit its output. */
export function checkExamples(net: Net, { dims, targets }: Examples): void {
  if (dims.join() !== net.dims.join()) throw new RangeError(`rows of [${dims.join(', ')}] do not fit a net of [${net.dims.join(', ')}]`);
  const units = sizeOf(net.outputDims);
  const names = targets.kind === 'NUMBERS' ? targets.names.length : targets.classes.length;
  const wanted = targets.kind === 'CLASSES' && net.last === 'sigmoid' ? 2 : units;
  if (names !== wanted) {
    const what = targets.kind === 'NUMBERS' ? 'targets' : 'classes';
    throw new RangeError(`layers: the last layer has ${units} ${units === 1 ? 'unit' : 'units'} for ${names} ${what}`);
  }
}

/** Features and targets of the rows that `order` names, as the step and the loss take them. */
export function batchOf(net: Net, examples: Examples, scaling: Scaling | null, order: Uint32Array): Record<string, Tensor> {
  const size = sizeOf(examples.dims);
  const values = filled(net, [order.length, size]);
  for (const [to, from] of order.entries()) values.set(examples.values.subarray(from * size, (from + 1) * size), to * size);
  return { [FEATURES]: floats(values, [order.length, ...net.dims]), [TARGETS]: targetsOf(net, examples, scaling, order) };
}

function targetsOf(net: Net, { targets }: Examples, scaling: Scaling | null, order: Uint32Array): Tensor {
  if (targets.kind === 'CLASSES') {
    const classes = BigInt64Array.from(order, (row) => BigInt(targets.values[row] ?? 0));
    return new Tensor('int64', classes, [order.length]);
  }
  const width = targets.names.length;
  const values = filled(net, [order.length, width]);
  for (let at = 0; at < values.length; at++) {
    const column = at % width;
    const raw = targets.values[(order[Math.floor(at / width)] ?? 0) * width + column] ?? 0;
    values[at] = (raw - (scaling?.mean[column] ?? 0)) / (scaling?.deviation[column] ?? 1);
  }
  return floats(values, [order.length, width]);
}

/** Fresh masks for a batch. */
export function masksOf(net: Net, rows: number, random: Random): Record<string, Tensor> {
  const all: Record<string, Tensor> = {};
  for (const { name, dims, rate } of net.masks) {
    const mask: Floats = filled(net, [rows, ...dims]);
    const kept = 1 / (1 - rate);
    for (let index = 0; index < mask.length; index++) mask[index] = random.uniform() < rate ? 0 : kept;
    all[name] = floats(mask, [rows, ...dims]);
  }
  return all;
}
