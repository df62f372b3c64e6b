import type { InferenceSession } from 'onnxruntime-node';

/** Absolute, over all elements of an output of fractions; the largest number where one side alone is no finite number. */
export type Difference = { output: string; worst: number; mean: number };

/** The share of equal elements of an output of whole numbers, texts or truths. */
export type Agreement = { output: string; share: number };

type Values = InferenceSession.OnnxValueMapType;
type Sum = { fractions: boolean; worst: number; total: number; equal: number; elements: number };

/** Gathers over runs how far two models' outputs are apart. */
export class Differences {
  readonly #sums = new Map<string, Sum>();

  constructor(outputs: readonly string[]) {
    for (const name of outputs) this.#sums.set(name, { fractions: false, worst: 0, total: 0, equal: 0, elements: 0 });
  }

  add(source: Values, optimised: Values): void {
    for (const [name, sum] of this.#sums) {
      const [a, b] = [source[name], optimised[name]];
      if (a === undefined || b === undefined) continue;
      sum.fractions = a.type.startsWith('float');
      const [x, y] = [elementsOf(a), elementsOf(b)];
      for (let at = 0; at < Math.max(x.length, y.length); at++) count(sum, x[at], y[at]);
    }
  }

  worst(): Difference[] {
    const found = [...this.#sums].filter(([, { fractions }]) => fractions);
    return found.map(([output, { worst, total, elements }]) => ({ output, worst, mean: finite(total / Math.max(1, elements)) }));
  }

  agreement(): Agreement[] {
    const found = [...this.#sums].filter(([, { fractions }]) => !fractions);
    return found.map(([output, { equal, elements }]) => ({ output, share: elements === 0 ? 1 : equal / elements }));
  }
}

type Element = number | bigint | string | undefined;

function count(sum: Sum, a: Element, b: Element): void {
  sum.elements++;
  if (Object.is(a, b)) sum.equal++;
  else if (sum.fractions) {
    const apart = finite(Math.abs(Number(a) - Number(b)));
    sum.worst = Math.max(sum.worst, apart);
    sum.total += apart;
  }
}

/** FP16 comes as its bits where the runtime knows no better. */
function elementsOf({ type, data }: Values[string]): ArrayLike<number | bigint | string> {
  return type === 'float16' && data instanceof Uint16Array ? new Float16Array(data.slice().buffer) : data;
}

function finite(value: number): number {
  return Number.isFinite(value) ? value : Number.MAX_VALUE;
}
