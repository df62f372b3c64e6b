import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { drawnDigits, writeIdx } from '../training/data/data.ts';

const SIDE = 28;
const TRAIN_ROWS = 6_000;
const TEST_ROWS = 1_500;

/** Pictures and labels as one IDX file, and what they are in words. `picture` gives one row of the test part. */
export type DigitFiles = {
  what: string;
  train: Uint8Array;
  test: Uint8Array;
  picture(row: number): { image: Uint8Array; label: number };
};

/** The four IDX files of a folder, named as those of MNIST. */
export async function readDigitFiles(folder: string): Promise<DigitFiles> {
  const read = async (part: string) => {
    const [images, labels] = await Promise.all(
      ['images-idx3', 'labels-idx1'].map((kind) => readFile(join(folder, `${part}-${kind}-ubyte.gz`))),
    );
    return { images: images ?? Buffer.alloc(0), labels: labels ?? Buffer.alloc(0) };
  };
  const [train, test] = [await read('train'), await read('t10k')];
  const [images, labels] = [gunzipSync(test.images).subarray(16), gunzipSync(test.labels).subarray(8)];
  return {
    what: `the handwritten digits in ${folder}`,
    train: Buffer.concat([train.images, train.labels]),
    test: Buffer.concat([test.images, test.labels]),
    picture: (row) => pictureOf(images, labels, row),
  };
}

/** Digits that are drawn here: random strokes, turned, slanted, bent, with thin and thick pens. */
export function drawDigitFiles(): DigitFiles {
  const part = (rows: number, seed: number) => {
    const { images, labels } = drawnDigits({ rows, seed });
    return { images, labels, file: Buffer.concat([writeIdx([rows, SIDE, SIDE], images), writeIdx([rows], labels)]) };
  };
  const [train, test] = [part(TRAIN_ROWS, 1), part(TEST_ROWS, 2)];
  return {
    what: 'digits that this project draws itself',
    train: train.file,
    test: test.file,
    picture: (row) => pictureOf(test.images, test.labels, row),
  };
}

function pictureOf(images: Uint8Array, labels: Uint8Array, row: number): { image: Uint8Array; label: number } {
  return { image: images.slice(row * SIDE * SIDE, (row + 1) * SIDE * SIDE), label: labels[row] ?? 0 };
}

/** Pictures side by side: in a terminal of colours a character is two pixels, one above the other, in grey; elsewhere a letter stands for the brighter one. */
export function showPictures(pictures: readonly Uint8Array[], colours: boolean): string {
  return colours ? inGrey(pictures) : inLetters(pictures);
}

function inLetters(pictures: readonly Uint8Array[]): string {
  const letter = (value: number) => ' .:+*#@'[Math.floor((value / 256) * 7)] ?? ' ';
  const line = (image: Uint8Array, y: number) =>
    Array.from({ length: SIDE }, (_, x) => letter(Math.max(image[2 * y * SIDE + x] ?? 0, image[(2 * y + 1) * SIDE + x] ?? 0))).join('');
  return Array.from({ length: SIDE / 2 }, (_, y) => `  ${pictures.map((image) => line(image, y)).join(' ')}`.trimEnd()).join('\n');
}

function inGrey(pictures: readonly Uint8Array[]): string {
  const grey = (value: number) => 232 + Math.floor((value / 256) * 24);
  const lines = Array.from({ length: SIDE / 2 }, (_, line) =>
    pictures
      .map((image) =>
        Array.from({ length: SIDE }, (__, x) => {
          const [above = 0, below = 0] = [image[2 * line * SIDE + x], image[(2 * line + 1) * SIDE + x]];
          return `\u001b[38;5;${grey(above)};48;5;${grey(below)}m▀`;
        }).join(''),
      )
      .join('\u001b[0m '),
  );
  return lines.map((line) => `  ${line}\u001b[0m`).join('\n');
}
