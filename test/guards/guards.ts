/**
 * `npm run guards -- [--only TEXT]… [--kind lock|sql|function|code] [--after NAME] [--list]`: removes each lock, constraint, policy and check of calls, usage, billing and
 * access in turn, in a copy of the tree, and runs the tests that should notice; `--after`: goes on behind that one. Those of `lock`, `sql` and `function` run on the Postgres of
 * MERCATO_TEST_DATABASE_URL alone. Exits 1 where no test fails, the tests do not end, a mutated text is no program, or the scan finds a guard without an entry or an
 * entry of a function that a later migration replaces; else 3 where some could not be run.
 */
import { parseArgs } from 'node:util';
import { setup } from '../support/global-setup.ts';
import { type Copy, openCopy, readFile } from './copy.ts';
import { type Guard, KINDS, without } from './guard.ts';
import { allExcuses, allGuards } from './list.ts';
import { outlived, unlisted } from './scan.ts';

const TIMEOUT_MS = 120_000;

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true, default: [] },
    kind: { type: 'string' },
    after: { type: 'string' },
    list: { type: 'boolean', default: false },
  },
});
if (values.kind !== undefined && !KINDS.some((kind) => kind === values.kind)) throw new Error(`--kind is one of ${KINDS.join(', ')}`);
const all = allGuards(readFile);
const chosen = all.filter(
  ({ name, kind }) => (values.kind ?? kind) === kind && (values.only.length === 0 || values.only.some((text) => name.includes(text))),
);
const last = chosen.findIndex(({ name }) => name === values.after);
if (values.after !== undefined && last === -1) throw new Error(`none of these is called ${values.after}`);
const guards = chosen.slice(last + 1);
const EXIT_NOT_RUN = 3;
const hasPostgres = process.env.MERCATO_TEST_DATABASE_URL !== undefined;
const short = (test: string) => test.replace(/^test\/|\.test\.ts$/g, '');

const missing = unlisted(readFile, all, allExcuses());
for (const { file, line, text } of missing) console.log(`NO ENTRY ${file}:${line}: ${text}`);
const dead = outlived(readFile, all);
for (const { name } of dead) console.log(`REPLACED by a later migration: ${name}`);
if (values.list) for (const { kind, name, tests } of guards) console.log(`${kind.padEnd(8)} ${name}  [${tests.map(short).join(' ')}]`);
else await removeEach();
if (missing.length > 0 || dead.length > 0) process.exitCode = 1;

async function removeEach(): Promise<void> {
  using copy = openCopy();
  const dropTemplate = await setup();
  const template = process.env.MERCATO_TEST_TEMPLATE ?? null;
  const counts = { caught: 0, 'NOT CAUGHT': 0, BROKEN: 0, 'not run': 0 };
  let stopped = false;
  process.once('SIGINT', () => {
    stopped = true;
  });
  try {
    await checkBaseline(copy, guards.filter(isRunnable), template);
    for (const guard of guards) {
      if (stopped) break;
      const startMs = performance.now();
      const { verdict, by } = isRunnable(guard)
        ? await remove(copy, guard, template)
        : ({ verdict: 'not run', by: 'needs Postgres' } as const);
      counts[verdict]++;
      const seconds = ((performance.now() - startMs) / 1000).toFixed(1);
      console.log(`${verdict.padEnd(11)} ${guard.kind.padEnd(8)} ${guard.name}  <- ${by}  ${seconds} s`);
    }
  } finally {
    await dropTemplate?.();
  }
  console.log(
    Object.entries(counts)
      .map(([verdict, count]) => `${verdict} ${count}`)
      .join(', '),
  );
  if (stopped || counts['NOT CAUGHT'] + counts.BROKEN > 0) process.exitCode = 1;
  else if (counts['not run'] > 0) process.exitCode = EXIT_NOT_RUN;
}

function isRunnable({ postgres }: Guard): boolean {
  return hasPostgres || !postgres;
}

/** The tests pass where nothing is removed, or else their failure would say nothing. */
async function checkBaseline(copy: Copy, runnable: readonly Guard[], template: string | null): Promise<void> {
  for (const postgres of [true, false]) {
    const files = [...new Set(runnable.filter((guard) => postgresFor(guard) === postgres).flatMap(({ tests }) => tests))];
    if (files.length === 0) continue;
    const outcome = await copy.run(files, { postgres, template, timeoutMs: 10 * TIMEOUT_MS });
    if (outcome === null || outcome.failed.length + outcome.faults.length > 0 || outcome.passed === 0) {
      throw new Error(`the tests fail without any mutation: ${JSON.stringify(outcome ?? 'timed out')}`);
    }
    console.log(`baseline: ${outcome.passed} tests of ${files.length} files pass ${postgres ? 'on Postgres' : 'without Postgres'}`);
  }
}

/** Without a database tests start sooner. */
function postgresFor({ tests }: Guard): boolean {
  return hasPostgres && !tests.every((test) => /^test\/(unit\/|properties\/prices)/.test(test));
}

async function remove(
  copy: Copy,
  guard: Guard,
  template: string | null,
): Promise<{ verdict: 'caught' | 'NOT CAUGHT' | 'BROKEN'; by: string }> {
  const mutated = without(guard, copy.read);
  const originals = new Map([...mutated.keys()].map((file) => [file, copy.read(file)]));
  try {
    for (const [file, text] of mutated) copy.write(file, text);
    const migrates = [...mutated.keys()].some((file) => file.startsWith('prisma/'));
    const outcome = await copy.run(guard.tests, {
      postgres: postgresFor(guard),
      template: migrates ? null : template,
      timeoutMs: TIMEOUT_MS,
    });
    // A busy machine is as slow as a guard that is missed.
    if (outcome === null) return { verdict: 'BROKEN', by: `no end after ${TIMEOUT_MS / 1_000} s` };
    const [failed] = outcome.failed;
    if (failed !== undefined) return { verdict: 'caught', by: short(failed.replace('.test.ts >', ' >')) };
    if (outcome.faults.length > 0) return { verdict: 'BROKEN', by: outcome.faults.join('; ').slice(0, 400) };
    return { verdict: 'NOT CAUGHT', by: `${outcome.passed} tests pass` };
  } finally {
    for (const [file, text] of originals) copy.write(file, text);
  }
}
