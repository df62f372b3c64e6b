import { BadRows, wrongFile } from './bad-rows.ts';
import type { Column, Table } from './columns.ts';
import { readCsv } from './csv.ts';
import { readIdx } from './idx.ts';
import { readNdjson } from './ndjson.ts';
import { readNpy, readNpz } from './npy.ts';
import { readPngZip } from './png-zip.ts';

export type DatasetFormat = 'IDX' | 'CSV' | 'NPY' | 'NPZ' | 'NDJSON' | 'PNG_ZIP';

type Read = (path: string, bad: BadRows) => Promise<{ rows: number; columns: Column[] }>;

const READ: Record<DatasetFormat, Read> = {
  IDX: readIdx,
  CSV: readCsv,
  NPY: readNpy,
  NPZ: readNpz,
  NDJSON: readNdjson,
  PNG_ZIP: readPngZip,
};

/**
 * Reads a file of rows. Rows that cannot be read are left out and counted. @throws BAD_USER_INPUT `format` where the file is not of it or has no row,
 * `badRowsMax` where more rows are bad
 */
export async function readTable(path: string, format: DatasetFormat, { badRowsMax }: { badRowsMax: number }): Promise<Table> {
  const bad = new BadRows(badRowsMax);
  const { rows, columns } = await READ[format](path, bad);
  if (rows === 0) throw wrongFile(format, 'it has no row', 'at least one row');
  return { rows, columns, badRows: { count: bad.count, first: bad.first } };
}
