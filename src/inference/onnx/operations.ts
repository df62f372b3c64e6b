import { integers, text } from './attributes.ts';
import { type Dims, type Info, product } from './dims.ts';
import type { NodeView } from './shapes.ts';

type Count = (view: NodeView, results: readonly number[]) => number | null;

const words = (names: string): string[] => names.trim().split(/\s+/);
/** They move elements and compute nothing. */
const MOVING: ReadonlySet<string> = new Set(
  words(`
    Cast Concat Constant ConstantOfShape Dropout Expand Flatten Gather GatherElements GatherND Identity OneHot Pad Reshape Shape Size Slice Split
    Squeeze Tile Transpose Unsqueeze DepthToSpace SpaceToDepth`),
);
/** They read each element of the first input once. */
const READING: ReadonlySet<string> = new Set(
  words(`
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare ArgMax ArgMin TopK
    GlobalAveragePool GlobalMaxPool GlobalLpPool DynamicQuantizeLinear`),
);

const COUNTS: Record<string, Count> = {
  ...Object.fromEntries(words('MatMul MatMulInteger Gemm').map((name) => [name, summedOver(0)] as const)),
  QLinearMatMul: summedOver(0),
  'com.microsoft.FusedGemm': summedOver(0),
  'com.microsoft.QGemm': summedOver(0),
  'com.microsoft.MatMulNBits': summedOver(0),
  ...Object.fromEntries(words('Conv ConvInteger com.microsoft.FusedConv').map((name) => [name, convolution(1)] as const)),
  QLinearConv: convolution(3),
  ConvTranspose: ({ inputs: [data, weights] }) => twice(elements(data?.dims), product(weights?.dims?.slice(1) ?? [null])),
  ...Object.fromEntries(words('MaxPool AveragePool LpPool').map((name) => [name, pool] as const)),
  Einsum: einsum,
  ...Object.fromEntries(words('RNN GRU LSTM com.microsoft.DynamicQuantizeLSTM').map((name) => [name, recurrence] as const)),
};

/** Additions, multiplications and other steps of one node; null where a shape is not known, or what a subgraph or function does. */
export function operationsOf(view: NodeView, results: readonly (Info | undefined)[]): number | null {
  if (MOVING.has(view.name)) return 0;
  const counts = results.map((one) => elements(one?.dims));
  if (counts.some((count) => count === null)) return null;
  const known = counts.filter((count) => count !== null);
  const count = COUNTS[view.name];
  if (count !== undefined) return count(view, known);
  return READING.has(view.name) ? elements(view.inputs[0]?.dims) : (known[0] ?? 0);
}

function elements(dims: Dims | null | undefined): number | null {
  return product(dims ?? [null]);
}

function twice(a: number | null, b: number | null): number | null {
  return a === null || b === null ? null : 2 * a * b;
}

/** A product sums along the last axis of its left side; Gemm's may be turned, where the first is the last. */
function summedOver(left: number): Count {
  return ({ node, inputs }, [result = 0]) => {
    const dims = inputs[left]?.dims ?? null;
    const turned = node.attribute.some(({ name, i }) => name === 'transA' && i === 1n);
    const along = dims?.at(turned ? 0 : -1) ?? null;
    return typeof along === 'number' ? twice(result, along) : null;
  };
}

function convolution(weights: number): Count {
  return ({ inputs }, [result = 0]) => twice(result, product(inputs[weights]?.dims?.slice(1) ?? [null]));
}

function pool({ node }: NodeView, [result = 0]: readonly number[]): number | null {
  const window = product(integers(node, 'kernel_shape') ?? [null]);
  return window === null ? null : result * window;
}

/** Each step of each row meets all weights: those of its input and those of the state. */
function recurrence({ inputs: [data, input, state] }: NodeView): number | null {
  const steps = product(data?.dims?.slice(0, 2) ?? [null]);
  const [ofInput, ofState] = [elements(input?.dims), elements(state?.dims)];
  return ofInput === null || ofState === null ? null : twice(steps, ofInput + ofState);
}

/** Every letter is a loop. */
function einsum({ node, inputs }: NodeView): number | null {
  const sizes = new Map<string, number>();
  const terms = (text(node, 'equation', '').replaceAll(/\s/g, '').split('->')[0] ?? '').split(',');
  for (const [index, term] of terms.entries()) {
    for (const [axis, letter] of [...term].entries()) {
      const dim = inputs[index]?.dims?.[axis];
      if (typeof dim !== 'number') return null;
      sizes.set(letter, Math.max(dim, sizes.get(letter) ?? 1));
    }
  }
  return 2 * [...sizes.values()].reduce((whole, size) => whole * size, 1);
}
