import { graph, model, value } from '../../inference/onnx/onnx.ts';
import { type Feeds, openSession, ROWS, sizeOf, Tape, Tensor } from '../net/net.ts';
import { type Column, columnOf, type Table } from './columns.ts';
import { frontOf } from './front.ts';
import type { Preprocessing } from './preprocessing.ts';

const OUTPUT = '/features';
const ROWS_PER_RUN = 1_000;

/** The rows as a net takes them, made by the very graph that the exported model begins with. */
export async function featuresOf(
  preprocessing: Preprocessing,
  table: Table,
  rows: Uint32Array,
): Promise<{ dims: readonly number[]; values: Float32Array }> {
  const tape = new Tape('FP32');
  tape.name(frontOf(preprocessing).lay(tape), OUTPUT);
  const outputs = [value(OUTPUT, 'FP32', [ROWS, ...preprocessing.dims])];
  const session = await openSession(
    model(graph({ name: 'features', nodes: tape.nodes, inputs: tape.inputs, outputs, initializers: tape.constants })),
  );
  try {
    const size = sizeOf(preprocessing.dims);
    const values = new Float32Array(rows.length * size);
    const names = preprocessing.features.map(({ name }) => name);
    const feeds = feedsOf(names, table, rows);
    for (let from = 0; from < rows.length; from += ROWS_PER_RUN) {
      const result = await session.run(feeds(from, Math.min(from + ROWS_PER_RUN, rows.length)));
      values.set(result[OUTPUT]?.data as Float32Array, from * size);
    }
    return { dims: preprocessing.dims, values };
  } finally {
    await session.release();
  }
}

/** The raw inputs of rows, as a caller of the model sends them: of the rows in the places from `from` up to but not `to`. */
export function feedsOf(names: readonly string[], table: Table, rows: Uint32Array): Feeds {
  const columns = names.map((name) => columnOf(table, name));
  return (from, to) => {
    const chosen = rows.subarray(from, to);
    return Object.fromEntries(columns.map((column) => [column.name, tensorOf(column, table.rows, chosen)]));
  };
}

function tensorOf(column: Column, rows: number, chosen: Uint32Array): Tensor {
  if (column.kind === 'CATEGORY') {
    const texts = Array.from(chosen, (row) => column.categories[column.values[row] ?? -1] ?? '');
    return new Tensor('string', texts, [chosen.length]);
  }
  const { values, datatype, dims } = column;
  const size = values.length / rows;
  const shape = [chosen.length, ...dims];
  const at = (index: number) => values[(chosen[Math.floor(index / size)] ?? 0) * size + (index % size)] ?? Number.NaN;
  const length = chosen.length * size;
  switch (datatype) {
    case 'UINT8':
      return new Tensor(
        'uint8',
        Uint8Array.from({ length }, (_, index) => at(index)),
        shape,
      );
    case 'INT64':
      return new Tensor(
        'int64',
        BigInt64Array.from({ length }, (_, index) => BigInt(Math.trunc(at(index)))),
        shape,
      );
    case 'FP32':
      return new Tensor(
        'float32',
        Float32Array.from({ length }, (_, index) => at(index)),
        shape,
      );
    case 'FP64':
      return new Tensor(
        'float64',
        Float64Array.from({ length }, (_, index) => at(index)),
        shape,
      );
  }
}
