/**
 * `npm run bench -- [P1 P3 …] [--rounds N] [--seconds S] [--processes N] [--records N] [--data DIR] [--json FILE]`: how fast, beside what. Durable Postgres
 * where DATABASE_URL names a login that may make databases (the bench makes its own and drops them), else embedded. Mercato is one server
 * process in P1, P3, P4, P5 and P6 unless `--processes` says more. Load comes from processes of their own; everything shares the machine, so
 * only ratios of one run say something. P8 fills books of 10⁷ usage records where it is named, else of 10⁶, or of `--records`.
 */
import { writeFile } from 'node:fs/promises';
import { availableParallelism, cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { joinedRows, manyRows } from './batching.ts';
import { describeDatabase } from './database.ts';
import { firstCall, reloads } from './engine.ts';
import { type Figure, type NotRun, tableOf } from './figure.ts';
import { firstAnswer } from './first-answer.ts';
import { growth } from './growth.ts';
import { hostile } from './hostile.ts';
import { hotTenants } from './hot-tenant.ts';
import { loopDelay } from './loop-delay.ts';
import { type Market, openMarket } from './market.ts';
import { manyCallers, oneCaller } from './overhead.ts';
import { overload } from './overload.ts';
import { pictures } from './pictures.ts';
import { reading } from './reading.ts';
import type { Effort } from './sides.ts';
import { training } from './training.ts';
import { transport } from './transport.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '4' },
    warm: { type: 'string', default: '6' },
    data: { type: 'string' },
    json: { type: 'string' },
    processes: { type: 'string', default: '1' },
    records: { type: 'string' },
  },
});
const effort: Effort = { rounds: Number(values.rounds), seconds: Number(values.seconds), warmSeconds: Number(values.warm) };

const MEASUREMENTS: Record<string, () => Promise<Figure | NotRun | (Figure | NotRun)[]>> = {
  P1: () => inMarket(manyCallers),
  P3: () => inMarket(manyRows),
  P4: () => inMarket(joinedRows),
  P5: () => inMarket(pictures),
  P6: () => inMarket(oneCaller),
  P7: () => hotTenants(effort),
  P8: () => growth(effort, records),
  P9: () => firstCall(effort),
  P10: () => training(effort, values.data ?? testData()),
  P11: () => firstAnswer(effort),
  P12: () => loopDelay(effort),
  R9: () => hostile(effort),
  R10: () => overload(effort),
  LOADS: () => reloads(),
  FRAMES: () => transport(effort),
  READ: async () => reading(effort),
};

/** Where the suite has its data, MNIST is a folder of it. */
function testData(): string | undefined {
  const folder = process.env.MERCATO_TEST_DATA;
  return folder && `${folder}/mnist`;
}

/** Each in a marketplace of its own: what one leaves behind is no load for the next. */
async function inMarket(measure: (market: Market, effort: Effort) => Promise<Figure>): Promise<Figure> {
  await using market = await openMarket([], { MERCATO_PROCESSES: values.processes });
  return await measure(market, effort);
}

const wanted = positionals.length > 0 ? positionals.map((id) => id.toUpperCase()) : Object.keys(MEASUREMENTS);
const unknown = wanted.filter((id) => !(id in MEASUREMENTS));
const records = Number(values.records ?? (positionals.length > 0 ? 10_000_000 : 1_000_000));
const faulty = !(records >= 100_000 && records <= 2 ** 31) || !(effort.rounds >= 1) || !(effort.seconds > 0) || !(effort.warmSeconds >= 0);
if (unknown.length > 0 || faulty) {
  console.error(
    `usage: npm run bench -- [${Object.keys(MEASUREMENTS).join(' ')}] [--rounds N] [--seconds S] [--warm S] [--data DIR] [--json FILE] [--processes N] [--records N]`,
  );
  process.exit(2);
}

const machine = `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${availableParallelism()} cores, Node ${process.version}, ${await describeDatabase()}`;
const date = new Date().toISOString().slice(0, 10);
const results: (Figure | NotRun)[] = [];
for (const id of wanted) {
  console.error(`${id} …`);
  const result = await MEASUREMENTS[id]?.();
  if (result) results.push(...[result].flat());
}
console.log(
  `${machine}\n${date}, ${effort.rounds} rounds of ${effort.seconds} s a side, Mercato as ${values.processes} server process(es); result: the median of the rounds\n`,
);
console.log(tableOf(results));
for (const result of results) if ('notes' in result) for (const note of result.notes) console.log(note);
if (values.json) await writeFile(values.json, `${JSON.stringify({ machine, date, effort, results }, null, 2)}\n`);
