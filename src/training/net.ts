import { DATATYPES, type Datatype } from '../inference/onnx/onnx.ts';
import { createLayer, type Laid, type Layer, type LayerSpec, type Mask, type Parameter } from './layers.ts';
import type { Random } from './random.ts';
import { type Precision, ROWS, type Tape } from './tape.ts';

/** A sequential net. `input.dims` are those of one row; it is fed as it comes and cast to `precision` inside the graph. */
export type NetSpec = {
  input: { name: string; datatype: Datatype; dims: readonly number[] };
  layers: readonly LayerSpec[];
  precision?: Precision;
};

export type Net = {
  spec: NetSpec;
  precision: Precision;
  layers: readonly Layer[];
  parameters: readonly Parameter[];
  masks: readonly Mask[];
  /** Dimensions of one row of the output. */
  outputDims: readonly number[];
};

/** Values of the parameters by name, in the net's precision. */
export type Weights = ReadonlyMap<string, Float32Array | Float64Array>;

/** Puts the layers in order, an activation given inside a dense layer behind it. Errors: RangeError where a layer does not fit. */
export function createNet(spec: NetSpec): Net {
  const layers: Layer[] = [];
  let dims = spec.input.dims;
  for (const [index, one] of spec.layers.entries()) {
    const parts: LayerSpec[] = one.kind === 'dense' && one.activation !== undefined ? [one, { kind: one.activation }] : [one];
    for (const part of parts) {
      const layer = createLayer(part, dims, `${part.kind}_${index}`);
      layers.push(layer);
      dims = layer.dims;
    }
  }
  return {
    spec,
    precision: spec.precision ?? 'FP32',
    layers,
    parameters: layers.flatMap((one) => one.parameters),
    masks: layers.flatMap((one) => one.masks),
    outputDims: dims,
  };
}

/** The weights before the first step. */
export function startWeights(net: Net, random: Random): Weights {
  const typed = (values: Float64Array) => (net.precision === 'FP32' ? Float32Array.from(values) : values);
  return new Map(net.parameters.map((one) => [one.name, typed(one.start(random))]));
}

/** Lays the net's input and the given layers on the tape, first to last. */
export function layForward(net: Net, layers: readonly Layer[], tape: Tape, mode: 'train' | 'infer'): { output: string; laid: Laid[] } {
  const { name, datatype, dims } = net.spec.input;
  tape.feed(name, datatype, [ROWS, ...dims]);
  let output = datatype === net.precision ? name : tape.op('Cast', [name], { to: DATATYPES[net.precision] });
  const laid = layers.map((layer) => {
    const one = layer.forward(tape, output, mode);
    output = one.output;
    return one;
  });
  return { output, laid };
}
