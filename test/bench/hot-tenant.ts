/**
 * P7: one hot tenant at the usage layer, without HTTP or models: four processes with leases and the group commit of a server, whose callers admit one
 * unit, settle it, and do so again; beside them as many callers that make one transaction per call. What was settled is compared with the books.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openPostgres } from '../../src/base/database-postgres.ts';
import { createLog } from '../../src/base/log.ts';
import { runAudit } from '../../src/prediction/audit.ts';
import type { Right } from '../support/core.ts';
import { type BenchDatabase, openDatabase } from './database.ts';
import type { Figure, NotRun } from './figure.ts';
import { checkBooks, checkNaive, hotTenant, naiveTables } from './hot-market.ts';
import { type Crew, openCrew } from './hot-orders.ts';
import { cpuSeconds } from './processes.ts';
import { type Effort, median } from './sides.ts';

const PROCESSES = 4;
const WHAT = `admitted and durably billed, one tenant, ${PROCESSES} processes : one transaction per call`;

type Round = { perSecond: number; groups: number; groupMs: number[]; processMicros: number; databaseMicros: number; settled: number };
/** One of those who are compared; `rounds` are added as they are taken. */
type Side = { name: string; crew: Crew; right: Right; callers: number; rounds: Round[]; settled: number };

export async function hotTenants(effort: Effort, callers: readonly number[] = [256, 64]): Promise<Figure | NotRun> {
  await using stack = new AsyncDisposableStack();
  const database = stack.use(await openDatabase());
  if (database.url === null)
    return { id: 'P7', what: WHAT, why: 'set DATABASE_URL: it is about a durable Postgres that several processes share' };
  const directory = await mkdtemp(join(tmpdir(), 'mercato-bench-'));
  stack.defer(() => rm(directory, { recursive: true, force: true }));
  const db = stack.use(await openPostgres({ url: database.url, serverUrl: null, poolSize: 2 }, createLog('warn')));
  const [free, limited] = [await hotTenant(db, false), await hotTenant(db, true)];
  await naiveTables(db, free);
  const ours = stack.use(await openCrew('./hot-process.ts', [database.url, directory], PROCESSES));
  const theirs = stack.use(await openCrew('./hot-naive.ts', [database.url], PROCESSES));
  const sides = callers.flatMap((count): Side[] => {
    const side = { callers: count, rounds: [], settled: 0 };
    return [
      { ...side, name: `${count} callers a process`, crew: ours, right: free, rounds: [] },
      { ...side, name: `${count} callers a process, two limits`, crew: ours, right: limited, rounds: [] },
      { ...side, name: `${count} callers a process, one transaction per call`, crew: theirs, right: free, rounds: [] },
    ];
  });
  if (effort.warmSeconds > 0) for (const side of sides) await take(side, database, effort.warmSeconds / 2);
  for (let round = 0; round < effort.rounds; round++) {
    for (const side of round % 2 === 1 ? sides.toReversed() : sides) side.rounds.push(await take(side, database, effort.seconds));
  }
  await ours[Symbol.asyncDispose]();
  const settledOf = (crew: Crew, right: Right) =>
    sides.filter((side) => side.crew === crew && side.right === right).reduce((sum, { settled }) => sum + settled, 0);
  await checkBooks(db, free, settledOf(ours, free));
  await checkBooks(db, limited, settledOf(ours, limited));
  await checkNaive(db, settledOf(theirs, free));
  const broken = (await runAudit(db)).filter(({ rows }) => rows.length > 0);
  if (broken.length > 0) throw new Error(`the audit found: ${broken.map(({ invariant }) => invariant).join('; ')}`);
  return figureOf(sides);
}

async function take(side: Side, database: BenchDatabase, seconds: number): Promise<Round> {
  const { crew, right, callers } = side;
  const backends = await database.backends();
  const before = [cpuSeconds(crew.pids), cpuSeconds(backends)] as const;
  const done = await crew.work({ right, callers, seconds });
  const sum = (key: 'counted' | 'settled') => done.reduce((total, one) => total + one[key], 0);
  const settled = sum('settled');
  side.settled += settled;
  const micros = (pids: readonly number[], from: number) => ((cpuSeconds(pids) - from) / settled) * 1e6;
  const groupMs = done.flatMap((one) => one.groupMs);
  const cost = { processMicros: micros(crew.pids, before[0]), databaseMicros: micros(backends, before[1]) };
  return { perSecond: sum('counted') / seconds, groups: groupMs.length, groupMs, settled, ...cost };
}

function figureOf(sides: readonly Side[]): Figure {
  const [main, , naive] = sides;
  const rates = (side: Side | undefined) => side?.rounds.map(({ perSecond }) => perSecond) ?? [];
  const said = (side: Side | undefined) => `${median(rates(side)).toFixed(0)}/s`;
  return {
    ...{ id: 'P7', what: WHAT, unit: '/s', rounds: rates(main), value: median(rates(main)) },
    ...{ ours: said(main), theirs: said(naive), mark: { least: 10_000 }, goal: { least: 20_000 } },
    notes: sides.map(noteOf),
  };
}

function noteOf({ name, rounds }: Side): string {
  const of = (key: 'perSecond' | 'processMicros' | 'databaseMicros') => median(rounds.map((round) => round[key])).toFixed(0);
  const cost = `CPU µs per call: processes ${of('processMicros')}, database ${of('databaseMicros')}`;
  const groups = rounds.reduce((sum, round) => sum + round.groups, 0);
  const sorted = rounds.flatMap(({ groupMs }) => groupMs).toSorted((a, b) => a - b);
  const at = (share: number) => (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN).toFixed(1);
  const size = (rounds.reduce((sum, { settled }) => sum + settled, 0) / groups).toFixed(0);
  return `P7 ${name}: ${of('perSecond')}/s; ${cost}${groups === 0 ? '' : `; ${size} calls a group, p50 ${at(0.5)}, p99 ${at(0.99)} ms a group`}`;
}
