import { integer } from './attributes.ts';
import { type Dim, type Dims, type Info, product } from './dims.ts';
import { FEW } from './elements.ts';
import type { NodeView } from './shapes.ts';

type Rule = (view: NodeView, given: readonly (Dims | null)[]) => Dims | null;

/** How lists of sizes are cut, joined and computed with, as exporters write the shape of a Reshape. */
const RULES: Record<string, Rule> = {
  Shape: ({ node, inputs }) => {
    const dims = inputs[0]?.dims ?? null;
    const end = integer(node, 'end', dims?.length ?? 0);
    return dims?.slice(integer(node, 'start', 0), end) ?? null;
  },
  Size: ({ inputs }) => {
    const count = product(inputs[0]?.dims ?? [null]);
    return count === null ? null : [count];
  },
  Identity: (_, [given = null]) => given,
  Cast: ({ node }, [given = null]) => ([6, 7].includes(integer(node, 'to', 0)) && given?.every(isSmall) ? given : null),
  Squeeze: (_, [given = null]) => (given?.length === 1 ? given : null),
  Unsqueeze: ({ inputs }, [given = null]) => (inputs[0]?.dims?.length === 0 ? given : null),
  Reshape: (_, [given = null, shape = null]) => (shape?.length === 1 ? given : null),
  Concat: ({ inputs }, given) => (inputs.every((one) => one?.dims?.length === 1) ? joined(given) : null),
  Gather: ({ node, inputs }, [given = null, indices = null]) => {
    if (given === null || indices === null || inputs[0]?.dims?.length !== 1 || ![0, -1].includes(integer(node, 'axis', 0))) return null;
    const picked = indices.map((index) => (typeof index === 'number' ? given.at(index) : undefined));
    return picked.every((one) => one !== undefined) ? picked : null;
  },
  Slice: ({ inputs }, [given = null, starts = null, ends = null, axes = [0], steps = [1]]) => {
    const [start, end] = [starts?.[0] ?? null, ends?.[0] ?? null];
    const plain = axes?.length === 1 && (axes[0] === 0 || axes[0] === -1) && steps?.[0] === 1;
    if (given === null || inputs[0]?.dims?.length !== 1 || !plain || typeof start !== 'number' || typeof end !== 'number') return null;
    return given.slice(start, end);
  },
  Add: arithmetic((a, b) => a + b),
  Sub: arithmetic((a, b) => a - b),
  Mul: arithmetic((a, b) => a * b),
  Div: arithmetic((a, b) => (b === 0 ? null : Math.trunc(a / b))),
};

/** The elements of a node's first result where they are sizes that can be computed, else null. A list made of data has none. */
export function sizesOf(view: NodeView): Dims | null {
  const rule = RULES[view.name];
  if (rule === undefined || (view.opset < 10 && view.name === 'Slice')) return null;
  const result = rule(view, view.inputs.map(whole));
  return result !== null && result.length <= FEW ? result : null;
}

/** Elements of an integer list; the type keeps fractions out of the arithmetic. */
function whole(one: Info | null): Dims | null {
  return one !== null && (one.elemType === 6 || one.elemType === 7) ? one.numbers : null;
}

function joined(given: readonly (Dims | null)[]): Dims | null {
  const length = given.reduce((sum, one) => sum + (one?.length ?? 0), 0);
  return length <= FEW && given.every((one) => one !== null) ? given.flat() : null;
}

/** Within 32 bits, where no type cuts it. */
function isSmall(one: Dim): boolean {
  return typeof one !== 'number' || Math.abs(one) < 2 ** 31;
}

/** Elementwise on plain numbers; a result that any other size takes part in is no size that can be followed. */
function arithmetic(compute: (a: number, b: number) => number | null): Rule {
  return ({ inputs }, [a = null, b = null]) => {
    if (a === null || b === null || inputs.some((one) => (one?.dims?.length ?? 2) > 1)) return null;
    if (a.length !== b.length && a.length !== 1 && b.length !== 1) return null;
    const results = Array.from({ length: a.length === 1 ? b.length : a.length }, (_, index): Dim | undefined => {
      const [x, y] = [a[a.length === 1 ? 0 : index], b[b.length === 1 ? 0 : index]];
      return typeof x === 'number' && typeof y === 'number' ? (compute(x, y) ?? undefined) : undefined;
    });
    return results.every((one) => one !== undefined && isSmall(one)) ? (results as Dims) : null;
  };
}
