/**
 * `npm run faults -- [--only NAME] [--runs N] [--seed N] [--full] [--processes 1,4,2x2] [--quota N] [--log LEVEL] [--allow-not-run]`: a real server on a
 * durable Postgres of its own, with a proxy between, is killed, stopped, cut off and cheated while calls run; then every call without an answer is
 * sent again, and the books are counted beside the callers'. `--full`: as often as the goals say. Exits 1 where a figure is not zero, 2 where there is
 * no Postgres to run or nothing to do, 3 where all is clean but a fault could not be run here, unless that is allowed.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { children } from '../support/leftovers.ts';
import { seedMarket } from '../support/server.ts';
import { findBinaries, openCluster } from './cluster.ts';
import { FAULTS } from './list.ts';
import { exitCodeOf, type Result, runFault, tableOf, verdictOf } from './run.ts';
import { AS_STARTED, type Ground } from './stage.ts';
import { keyOf, Stages } from './stages.ts';

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    runs: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    processes: { type: 'string', default: '1,4,2x2' },
    quota: { type: 'string', default: '200' },
    full: { type: 'boolean', default: false },
    log: { type: 'string', default: 'silent' },
    'allow-not-run': { type: 'boolean', default: false },
  },
});
const wanted = FAULTS.filter(({ name }) => name.toLowerCase().includes((values.only ?? '').toLowerCase()));
const seed = Number(values.seed);
const runs = values.runs === undefined ? null : Number(values.runs);
const layouts = values.processes.replaceAll('x', '×').split(',');
const plan = wanted.flatMap((fault) =>
  fault.processes.filter((layout) => layouts.includes(String(layout))).map((processes) => ({ fault, processes })),
);
if (plan.length === 0 || !Number.isInteger(seed) || (runs !== null && !(runs >= 1)) || !(Number(values.quota) >= 1)) {
  console.error(
    'usage: npm run faults -- [--only NAME] [--runs N] [--seed N] [--full] [--processes 1,4,2x2] [--quota N] [--log LEVEL] [--allow-not-run]',
  );
  console.error(`faults: ${FAULTS.map(({ name }) => name).join('; ')}`);
  process.exit(2);
}
/** Equal for those that may do their work on one stage. */
const placeOf = ({ fault, processes }: (typeof plan)[number]) => keyOf(processes, fault.env);
const binaries = findBinaries();
if (binaries === null) {
  console.error('There is no Postgres to run: neither /usr/lib/postgresql nor PATH has initdb and pg_ctl.');
  process.exit(2);
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
process.once('exit', () => {
  for (const child of children) child.kill('SIGKILL');
});

const results: Result[] = [];
{
  await using stack = new AsyncDisposableStack();
  const cluster = stack.use(await openCluster(binaries));
  console.log(`${cluster.described}, ${availableParallelism()} cores, Node ${process.version}, seed ${seed}`);
  const first = await cluster.createDatabase();
  const once = mkdtempSync(join(tmpdir(), 'mercato-'));
  stack.defer(() => rmSync(once, { recursive: true }));
  process.env.MERCATO_TEST_ONCE = once;
  const dataDir = join(once, 'first');
  await seedMarket(first, dataDir, { ...AS_STARTED, DATABASE_SERVER_URL: first.serverUrl });
  await cluster.makeTemplate(first.name);
  const createDatabase = () => cluster.createDatabase(first.name);
  const ground: Ground = { cluster, createDatabase, dataDir, logLevel: values.log, quotaUnits: Number(values.quota) };
  const stages = stack.use(new Stages(ground, seed));
  const places = [...new Set(plan.map(placeOf))];
  for (const { fault, processes } of plan.toSorted((a, b) => places.indexOf(placeOf(a)) - places.indexOf(placeOf(b)))) {
    const result = await runFault(fault, { stages, processes, seed, runs: runs ?? (values.full ? fault.fullRuns : fault.runs) });
    results.push(result);
    console.error(`${result.name}, ${processes}: ${verdictOf(result)}, ${result.seconds.toFixed(1)} s`);
    for (const text of [...result.notes, ...result.wrong].slice(0, 10)) console.error(`  ${text}`);
  }
}
const order = ({ name, processes }: Result) => plan.findIndex((one) => one.fault.name === name && one.processes === processes);
results.sort((a, b) => order(a) - order(b));
console.log(tableOf(results));
for (const { name, processes, notes } of results) for (const note of notes) console.log(`${name}, ${processes}: ${note}`);
const notRun = results.filter(({ notRun }) => notRun !== null).length;
console.log(
  `${results.reduce((sum, { seconds }) => sum + seconds, 0).toFixed(0)} s${notRun === 0 ? '' : `; ${notRun} of ${results.length} NOT RUN`}`,
);
process.exitCode = exitCodeOf(results, values['allow-not-run']);
