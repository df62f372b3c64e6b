import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { dump } from 'npyjs';
import { PNG } from 'pngjs';
import { describe, expect, it } from 'vitest';
import { columnOf, drawnDigits, profileOf, splitRows, targetsOf, writeIdx } from '../../src/training/data/data.ts';
import { tableOf, zipOf } from './files.ts';

const MNIST = process.env.MERCATO_TEST_DATA === undefined ? '../shared/data/mnist' : join(process.env.MERCATO_TEST_DATA, 'mnist');
const images = await readFile(join(MNIST, 't10k-images-idx3-ubyte.gz')).catch(() => null);
const labels = await readFile(join(MNIST, 't10k-labels-idx1-ubyte.gz')).catch(() => null);

const npy = (values: Float32Array, shape: number[]) => new Uint8Array(dump(values, shape));

describe('CSV', () => {
  it('has numbers where every cell is one or missing, and categories elsewhere', async () => {
    const table = await tableOf('\ufeffage,plan,left\r\n31,basic,yes\r\n,"plus, yearly",no\r\n-4.5e1,,no\r\n', 'CSV');
    expect(table).toMatchObject({ rows: 3, badRows: { count: 0 } });
    expect(columnOf(table, 'age')).toEqual({
      name: 'age',
      kind: 'NUMBER',
      datatype: 'FP32',
      dims: [],
      values: Float64Array.of(31, Number.NaN, -45),
    });
    expect(columnOf(table, 'plan')).toMatchObject({
      kind: 'CATEGORY',
      categories: ['basic', 'plus, yearly'],
      values: Int32Array.of(0, 1, -1),
    });
  });

  it('keeps what a column of numbers was before its first text', async () => {
    const table = await tableOf('x\n1\nNA\n2\nmany\n', 'CSV');
    expect(columnOf(table, 'x')).toMatchObject({ categories: ['1', '2', 'many'], values: Int32Array.of(0, -1, 1, 2) });
  });

  it('counts rows of another width with their lines, and refuses more than are allowed', async () => {
    const text = 'a,b\n1,2\n3\n4,5,6\n7,8\n';
    const table = await tableOf(text, 'CSV', 2);
    expect(table.rows).toBe(2);
    expect(table.badRows).toEqual({
      count: 2,
      first: [
        { line: 3, reason: '1 cells instead of 2' },
        { line: 4, reason: '3 cells instead of 2' },
      ],
    });
    await expect(tableOf(text, 'CSV', 1)).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field: 'badRowsMax', given: '1' } });
    await expect(tableOf(text, 'CSV', 1)).rejects.toThrow('line 3: 1 cells instead of 2; line 4: 3 cells instead of 2');
  });

  it.each([
    ['is not closed', '"open,1'],
    ['goes on behind its end', '"a"b,1'],
  ])('is refused where a quoted cell %s, whatever may be bad: it would take the rows behind it along', async (_, row) => {
    const lines = Array.from({ length: 50 }, (__, at) => `a${at},1`);
    const file = ['a,b', ...lines.slice(0, 9), row, ...lines].join('\n');
    await expect(tableOf(`${file}\n`, 'CSV', 1_000)).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field: 'format' } });
  });

  it('counts a quote inside a bare cell as one bad row, and loses no other', async () => {
    const table = await tableOf('a,b\nx,1\n5" pipe,2\ny,3\n', 'CSV', 1);
    expect([table.rows, table.badRows.first.map(({ line }) => line)]).toEqual([2, [3]]);
    await expect(tableOf('a,b\nx,1\n5" pipe,2\ny,3\n', 'CSV', 0)).rejects.toMatchObject({ data: { field: 'badRowsMax' } });
  });

  it.each([
    ['nothing', '', 'it is empty'],
    ['a header alone', 'a,b\n', 'it has no row'],
    ['two columns of a name', 'a,a\n1,2\n', 'two columns named a'],
    ['a column without a name', 'a,\n1,2\n', 'column 2 has no name'],
  ])('refuses %s', async (_, text, message) => {
    await expect(tableOf(text, 'CSV')).rejects.toThrow(message);
  });
});

