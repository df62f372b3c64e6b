import {
  type AttributeValue,
  type Datatype,
  node,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValue,
  tensor,
  value,
} from '../../inference/onnx/onnx.ts';

/** The type in which a net computes. FP64 is for checking gradients. */
export type Precision = 'FP32' | 'FP64';

/** Begins every name inside a graph, so that none is that of a column. */
export const INNER = '/';

/** The leading dimension of everything that has one row per example. */
export const ROWS = 'N';

/** Collects the nodes of one graph while layers, loss and optimiser are laid down, and which value is whose gradient. */
export class Tape {
  readonly nodes: OnnxNode[] = [];
  readonly constants: OnnxTensor[] = [];
  readonly inputs: OnnxValue[] = [];
  /** Parameter → the value that holds the gradient of the loss with respect to it. */
  readonly gradients = new Map<string, string>();
  /** What a layer carries from step to step → the value that it has after this one. */
  readonly carried = new Map<string, string>();
  readonly precision: Precision;

  constructor(precision: Precision) {
    this.precision = precision;
  }

  /** Adds an operator with one output and gives the output's name, made up unless given. `domain`: '' is ONNX's own. */
  op(opType: string, inputs: readonly string[], attributes: Record<string, AttributeValue> = {}, output?: string, domain?: string): string {
    const name = output ?? `${INNER}${opType.toLowerCase()}_${this.nodes.length}`;
    this.nodes.push(node(opType, inputs, [name], attributes, domain === undefined ? {} : { domain }));
    return name;
  }

  /** The value itself under a name of the caller's choice, such as an output's. */
  name(from: string, to: string): string {
    return this.op('Identity', [from], {}, to);
  }

  /** A graph input. */
  feed(name: string, datatype: Datatype, dims: readonly (number | string)[]): string {
    this.inputs.push(value(name, datatype, dims));
    return name;
  }

  /** A constant in the net's precision; a single number without dimensions is a scalar. */
  constant(values: readonly number[], dims: readonly number[] = []): string {
    const data = this.precision === 'FP32' ? Float32Array.from(values) : Float64Array.from(values);
    return this.keep(tensor(`${INNER}constant_${this.constants.length}`, this.precision, dims, data));
  }

  /** A constant of whole numbers, such as axes and shapes. */
  integers(values: readonly number[], dims: readonly number[] = [values.length]): string {
    return this.keep(tensor(`${INNER}constant_${this.constants.length}`, 'INT64', dims, BigInt64Array.from(values, BigInt)));
  }

  keep(constant: OnnxTensor): string {
    this.constants.push(constant);
    return constant.name ?? '';
  }
}
