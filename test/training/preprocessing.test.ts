import { describe, expect, it, onTestFinished } from 'vitest';
import { checkModel, encodeModel, graph, model, value } from '../../src/inference/onnx/onnx.ts';
import {
  featuresOf,
  feedsOf,
  fitPreprocessing,
  frontOf,
  type Preprocessing,
  type PreprocessingStep,
  type Table,
} from '../../src/training/data/data.ts';
import { openSession, type Session, Tape, Tensor } from '../../src/training/net/net.ts';
import { tableOf } from './files.ts';

const TEXT = 'area,rooms,district\n10,1,north\n20,,south\n30,3,north\n1000,9,west\n';
const ALL = Uint32Array.of(0, 1, 2, 3);
const TRAIN = Uint32Array.of(0, 1, 2);

async function rowsOf(preprocessing: Preprocessing, table: Table, rows = ALL): Promise<number[][]> {
  const { dims, values } = await featuresOf(preprocessing, table, rows);
  const width = dims.reduce((product, dim) => product * dim, 1);
  return Array.from(rows, (_, row) => [...values.subarray(row * width, (row + 1) * width)]);
}

/** What a session answers to raw rows. */
async function answer(session: Session, feeds: Record<string, Tensor>): Promise<number[]> {
  const data = (await session.run(feeds)).out?.data;
  return data instanceof Float32Array ? [...data] : [];
}

/** The exported graph by itself. */
async function sessionOf(preprocessing: Preprocessing) {
  const tape = new Tape('FP32');
  tape.name(frontOf(preprocessing).lay(tape), 'out');
  const outputs = [value('out', 'FP32', ['N', ...preprocessing.dims])];
  const bytes = encodeModel(model(graph({ name: 'front', nodes: tape.nodes, inputs: tape.inputs, outputs, initializers: tape.constants })));
  const session = await openSession(bytes);
  onTestFinished(() => session.release());
  return { bytes, session };
}

