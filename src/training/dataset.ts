/** Rows of bytes, such as images, each with a class. `values` holds rows × size of one row, row by row. */
export type Dataset = { rows: number; dims: readonly number[]; values: Uint8Array; labels: Uint8Array };

/** The rows that `order` names, copied side by side. */
export function gather({ dims, values, labels }: Dataset, order: Uint32Array): { values: Uint8Array; labels: BigInt64Array } {
  const size = sizeOf(dims);
  const batch = { values: new Uint8Array(order.length * size), labels: new BigInt64Array(order.length) };
  for (const [to, from] of order.entries()) {
    batch.values.set(values.subarray(from * size, (from + 1) * size), to * size);
    batch.labels[to] = BigInt(labels[from] ?? 0);
  }
  return batch;
}

/** Elements of one row. */
export function sizeOf(dims: readonly number[]): number {
  return dims.reduce((product, dim) => product * dim, 1);
}
