import { commonRows, joinRows, splitRows, type Tensor } from './tensor.ts';

/** The part of a call that decides what it may run with. `rows`: of its inputs. `outputs`: names to compute, null for all. */
export type Joinable = { tenantKey: string; rows: number; inputs: readonly Tensor[]; outputs: readonly string[] | null };

/** Calls of equal keys may run as one; null where a call runs alone, because its inputs have no rows in common. */
export function joinKey({ rows, inputs, outputs }: Omit<Joinable, 'tenantKey'>): string | null {
  if (rows === 0 || commonRows(inputs) !== rows) return null;
  let key = '';
  for (const { name, datatype, shape } of inputs) key += `${JSON.stringify(name)}${datatype}${shape.slice(1).join('x')};`;
  return outputs === null ? key : key + JSON.stringify(outputs);
}

/**
 * One set of inputs with the rows of all calls, in the order of `calls`, and `filler` rows more, which are copies of the first: what it costs or breaks
 * happens anyway. With one call and no filler, its own inputs.
 */
export function joinInputs(calls: readonly Joinable[], filler = 0): readonly Tensor[] {
  const [first] = calls;
  if (first === undefined || (calls.length === 1 && filler === 0)) return first?.inputs ?? [];
  return first.inputs.map((own, input) => {
    const parts = calls.flatMap((call) => call.inputs[input] ?? []);
    return joinRows([...parts, ...new Array<Tensor>(filler).fill(rowOf(own))]);
  });
}

function rowOf(tensor: Tensor): Tensor {
  const [row = tensor] = splitRows(tensor, [1]);
  return row;
}

/**
 * The outputs of each call, in the order of `calls`, without those of the `filler` rows after them; null where an output does not have exactly the rows of the
 * inputs, so that nobody can say which rows are whose.
 */
export function splitOutputs(calls: readonly Joinable[], outputs: readonly Tensor[], filler = 0): Tensor[][] | null {
  if (calls.length === 1 && filler === 0) return [[...outputs]];
  const counts = [...calls.map((call) => call.rows), filler];
  const rows = counts.reduce((sum, count) => sum + count, 0);
  if (outputs.some((output) => output.shape[0] !== rows)) return null;
  const cut = outputs.map((output) => splitRows(output, counts));
  return calls.map((_, call) => cut.flatMap((parts) => parts[call] ?? []));
}
