import type { Readable } from 'node:stream';
import { type Entry, openPromise, type ZipFile } from 'yauzl';
import { wrongFile } from './bad-rows.ts';

const ENTRIES_MAX = 1_000_000;

/** A file of an archive; `index` counts entries from 1. */
export type ZipEntry = { name: string; index: number; sizeBytes: number; read(): Promise<Buffer> };

/**
 * The files of a ZIP archive, one after the other. An entry larger than `bytesMax` is not inflated. Sizes are those of the archive's directory, and an
 * entry that inflates to another is refused: a bomb cannot hide. @throws BAD_USER_INPUT
 */
export async function* zipEntries(path: string, format: string, bytesMax: number): AsyncGenerator<ZipEntry> {
  const zip = await opened(path, format);
  try {
    if (zip.entryCount > ENTRIES_MAX) throw wrongFile(format, `${zip.entryCount} entries`, `at most ${ENTRIES_MAX}`);
    let index = 0;
    for await (const entry of zip.eachEntry()) {
      index++;
      if (!entry.fileName.endsWith('/')) yield entryOf(zip, entry, index, bytesMax, format);
    }
  } catch (error) {
    throw isZipFault(error) ? wrongFile(format, error.message, 'a ZIP archive') : error;
  } finally {
    zip.close();
  }
}

async function opened(path: string, format: string): Promise<ZipFile> {
  try {
    return await openPromise(path, { lazyEntries: true, autoClose: false });
  } catch (error) {
    throw wrongFile(format, error instanceof Error ? error.message : 'no ZIP archive', 'a ZIP archive');
  }
}

function entryOf(zip: ZipFile, entry: Entry, index: number, bytesMax: number, format: string): ZipEntry {
  return {
    name: entry.fileName,
    index,
    sizeBytes: entry.uncompressedSize,
    async read() {
      if (entry.uncompressedSize > bytesMax) {
        throw wrongFile(format, `${entry.fileName} has ${entry.uncompressedSize} bytes`, `at most ${bytesMax} bytes an entry`);
      }
      try {
        const stream: Readable = await zip.openReadStreamPromise(entry);
        const parts: Buffer[] = [];
        for await (const part of stream) parts.push(part as Buffer);
        return Buffer.concat(parts);
      } catch (error) {
        throw wrongFile(format, `${entry.fileName}: ${error instanceof Error ? error.message : 'damaged'}`, 'a ZIP archive');
      }
    },
  };
}

function isZipFault(error: unknown): error is Error {
  return error instanceof Error && error.name === 'Error';
}
