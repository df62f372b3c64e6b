import { encodeModel, graph, model, node, type OnnxNode, type OnnxTensor, tensor, value } from '../../src/inference/onnx/onnx.ts';

const ROWS = 'N';

/** Nodes and weights of a net while it is laid down; weights are random, uniform, and of a size that keeps values in range. */
class Weave {
  readonly nodes: OnnxNode[] = [];
  readonly weights: OnnxTensor[] = [];
  #state = 1;

  op(opType: string, inputs: readonly string[], attributes: Parameters<typeof node>[3] = {}): string {
    const name = `${opType.toLowerCase()}_${this.nodes.length}`;
    this.nodes.push(node(opType, inputs, [name], attributes));
    return name;
  }

  weight(dims: readonly number[], fanIn: number): string {
    const size = dims.reduce((product, dim) => product * dim, 1);
    const limit = Math.sqrt(3 / fanIn);
    const values = new Float32Array(size);
    for (let index = 0; index < size; index++) values[index] = (this.#next() * 2 - 1) * limit;
    return this.keep(tensor(`weight_${this.weights.length}`, 'FP32', dims, values));
  }

  keep(constant: OnnxTensor): string {
    this.weights.push(constant);
    return constant.name ?? '';
  }

  dense(input: string, inputs: number, units: number, relu: boolean): string {
    const sum = this.op('Gemm', [input, this.weight([inputs, units], inputs), this.weight([units], units)]);
    return relu ? this.op('Relu', [sum]) : sum;
  }

  conv(input: string, [from, to, kernel, stride]: readonly [number, number, number, number], relu: boolean): string {
    const pad = Math.floor(kernel / 2);
    const attributes = { kernel_shape: [kernel, kernel], strides: [stride, stride], pads: [pad, pad, pad, pad] };
    const out = this.op(
      'Conv',
      [input, this.weight([to, from, kernel, kernel], from * kernel * kernel), this.weight([to], to)],
      attributes,
    );
    return relu ? this.op('Relu', [out]) : out;
  }

  /** xorshift32: the nets are the same in every run. */
  #next(): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) / 2 ** 32;
  }
}

/** P4's net: UINT8 [N, 784] through layers of these widths to `scores` FP32 [N, last]. */
export function denseNet(widths: readonly number[]): Uint8Array {
  const weave = new Weave();
  let output = weave.op('Cast', ['image'], { to: 1 });
  output = weave.op('Mul', [output, weave.keep(tensor('scale', 'FP32', [], Float32Array.of(1 / 255)))]);
  for (let layer = 1; layer < widths.length; layer++) {
    output = weave.dense(output, widths[layer - 1] ?? 0, widths[layer] ?? 0, layer < widths.length - 1);
  }
  return finish(weave, value('image', 'UINT8', [ROWS, widths[0] ?? 0]), output, widths.at(-1) ?? 0);
}

/**
 * ResNet-50's shape (He et al. 2015, stride in the 3 × 3 convolution, batch normalisation folded into the convolutions): `image` FP32
 * [N, 3, 224, 224] to `scores` FP32 [N, 1000]; 25.5 million random weights.
 */
export function resNet50(): Uint8Array {
  const weave = new Weave();
  let output = weave.conv('image', [3, 64, 7, 2], true);
  output = weave.op('MaxPool', [output], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] });
  let channels = 64;
  [3, 4, 6, 3].forEach((blocks, stage) => {
    const inner = 64 * 2 ** stage;
    for (let block = 0; block < blocks; block++) {
      output = bottleneck(weave, output, channels, inner, block === 0 && stage > 0 ? 2 : 1);
      channels = 4 * inner;
    }
  });
  output = weave.op('Flatten', [weave.op('GlobalAveragePool', [output])], { axis: 1 });
  return finish(weave, value('image', 'FP32', [ROWS, 3, 224, 224]), weave.dense(output, channels, 1000, false), 1000);
}

function bottleneck(weave: Weave, input: string, channels: number, inner: number, stride: number): string {
  const narrow = weave.conv(input, [channels, inner, 1, 1], true);
  const middle = weave.conv(narrow, [inner, inner, 3, stride], true);
  const wide = weave.conv(middle, [inner, 4 * inner, 1, 1], false);
  const straight = channels === 4 * inner ? input : weave.conv(input, [channels, 4 * inner, 1, stride], false);
  return weave.op('Relu', [weave.op('Add', [wide, straight])]);
}

function finish(weave: Weave, input: ReturnType<typeof value>, output: string, units: number): Uint8Array {
  const nodes = [...weave.nodes, node('Identity', [output], ['scores'])];
  const outputs = [value('scores', 'FP32', [ROWS, units])];
  return encodeModel(model(graph({ name: 'bench', nodes, inputs: [input], outputs, initializers: weave.weights })));
}
