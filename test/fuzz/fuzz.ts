/**
 * `npm run fuzz -- [--count N] [--seed N] [--every N] [--cases ARCHIVE]`: N mutants (20,000), by structure, of tiny models and of ONNX's backend cases:
 * Mercato's reader, then a runtime process beside a secret file, and one in a hundred (`--every`), rejected or not, through a running marketplace over HTTP, on a database of its
 * own where DATABASE_URL names a login that may make one, else embedded. Exits 1 where the reader throws anything but MODEL_REJECTED, the secret comes
 * out, the server ends, grows with its uploads, or takes what the reader rejects, or a call is answered later than its deadline and 250 ms.
 */
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { openDatabase } from '../bench/database.ts';
import { openCases } from '../conformance/cases.ts';
import { throughTheDoor } from './door.ts';
import { fuzz, TINY } from './run.ts';

const DEFAULT_ARCHIVE = new URL('../../../shared/data/onnx/onnx-backend-cases-v1.22.0.tar.gz', import.meta.url).pathname;
const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '20000' },
    seed: { type: 'string', default: '1' },
    every: { type: 'string', default: '100' },
    cases: { type: 'string', default: DEFAULT_ARCHIVE },
  },
});
const bases = [...TINY];
if (existsSync(values.cases)) {
  await using cases = await openCases(values.cases);
  for (const name of cases.names) {
    const { model } = await cases.read(name);
    if (model.length < 100_000) bases.push(model);
  }
}
console.log(`${bases.length} models, ${values.count} mutants from seed ${values.seed}`);
const tell = (done: number) => {
  if (done % 2_000 === 0) console.error(done);
};
const report = await fuzz(bases, Number(values.count), Number(values.seed), tell, Number(values.every));
const { tally, rss, victims, leaks, unexpected, chosen, worstLateMs } = report;
console.log(
  Object.entries(tally)
    .map(([name, count]) => `${name} ${count}`)
    .join(', '),
);
console.log(
  `worst answer after its time ${worstLateMs.toFixed(0)} ms; processes started ${victims}; this one's memory in MiB ${rss.map((bytes) => (bytes / 2 ** 20).toFixed(0)).join(', ')}`,
);
await using database = await openDatabase();
const door = await throughTheDoor(chosen, database.url === null ? undefined : { url: database.url, drop: async () => {} });
console.log(
  `over HTTP ${door.asked}: ${Object.entries(door.outcomes)
    .map(([code, count]) => `${code} ${count}`)
    .join(', ')}`,
);
console.log(
  `worst answer after its deadline ${door.worstLateMs.toFixed(0)} ms; the server's memory in MiB${database.url === null ? ', with its database' : ''} ${eighths(door.rssMib).join(', ')}`,
);
for (const { seed, error } of unexpected) console.log(`UNEXPECTED at seed ${seed}: ${error}`);
for (const seed of leaks) console.log(`THE SECRET CAME OUT at seed ${seed}`);
for (const fault of door.faults) console.log(`FAULT ${fault}`);

function eighths(values: readonly number[]): number[] {
  const step = Math.max(1, Math.floor((values.length - 1) / 8));
  return values.filter((_, index) => index % step === 0 || index === values.length - 1);
}

process.exitCode = unexpected.length + leaks.length + door.faults.length === 0 ? 0 : 1;
