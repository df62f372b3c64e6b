import { activation } from './activations.ts';
import { conv2d } from './convolution.ts';
import { dense } from './dense.ts';
import { dropout } from './dropout.ts';
import type { Carried, Laid, Layer, LayerSpec, Mask, Mode, Parameter } from './layer.ts';
import { batchNorm } from './normalisation.ts';
import { maxPool2d } from './pooling.ts';
import type { Random } from './random.ts';
import { channelsFirst, flatten } from './shapes.ts';
import { INNER, type Precision, type Tape } from './tape.ts';

/** A sequential net on rows of `dims`; pictures are [height, width] or [height, width, channels]. */
export type NetSpec = { dims: readonly number[]; layers: readonly LayerSpec[]; precision?: Precision };

export type Net = {
  dims: readonly number[];
  precision: Precision;
  layers: readonly Layer[];
  /** What the net ends in. */
  last: LayerSpec['kind'];
  parameters: readonly Parameter[];
  carried: readonly Carried[];
  masks: readonly Mask[];
  /** Dimensions of one row of the output. */
  outputDims: readonly number[];
};

/** Numbers in a net's precision. */
export type Floats = Float32Array | Float64Array;

/** Values of parameters and of what layers carry, by name. */
export type Weights = ReadonlyMap<string, Floats>;

const OF_PICTURES = ['conv2d', 'maxPool2d'];

/**
 * Puts the layers in order, an activation given inside a layer behind it, and pictures in the order that layers want. Errors: RangeError naming the
 * layer that does not fit, as `layers[2]`.
 */
export function createNet({ dims, layers: specs, precision = 'FP32' }: NetSpec): Net {
  const layers: Layer[] = [];
  let rows = dims;
  const first = specs.findIndex(({ kind }) => OF_PICTURES.includes(kind));
  const flat = specs.findIndex(({ kind }) => kind === 'flatten');
  if (first >= 0 && (flat < 0 || flat > first)) {
    if (dims.length !== 2 && dims.length !== 3) throw new RangeError(`layers[${first}]: rows of [${dims.join(', ')}] are no pictures`);
    layers.push(channelsFirst(dims));
    rows = layers[0]?.dims ?? dims;
  }
  for (const [index, spec] of specs.entries()) {
    for (const part of partsOf(spec)) {
      const layer = createLayer(part, rows, index);
      layers.push(layer);
      rows = layer.dims;
    }
  }
  return {
    dims,
    precision,
    layers,
    last: specs.flatMap(partsOf).at(-1)?.kind ?? 'flatten',
    parameters: layers.flatMap((one) => one.parameters),
    carried: layers.flatMap((one) => one.carried),
    masks: layers.flatMap((one) => one.masks),
    outputDims: rows,
  };
}

function partsOf(spec: LayerSpec): LayerSpec[] {
  return 'activation' in spec && spec.activation !== undefined ? [spec, { kind: spec.activation }] : [spec];
}

function createLayer(spec: LayerSpec, dims: readonly number[], index: number): Layer {
  const name = `${INNER}${spec.kind}_${index}`;
  try {
    switch (spec.kind) {
      case 'dense':
        return dense(spec, dims, name);
      case 'conv2d':
        return conv2d(spec, dims, name);
      case 'maxPool2d':
        return maxPool2d(spec, dims);
      case 'batchNorm':
        return batchNorm(spec, dims, name);
      case 'dropout':
        return dropout(spec.rate, dims, name);
      case 'flatten':
        return flatten(dims);
      default:
        return activation(spec.kind, dims);
    }
  } catch (error) {
    if (error instanceof RangeError) throw new RangeError(`layers[${index}]: ${error.message}`);
    throw error;
  }
}

/** What parameters and carried values are before the first step. */
export function startWeights(net: Net, random: Random): Weights {
  const typed = (values: Float64Array) => (net.precision === 'FP32' ? Float32Array.from(values) : values);
  const parameters = net.parameters.map((one): [string, Floats] => [one.name, typed(one.start(random))]);
  const carried = net.carried.map(({ name, dims, start }): [string, Floats] => [name, filled(net, dims, start)]);
  return new Map([...parameters, ...carried]);
}

/** A tensor of one number. */
export function filled(net: Net, dims: readonly number[], value = 0): Floats {
  const size = dims.reduce((product, dim) => product * dim, 1);
  return (net.precision === 'FP32' ? new Float32Array(size) : new Float64Array(size)).fill(value);
}

/** Lays the given layers of a net on the tape behind `input`, first to last. Parameters and carried values are named, not laid. */
export function layForward(layers: readonly Layer[], tape: Tape, input: string, mode: Mode): { output: string; laid: Laid[] } {
  let output = input;
  const laid = layers.map((layer) => {
    const one = layer.forward(tape, output, mode);
    output = one.output;
    return one;
  });
  return { output, laid };
}