describe('IDX', () => {
  it('is rows and labels one after the other, gzipped or not', async () => {
    const [rows, marks] = [
      writeIdx(
        [2, 2, 3],
        Uint8Array.from({ length: 12 }, (_, at) => at),
      ),
      writeIdx([2], Uint8Array.of(7, 9)),
    ];
    for (const file of [Buffer.concat([rows, marks]), Buffer.concat([gzipSync(rows), gzipSync(marks)])]) {
      const table = await tableOf(file, 'IDX');
      expect(table.rows).toBe(2);
      expect(columnOf(table, 'image')).toMatchObject({ datatype: 'UINT8', dims: [2, 3] });
      expect(columnOf(table, 'label').values).toEqual(Float64Array.of(7, 9));
    }
  });

  it('reads back what was written', () =>
    fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ minLength: 4, maxLength: 4 }), { minLength: 1, maxLength: 5 }), async (rows) => {
        const table = await tableOf(writeIdx([rows.length, 4], Uint8Array.from(rows.flatMap((row) => [...row]))), 'IDX');
        expect([...(table.columns[0]?.values ?? [])]).toEqual(rows.flatMap((row) => [...row]));
      }),
      { numRuns: 20 },
    ));

  it.each([
    ['another file', Buffer.from('PK no idx')],
    ['fewer elements than it says', writeIdx([3, 2], new Uint8Array(6)).subarray(0, -1)],
    ['labels of another number of rows', Buffer.concat([writeIdx([2, 2], new Uint8Array(4)), writeIdx([3], new Uint8Array(3))])],
    ['damaged gzip', gzipSync(writeIdx([2, 2], new Uint8Array(4))).subarray(0, 12)],
  ])('refuses %s', async (_, bytes) => {
    await expect(tableOf(bytes, 'IDX')).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field: 'format' } });
  });

  it.skipIf(images === null || labels === null)('reads MNIST as it is given away', async () => {
    const table = await tableOf(Buffer.concat([images ?? Buffer.alloc(0), labels ?? Buffer.alloc(0)]), 'IDX');
    const profile = profileOf(table);
    expect(profile).toMatchObject({ rows: 10_000, badRows: { count: 0 } });
    expect(profile.columns[0]).toMatchObject({ name: 'image', datatype: 'UINT8', dimensions: [28, 28], minimum: 0, maximum: 255 });
    expect(profile.columns[1]?.classes?.map(({ value }) => value).sort()).toEqual([...'0123456789']);
    expect(profile.samples).toHaveLength(10);
  });
});

describe('NPY and NPZ', () => {
  it('are a column for each array', async () => {
    const table = await tableOf(npy(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3]), 'NPY');
    expect(table).toMatchObject({
      rows: 2,
      columns: [{ name: 'values', datatype: 'FP32', dims: [3], values: Float64Array.of(1, 2, 3, 4, 5, 6) }],
    });
    const archive = zipOf([
      { name: 'x.npy', bytes: npy(Float32Array.of(1, 2, 3, 4), [2, 2]) },
      { name: 'y.npy', bytes: npy(Float32Array.of(8, 9), [2]) },
    ]);
    expect(await tableOf(archive, 'NPZ')).toMatchObject({
      rows: 2,
      columns: [
        { name: 'x', dims: [2] },
        { name: 'y', dims: [] },
      ],
    });
  });

  it('are refused where arrays are of other lengths, cut, or hide their size', async () => {
    const [two, three] = [npy(Float32Array.of(1, 2), [2]), npy(Float32Array.of(1, 2, 3), [3])];
    await expect(
      tableOf(
        zipOf([
          { name: 'x.npy', bytes: two },
          { name: 'y.npy', bytes: three },
        ]),
        'NPZ',
      ),
    ).rejects.toThrow('y has 3 rows');
    await expect(tableOf(two.subarray(0, -4), 'NPY')).rejects.toMatchObject({ data: { field: 'format' } });
    const bomb = zipOf([{ name: 'x.npy', bytes: new Uint8Array(1_000_000), saysBytes: 100 }]);
    await expect(tableOf(bomb, 'NPZ')).rejects.toMatchObject({ code: 'BAD_USER_INPUT' });
  });
});

describe('NDJSON', () => {
  it('has a column for each key of its first row', async () => {
    const table = await tableOf('{"a":1,"b":"x","c":[[1,2],[3,4]],"d":true}\n\n{"a":null,"c":[[5,6],[7,8]],"d":false}\n', 'NDJSON');
    expect(table.rows).toBe(2);
    expect(columnOf(table, 'a').values).toEqual(Float64Array.of(1, Number.NaN));
    expect(columnOf(table, 'b')).toMatchObject({ kind: 'CATEGORY', values: Int32Array.of(0, -1) });
    expect(columnOf(table, 'c')).toMatchObject({ dims: [2, 2] });
    expect(columnOf(table, 'd')).toMatchObject({ categories: ['true', 'false'] });
  });

  it('counts lines that are no such object', async () => {
    const table = await tableOf('{"a":1}\n{"a":\n[1]\n{"a":2,"b":3}\n{"a":"x"}\n{"a":4}\n', 'NDJSON', 9);
    expect(table.rows).toBe(2);
    expect(table.badRows.first.map(({ line }) => line)).toEqual([2, 3, 4, 5]);
    expect(table.badRows.first[3]?.reason).toBe('a is a text instead of a number');
  });
});

