/**
 * `npm run bench`: one row of `digits` per GraphQL call, by API key, metered and durably billed, beside a bare Apollo on Fastify whose
 * resolver returns a constant. Both servers run at once and are loaded in turns, so that noise of the machine falls on both. Durable
 * Postgres where DATABASE_URL names an empty database, else embedded. Load is a process of its own; everything shares the machine.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { cpuSeconds, load, type Measured, type Started, start, stop } from './processes.ts';

const ROUNDS = 3;
const SECONDS = Number(process.env.BENCH_SECONDS ?? 5);

const dataDir = await mkdtemp(join(tmpdir(), 'mercato-bench-'));
const mercato = await start(
  'src/main.ts',
  { MERCATO_DATA: dataDir, MERCATO_PORT: '0', MERCATO_SEED: '1', MERCATO_LOG_LEVEL: 'warn', NODE_ENV: 'production' },
  /curl -s .*\n/,
);
const bare = await start('test/bench/bare.ts', { NODE_ENV: 'production' }, /http:\/\/\S+\n/);

const find = (pattern: RegExp) => pattern.exec(mercato.output)?.[1] ?? '';
const query = 'mutation($input:PredictInput!){predict(input:$input){prediction{outputs{name data} usage{units}}}}';
const inputs = [{ name: 'image', datatype: 'UINT8', shape: [1, 28, 28], data: find(/"data":"([^"]+)"/) }];
const body = JSON.stringify({ query, variables: { input: { model: 'mercato/digits', outputs: ['label'], inputs } } });

const sides = [
  { name: 'mercato', server: mercato, url: `${find(/is at (http:\S+)/)}`, headers: { authorization: `Bearer ${find(/(mk_\w+)/)}` } },
  { name: 'bare', server: bare, url: `${bare.output.trim()}/graphql`, headers: {} },
];

type Row = Measured & { cpuMicros: number };

async function measure(side: { server: Started; url: string; headers: Record<string, string> }, connections: number): Promise<Row> {
  const before = cpuSeconds(side.server.pid);
  const measured = await load({ url: side.url, headers: side.headers, body, connections, seconds: SECONDS });
  if (measured.failed > 0) throw new Error(`${measured.failed} calls failed`);
  return { ...measured, cpuMicros: ((cpuSeconds(side.server.pid) - before) / measured.requests) * 1e6 };
}

for (const side of sides) await load({ ...side, body, connections: 64, seconds: 8 });

console.log(
  `${cpus()[0]?.model ?? 'unknown CPU'}, ${availableParallelism()} cores, Node ${process.version}, ${new Date().toISOString().slice(0, 10)}`,
);
console.log(
  process.env.DATABASE_URL ? 'Postgres, synchronous_commit on unless the server says otherwise' : 'embedded database (fsync off)',
);
for (const connections of [64, 1]) {
  const rounds: [Row, Row][] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const [ours, theirs] = sides;
    if (!ours || !theirs) throw new Error('a side is missing');
    rounds.push([await measure(ours, connections), await measure(theirs, connections)]);
  }
  console.log(`\n${connections} connection${connections === 1 ? '' : 's'}`);
  console.log('round  side      requests/s   p50 ms   p99 ms   CPU µs/request');
  rounds.forEach((pair, round) => {
    pair.forEach((row, side) => {
      const cells = [
        row.perSecond.toFixed(0).padStart(10),
        row.p50Ms.toFixed(1).padStart(8),
        row.p99Ms.toFixed(1).padStart(8),
        row.cpuMicros.toFixed(0).padStart(16),
      ];
      console.log(`${String(round + 1).padEnd(6)} ${(sides[side]?.name ?? '').padEnd(9)}${cells.join(' ')}`);
    });
  });
  const ratios = rounds.map(([ours, theirs]) => ours.perSecond / theirs.perSecond).sort((a, b) => a - b);
  console.log(
    `ratio of requests/s, median of ${ROUNDS}: ${ratios[Math.floor(ROUNDS / 2)]?.toFixed(2)} (${ratios.map((r) => r.toFixed(2)).join(', ')})`,
  );
}

await stop(mercato);
await stop(bare);
await rm(dataDir, { recursive: true, force: true });
