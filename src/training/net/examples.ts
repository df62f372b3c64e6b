/** What is to be learnt: a class of each row, as an index into `classes`; or numbers, rows × names, in the user's units. */
export type Targets =
  | { kind: 'CLASSES'; values: Int32Array; classes: readonly string[] }
  | { kind: 'NUMBERS'; values: Float64Array; names: readonly string[] };

/** Rows as a net takes them: features row by row, rows × dims. */
export type Examples = { rows: number; dims: readonly number[]; values: Float32Array; targets: Targets };

/** Numbers as they are learnt: (y − mean) / deviation, by target, measured on the training rows. */
export type Scaling = { mean: readonly number[]; deviation: readonly number[] };

/** The rows that `rows` names, in their order. */
export function pickTargets(targets: Targets, rows: Uint32Array): Targets {
  if (targets.kind === 'CLASSES') return { ...targets, values: Int32Array.from(rows, (row) => targets.values[row] ?? 0) };
  const width = targets.names.length;
  const values = new Float64Array(rows.length * width);
  for (const [to, from] of rows.entries()) values.set(targets.values.subarray(from * width, (from + 1) * width), to * width);
  return { ...targets, values };
}

/** Null for classes. A target that does not vary is left in its units around its mean. */
export function scalingOf(targets: Targets): Scaling | null {
  if (targets.kind === 'CLASSES') return null;
  const { names, values } = targets;
  const rows = values.length / names.length;
  const mean = names.map((_, index) => total(values, names.length, index, (one) => one) / rows);
  const deviation = names.map((_, index) => {
    const variance = total(values, names.length, index, (one) => (one - (mean[index] ?? 0)) ** 2) / rows;
    return variance > 0 ? Math.sqrt(variance) : 1;
  });
  return { mean, deviation };
}

function total(values: Float64Array, width: number, column: number, of: (value: number) => number): number {
  let sum = 0;
  for (let at = column; at < values.length; at += width) sum += of(values[at] ?? 0);
  return sum;
}
