import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import pg from 'pg';
import type { Outcome } from './once.ts';

const ROOT = new URL('../..', import.meta.url).pathname;
/** What is made by an install, and the same for every mutation. */
const LINKED = ['node_modules', 'src/generated'];

export type Copy = Disposable & {
  read(file: string): string;
  write(file: string, text: string): void;
  /** Runs test files, on copies of `template` where that is not null; null: they did not end in time. */
  run(files: readonly string[], options: { postgres: boolean; template: string | null; timeoutMs: number }): Promise<Outcome | null>;
};

/** The files of the working tree, committed or not, in a folder of their own. */
export function openCopy(): Copy {
  const folder = mkdtempSync(join(tmpdir(), 'guards-'));
  const list = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '-z'], { cwd: ROOT, encoding: 'utf8' });
  for (const file of list.split('\0')) {
    if (file !== '' && !LINKED.includes(file)) cpSync(join(ROOT, file), join(folder, file), { recursive: true });
  }
  for (const path of LINKED) symlinkSync(realpathSync(join(ROOT, path)), join(folder, path));
  let running: ChildProcess | null = null;
  return {
    read: (file) => readFileSync(join(folder, file), 'utf8'),
    write: (file, text) => writeFileSync(join(folder, file), text),
    async run(files, { postgres, template, timeoutMs }) {
      // What is made once for all tests is made anew: a mutation may be in it.
      const { MERCATO_TEST_DATABASE_URL: url, MERCATO_TEST_TEMPLATE: _, MERCATO_TEST_ONCE: __, ...env } = process.env;
      const prefix = `mercato_guards_${process.pid}`;
      const database = {
        MERCATO_TEST_DATABASE_URL: url,
        MERCATO_TEST_PREFIX: prefix,
        ...(template === null ? {} : { MERCATO_TEST_TEMPLATE: template }),
      };
      const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', 'test/guards/once.ts', ...files], {
        cwd: folder,
        env: postgres && url !== undefined ? { ...env, ...database } : env,
        stdio: ['ignore', 'pipe', 'pipe'],
        detached: true,
      });
      running = child;
      let out = '';
      let errors = '';
      child.stdout.on('data', (part: Buffer) => {
        out += part.toString('utf8');
      });
      child.stderr.on('data', (part: Buffer) => {
        errors = (errors + part.toString('utf8')).slice(-4_000);
      });
      let late = false;
      const timer = setTimeout(() => {
        late = true;
        end(child);
      }, timeoutMs);
      await once(child, 'close');
      clearTimeout(timer);
      running = null;
      if (postgres && url !== undefined) await dropDatabases(url, prefix);
      if (late) return null;
      const last = out.trimEnd().split('\n').at(-1) ?? '';
      if (last.startsWith('{')) return JSON.parse(last) as Outcome;
      return { passed: 0, failed: [], faults: [`${out.slice(-400)} ${errors.slice(-1_000)}`.trim()] };
    },
    [Symbol.dispose]() {
      if (running) end(running);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The tests of a child and what they started: it leads a group of its own. */
function end(child: ChildProcess): void {
  if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL');
}

/** Drops what tests left that failed before their end. */
async function dropDatabases(url: string, prefix: string): Promise<void> {
  const admin = new pg.Client({ connectionString: url });
  await admin.connect();
  try {
    const { rows } = await admin.query<{ name: string }>('select datname "name" from pg_database where starts_with(datname, $1)', [
      `${prefix}_`,
    ]);
    for (const { name } of rows) await admin.query(`drop database ${pg.escapeIdentifier(name)} with (force)`);
  } finally {
    await admin.end();
  }
}

/** A file of the working tree. */
export function readFile(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8');
}

/** Source files below a folder, as the guards name them. */
export function filesBelow(folder: string, end: string): string[] {
  const list = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '-z', folder], { cwd: ROOT, encoding: 'utf8' });
  return list.split('\0').filter((file) => file.endsWith(end) && dirname(file) !== '.');
}
