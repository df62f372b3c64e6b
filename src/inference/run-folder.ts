import { lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The longest address of a Unix socket is 107 bytes; the rest of a socket's path takes less than 30. */
const BASE_BYTES_MAX = 75;

/** Where the sockets of one server process lie, readable by its user alone, and the empty read-only folder that runners work in. */
export type RunFolder = { workingDirectory: string; nextSocket(): string; remove(): Promise<void> };

/**
 * Makes the folder below `dataDir`, or below the system's temporary folder where that path is too long for a socket. What killed processes of this user
 * left there is removed: a folder's name has the id of its process.
 */
export function createRunFolder(dataDir: string): RunFolder {
  const own = join(dataDir, 'run');
  const short = Buffer.byteLength(own) <= BASE_BYTES_MAX;
  if (short) mkdirSync(own, { recursive: true, mode: 0o700 });
  const [base, prefix] = short ? [own, ''] : [shortTemporary(), 'mercato-'];
  removeLeft(base, prefix);
  const path = mkdtempSync(join(base, `${prefix}${process.pid}-`));
  const workingDirectory = join(path, 'w');
  mkdirSync(workingDirectory, { mode: 0o500 });
  let sockets = 0;
  return {
    workingDirectory,
    nextSocket: () => join(path, `${++sockets}.sock`),
    remove: () => rm(path, { recursive: true, force: true }),
  };
}

/** Only what has the very form of a name that this makes: the temporary folder is everybody's. */
function removeLeft(base: string, prefix: string): void {
  for (const name of readdirSync(base)) {
    const [, pid] = new RegExp(`^${prefix}(\\d+)-\\w{6}$`).exec(name) ?? [];
    if (pid === undefined || isAlive(Number(pid))) continue;
    const path = join(base, name);
    try {
      const found = lstatSync(path);
      if (found.isDirectory() && found.uid === process.getuid?.()) rmSync(path, { recursive: true, force: true });
    } catch {
      // Somebody else has removed it, or it is somebody else's.
    }
  }
}

function shortTemporary(): string {
  return Buffer.byteLength(tmpdir()) <= BASE_BYTES_MAX ? tmpdir() : '/tmp';
}

function isAlive(pid: number): boolean {
  try {
    return Number.isSafeInteger(pid) && pid > 0 && process.kill(pid, 0);
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}