describe('a ZIP of pictures', () => {
  const png = (width: number, height: number, grey: number) => {
    const picture = new PNG({ width, height });
    for (let at = 0; at < picture.data.length; at += 4) picture.data.set([grey, grey, grey, 255], at);
    return PNG.sync.write(picture, { colorType: 0 });
  };

  it('has a class for each folder', async () => {
    const table = await tableOf(
      zipOf([
        { name: 'cats/a.png', bytes: png(3, 2, 9) },
        { name: 'dogs/b.png', bytes: png(3, 2, 200) },
      ]),
      'PNG_ZIP',
    );
    expect(columnOf(table, 'image')).toMatchObject({ datatype: 'UINT8', dims: [2, 3] });
    expect([...columnOf(table, 'image').values]).toEqual([9, 9, 9, 9, 9, 9, 200, 200, 200, 200, 200, 200]);
    expect(columnOf(table, 'label')).toMatchObject({ categories: ['cats', 'dogs'] });
  });

  it('leaves out what is none of them, and looks at a size before it inflates', async () => {
    const huge = png(3, 2, 0);
    huge.writeUInt32BE(100_000, 16);
    const entries = [
      { name: 'cats/a.png', bytes: png(3, 2, 9) },
      { name: 'cats/b.png', bytes: png(4, 2, 9) },
      { name: 'cats/c.png', bytes: Buffer.from('no picture') },
      { name: 'd.png', bytes: png(3, 2, 9) },
      { name: 'cats/e.png', bytes: huge },
    ];
    const table = await tableOf(zipOf(entries), 'PNG_ZIP', 4);
    expect(table.rows).toBe(1);
    expect(table.badRows.first.map(({ line }) => line)).toEqual([2, 3, 4, 5]);
    expect(table.badRows.first[3]?.reason).toContain('100000 × 2 pixels');
    await expect(tableOf(Buffer.from('no archive'), 'PNG_ZIP')).rejects.toMatchObject({ data: { field: 'format' } });
  });
});

describe('a split', () => {
  it('puts every row into one part, by the seed', () =>
    fc.assert(
      fc.property(fc.integer({ min: 4, max: 500 }), fc.integer({ min: 0, max: 2 ** 31 - 1 }), (rows, seed) => {
        const shares = { seed, validationShare: 0.2, testShare: 0.3 };
        const { train, validation, test } = splitRows(rows, shares);
        const all = [...train, ...validation, ...test].sort((a, b) => a - b);
        expect(all).toEqual(Array.from({ length: rows }, (_, row) => row));
        expect(splitRows(rows, shares)).toEqual({ train, validation, test });
      }),
    ));

  it('is refused where nothing is left to learn from', () => {
    expect(() => splitRows(2, { seed: 1, validationShare: 0.5, testShare: 0.4 })).toThrow('too few');
  });
});

describe('targets', () => {
  it('are classes in the order of their numbers, or numbers as they are', async () => {
    const table = await tableOf('y,z,name\n10,1.5,b\n9,2.5,a\n10,3.5,b\n', 'CSV');
    expect(targetsOf(table, ['y'], 'CLASSIFICATION')).toEqual({ kind: 'CLASSES', classes: ['9', '10'], values: Int32Array.of(1, 0, 1) });
    expect(targetsOf(table, ['name'], 'CLASSIFICATION')).toMatchObject({ classes: ['a', 'b'] });
    expect(targetsOf(table, ['y', 'z'], 'REGRESSION')).toMatchObject({ values: Float64Array.of(10, 1.5, 9, 2.5, 10, 3.5) });
    expect(() => targetsOf(table, ['z'], 'CLASSIFICATION')).toThrow('targets[0]: z has numbers that are not whole');
    expect(() => targetsOf(table, ['name'], 'REGRESSION')).toThrow('targets[0]: name is no column of single numbers');
  });
});

describe('drawn digits', () => {
  it('are the same for the same seed, of every class, with ink in the middle', () => {
    const digits = drawnDigits({ rows: 60, seed: 3 });
    expect(drawnDigits({ rows: 60, seed: 3 })).toEqual(digits);
    expect(drawnDigits({ rows: 60, seed: 4 }).images).not.toEqual(digits.images);
    expect(new Set(digits.labels).size).toBe(10);
    for (let row = 0; row < 60; row++) {
      const image = digits.images.subarray(row * 784, (row + 1) * 784);
      expect(image.filter((ink) => ink > 100).length).toBeGreaterThan(20);
    }
  });
});
