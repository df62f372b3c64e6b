import { PNG } from 'pngjs';
import { type BadRows, wrongFile } from './bad-rows.ts';
import { CategoryList, type Column } from './columns.ts';
import { type ZipEntry, zipEntries } from './zip.ts';

const FILE_BYTES_MAX = 64 * 1024 * 1024;
const SIDE_MAX = 4_096;
const SIGNATURE = '89504e470d0a1a0a';
/** Colour types of PNG without colour: grey, and grey with transparency. */
const GREY = [0, 4];

type Head = { width: number; height: number; channels: 1 | 3 };

/**
 * Reads a ZIP of pictures in a folder for each class, `seven/a.png`: columns `image`, UINT8 [height, width] where the first picture is grey and
 * [height, width, 3] where it has colours, and `label`, the folder's name. Pictures of another size, other files, and damaged ones are bad rows. A
 * picture's size is looked at before it is inflated.
 */
export async function readPngZip(path: string, bad: BadRows): Promise<{ rows: number; columns: Column[] }> {
  const images: Uint8Array[] = [];
  const labels = new CategoryList();
  let first: Head | null = null;
  for await (const entry of zipEntries(path, 'PNG_ZIP', FILE_BYTES_MAX)) {
    const folder = entry.name.split('/').at(-2);
    if (isHidden(entry.name)) continue;
    if (folder === undefined) {
      bad.note(entry.index, `${entry.name} is in no folder`);
      continue;
    }
    const picture = await decode(entry, first);
    if (typeof picture === 'string') {
      bad.note(entry.index, `${entry.name}: ${picture}`);
      continue;
    }
    first ??= picture.head;
    images.push(picture.pixels);
    labels.push(folder);
  }
  if (first === null) throw wrongFile('PNG_ZIP', 'no picture', 'PNG files in a folder for each class');
  const dims = first.channels === 1 ? [first.height, first.width] : [first.height, first.width, first.channels];
  const values = new Uint8Array(images.length * first.height * first.width * first.channels);
  for (const [row, pixels] of images.entries()) values.set(pixels, row * pixels.length);
  const image: Column = { name: 'image', kind: 'NUMBER', datatype: 'UINT8', dims, values };
  return { rows: images.length, columns: [image, labels.done('label')] };
}

/** What systems put beside files. */
function isHidden(name: string): boolean {
  return name.split('/').some((part) => part.startsWith('.') || part === '__MACOSX');
}

async function decode(entry: ZipEntry, first: Head | null): Promise<{ head: Head; pixels: Uint8Array } | string> {
  const bytes = await entry.read();
  if (bytes.length < 33 || bytes.toString('hex', 0, 8) !== SIGNATURE) return 'no PNG';
  const [width, height] = [bytes.readUInt32BE(16), bytes.readUInt32BE(20)];
  if (width > SIDE_MAX || height > SIDE_MAX) return `${width} × ${height} pixels, more than ${SIDE_MAX} a side`;
  if (first !== null && (width !== first.width || height !== first.height)) {
    return `${width} × ${height} pixels instead of ${first.width} × ${first.height}`;
  }
  const channels = first?.channels ?? (GREY.includes(bytes[25] ?? 0) ? 1 : 3);
  try {
    return { head: { width, height, channels }, pixels: pixelsOf(PNG.sync.read(bytes).data, channels) };
  } catch (error) {
    return error instanceof Error ? error.message : 'damaged';
  }
}

/** From red, green, blue and opacity of each pixel; grey is the mean of the three. */
function pixelsOf(rgba: Buffer, channels: 1 | 3): Uint8Array {
  const pixels = new Uint8Array((rgba.length / 4) * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const colours = [rgba[from] ?? 0, rgba[from + 1] ?? 0, rgba[from + 2] ?? 0];
    if (channels === 1) pixels[to++] = Math.round(colours.reduce((sum, one) => sum + one, 0) / 3);
    else for (const one of colours) pixels[to++] = one;
  }
  return pixels;
}