describe('preprocessing', () => {
  it('is learnt from the training rows alone', async () => {
    const table = await tableOf(TEXT, 'CSV');
    const names = ['area', 'rooms', 'district'];
    const fitted = fitPreprocessing(table, names, null, TRAIN);
    const [area, rooms, district] = fitted.features;
    expect(area?.steps).toEqual([
      { kind: 'IMPUTE', value: 20 },
      { kind: 'STANDARDISE', mean: [20], deviation: [Math.sqrt(200 / 3)] },
    ]);
    expect(rooms?.steps[0]).toEqual({ kind: 'IMPUTE', value: 2 });
    expect(district?.steps).toEqual([{ kind: 'ONE_HOT', categories: ['north', 'south'] }]);
    expect(fitPreprocessing(table, names, null, ALL)).not.toEqual(fitted);
  });

  it('is in the graph what it is in arithmetic; what is missing or unknown is filled or all zeros', async () => {
    const table = await tableOf(TEXT, 'CSV');
    const fitted = fitPreprocessing(table, ['area', 'rooms', 'district'], null, TRAIN);
    expect(fitted.dims).toEqual([4]);
    const [areaDeviation, roomsDeviation] = [Math.sqrt(200 / 3), Math.sqrt(2 / 3)];
    const expected = [
      [(10 - 20) / areaDeviation, (1 - 2) / roomsDeviation, 1, 0],
      [0, 0, 0, 1],
      [(30 - 20) / areaDeviation, (3 - 2) / roomsDeviation, 1, 0],
      [(1000 - 20) / areaDeviation, (9 - 2) / roomsDeviation, 0, 0],
    ];
    for (const [row, values] of (await rowsOf(fitted, table)).entries()) {
      for (const [at, one] of values.entries()) expect(one).toBeCloseTo(expected[row]?.[at] ?? Number.NaN, 4);
    }
    const { bytes, session } = await sessionOf(fitted);
    expect(checkModel(bytes).inputs.map(({ name, datatype, dimensions }) => [name, datatype, dimensions])).toEqual([
      ['area', 'FP32', ['N']],
      ['rooms', 'FP32', ['N']],
      ['district', 'BYTES', ['N']],
    ]);
    const raw = {
      area: new Tensor('float32', [Number.NaN], [1]),
      rooms: new Tensor('float32', [2], [1]),
      district: new Tensor('string', ['moon'], [1]),
    };
    expect(await answer(session, raw)).toEqual([0, 0, 0, 0]);
  });

  it('fills a missing category with the most frequent one', async () => {
    const table = await tableOf('c,x\na,1\nb,2\na,3\n,4\n', 'CSV');
    const steps: PreprocessingStep[] = [{ kind: 'IMPUTE', columns: ['c'], with: 'MOST_FREQUENT' }, { kind: 'ONE_HOT' }];
    expect(await rowsOf(fitPreprocessing(table, ['c'], steps, TRAIN), table)).toEqual([
      [1, 0],
      [0, 1],
      [1, 0],
      [1, 0],
    ]);
  });

  it('scales, then standardises what was scaled, and takes the middle where it is asked to', async () => {
    const table = await tableOf('x\n1\n\n2\n9\n', 'CSV');
    const steps: PreprocessingStep[] = [
      { kind: 'IMPUTE', with: 'MEDIAN' },
      { kind: 'SCALE', factor: 2, offset: 1 },
      { kind: 'STANDARDISE' },
    ];
    const fitted = fitPreprocessing(table, ['x'], steps, ALL);
    expect(fitted.features[0]?.steps[0]).toEqual({ kind: 'IMPUTE', value: 2 });
    const rows = (await rowsOf(fitted, table)).flat();
    expect(rows.reduce((sum, one) => sum + one, 0)).toBeCloseTo(0, 5);
    expect(rows.reduce((sum, one) => sum + one * one, 0) / 4).toBeCloseTo(1, 5);
  });

  it('resizes and flattens pictures', async () => {
    const table: Table = {
      rows: 1,
      badRows: { count: 0, first: [] },
      columns: [{ name: 'image', kind: 'NUMBER', datatype: 'UINT8', dims: [2, 2], values: Uint8Array.of(10, 10, 30, 30) }],
    };
    const fitted = fitPreprocessing(table, ['image'], [{ kind: 'RESIZE', height: 4, width: 3 }], Uint32Array.of(0));
    expect(fitted.dims).toEqual([4, 3]);
    const [row] = await rowsOf(fitted, table, Uint32Array.of(0));
    expect(row?.length).toBe(12);
    expect([row?.[0], row?.at(-1)]).toEqual([10, 30]);
    const flat = fitPreprocessing(table, ['image'], [{ kind: 'SCALE', factor: 0.1, offset: 0 }, { kind: 'FLATTEN' }], Uint32Array.of(0));
    expect(await rowsOf(flat, table, Uint32Array.of(0))).toEqual([[1, 1, 3, 3]]);
  });

  it('does not mix rows', async () => {
    const table = await tableOf(TEXT, 'CSV');
    const names = ['area', 'rooms', 'district'];
    const { session } = await sessionOf(fitPreprocessing(table, names, null, TRAIN));
    const feeds = feedsOf(names, table, ALL);
    const together = await answer(session, feeds(0, 4));
    const apart: number[] = [];
    for (let row = 0; row < 4; row++) apart.push(...(await answer(session, feeds(row, row + 1))));
    expect(together).toEqual(apart);
  });

  it.each([
    ['an unknown column', [{ kind: 'STANDARDISE', columns: ['depth'] }], 'preprocessing[0]: depth is no feature'],
    ['one-hot of numbers', [{ kind: 'ONE_HOT', columns: ['area'] }], 'preprocessing[0]: ONE_HOT does not fit area: it is no category'],
    ['a mean of texts', [{ kind: 'IMPUTE', columns: ['district'], with: 'MEAN' }], 'MOST_FREQUENT would fit'],
    ['a category that stays one', [{ kind: 'STANDARDISE', columns: ['area'] }], 'district is a category, and no step makes numbers of it'],
    [
      'standardising what is missing',
      [{ kind: 'ONE_HOT' }, { kind: 'STANDARDISE' }],
      'preprocessing[1]: rooms has numbers that are missing',
    ],
    ['resizing what is no picture', [{ kind: 'RESIZE', columns: ['area'], height: 2, width: 2 }], 'it is no picture'],
  ] as [string, PreprocessingStep[], string][])('refuses %s with its place', async (_, steps, message) => {
    const table = await tableOf(TEXT, 'CSV');
    expect(() => fitPreprocessing(table, ['area', 'rooms', 'district'], steps, TRAIN)).toThrow(message);
  });
});
