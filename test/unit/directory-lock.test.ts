import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { DataDirectoryLocked, lockDirectory } from '../../src/base/database-embedded.ts';

const PROCESSES = 8;
const ROUNDS = 25;

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'mercato-lock-'));
});
afterAll(() => rm(root, { recursive: true, force: true }));

const newDirectory = () => mkdtemp(join(root, 'data-'));

/** The id of a process that has ended. */
function deadPid(): number {
  return spawnSync(process.execPath, ['--version']).pid;
}

async function contender(children: ChildProcess[]) {
  const file = new URL('take-lock.ts', import.meta.url).pathname;
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', file], { stdio: ['pipe', 'pipe', 'inherit'] });
  children.push(child);
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  await lines.next();
  return async (at: number, directory: string): Promise<string> => {
    child.stdin.write(`${at} ${directory}\n`);
    return String((await lines.next()).value);
  };
}

it('of eight processes that open one directory at once, exactly one gets it, whatever an earlier process left there', async () => {
  const dead = deadPid();
  const leftovers = [null, '', 'no number', String(dead), `${dead}-0198c0de`];
  const children: ChildProcess[] = [];
  try {
    const contenders = await Promise.all(Array.from({ length: PROCESSES }, () => contender(children)));
    for (let round = 0; round < ROUNDS; round++) {
      const directory = await newDirectory();
      const leftover = leftovers[round % leftovers.length] ?? null;
      if (leftover !== null) await writeFile(join(directory, 'lock'), leftover);
      const at = Date.now() + 20;
      const words = await Promise.all(contenders.map((take) => take(at, directory)));
      expect(words.toSorted(), `round ${round}, left: ${leftover}`).toEqual([...Array(PROCESSES - 1).fill('lost'), 'won']);
      const winner = children[words.indexOf('won')]?.pid;
      expect(await readFile(join(directory, 'lock'), 'utf8')).toMatch(new RegExp(`^${winner}-`));
      expect(await readdir(directory)).toEqual(['lock']);
    }
  } finally {
    await Promise.all(
      children.map((child) => {
        const ended = once(child, 'exit');
        child.kill('SIGKILL');
        return ended;
      }),
    );
  }
});

it('a lock is given back, and a directory that this process holds is not opened twice', async () => {
  const directory = await newDirectory();
  const unlock = await lockDirectory(directory);
  await expect(lockDirectory(directory)).rejects.toThrow(DataDirectoryLocked);
  unlock();
  expect(await readdir(directory)).toEqual([]);
  const again = await lockDirectory(directory);
  unlock();
  expect(await readdir(directory)).toEqual(['lock']);
  again();
});

it('a lock of a living process is refused in words, one with the id of this process from an earlier boot is taken over', async () => {
  const directory = await newDirectory();
  await writeFile(join(directory, 'lock'), `${process.ppid}-0198c0de`);
  await expect(lockDirectory(directory)).rejects.toThrow(`${directory} is in use by process ${process.ppid}.`);
  await writeFile(join(directory, 'lock'), String(process.pid));
  const unlock = await lockDirectory(directory);
  expect(await readdir(directory)).toEqual(['lock']);
  unlock();
});

it('a process that ended while it took a lock over stands in nobody’s way, one that still does it is waited for by nobody', async () => {
  const directory = await newDirectory();
  const path = join(directory, 'lock');
  const dead = deadPid();
  await writeFile(path, `${dead}-a`);
  await writeFile(`${path}.after-${dead}-a.0`, `${process.ppid}-b`);
  await expect(lockDirectory(directory)).rejects.toThrow(`in use by process ${process.ppid}.`);
  await writeFile(`${path}.after-${dead}-a.0`, `${dead}-b`);
  const unlock = await lockDirectory(directory);
  expect(await readdir(directory)).toEqual(['lock']);
  unlock();
});
