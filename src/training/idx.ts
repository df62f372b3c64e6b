import { readFile } from 'node:fs/promises';
import { gunzipSync } from 'node:zlib';
import type { Dataset } from './dataset.ts';

/** An IDX file of unsigned bytes: dimensions, slowest first, and the bytes. */
type Idx = { dims: readonly number[]; values: Uint8Array };

const GZIP_BYTES_MAX = 1024 * 1024 * 1024;

/**
 * Reads the IDX format (Y. LeCun, http://yann.lecun.com/exdb/mnist): two zero bytes, element type, rank, big-endian 32-bit dimensions,
 * elements. Only unsigned bytes (0x08). Errors: RangeError for another magic number, then for a length that the dimensions do not want.
 */
export function parseIdx(bytes: Uint8Array): Idx {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const rank = bytes[3] ?? 0;
  const header = 4 + 4 * rank;
  if (bytes.length < header || view.getUint16(0) !== 0 || bytes[2] !== 0x08 || rank === 0) {
    throw new RangeError('this is not an IDX file of unsigned bytes');
  }
  const dims = Array.from({ length: rank }, (_, index) => view.getUint32(4 + 4 * index));
  const values = bytes.subarray(header);
  const wanted = dims.reduce((product, dim) => product * dim, 1);
  if (values.length !== wanted) throw new RangeError(`the IDX file has ${values.length} elements, its dimensions want ${wanted}`);
  return { dims, values };
}

/** Images and labels from two gzipped IDX files. Errors: those of `parseIdx`; RangeError where their numbers of rows differ. */
export async function readIdxDataset(imagesPath: string, labelsPath: string): Promise<Dataset> {
  const [images, labels] = await Promise.all([readGzipped(imagesPath), readGzipped(labelsPath)]);
  const [rows = 0, ...dims] = images.dims;
  if (labels.dims.length !== 1 || labels.dims[0] !== rows) throw new RangeError(`${rows} images with ${labels.dims.join(' × ')} labels`);
  return { rows, dims, values: images.values, labels: labels.values };
}

async function readGzipped(path: string): Promise<Idx> {
  return parseIdx(gunzipSync(await readFile(path), { maxOutputLength: GZIP_BYTES_MAX }));
}
