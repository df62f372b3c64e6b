import { readFile } from 'node:fs/promises';
import { modelFile, openNaive, runLoop } from './baselines.ts';
import { digitCall } from './calls.ts';
import { type Figure, ratios } from './figure.ts';
import type { Market } from './market.ts';
import { denseNet } from './nets.ts';
import { ROOT } from './processes.ts';
import { costLine, type Effort, inTurns, median } from './sides.ts';

const REQUEST_ROWS = 256;
const LOOP_BATCHES = [32, 64, 128, 256, 512];
/** Enough callers that a request waits at the runner while others are read and written. */
const BULK_CONNECTIONS = 8;

/** P3: rows of the shipped net in requests of 256, beside `session.run` in a loop at its best batch, one thread each. */
export async function manyRows(market: Market, effort: Effort): Promise<Figure> {
  const path = `${ROOT}models/digits/model.onnx`;
  const handle = await market.offer('rows', await readFile(path), REQUEST_ROWS);
  const side = market.side(await digitCall(handle, REQUEST_ROWS));
  const order = { path, input: { name: 'image', datatype: 'UINT8', dims: [28, 28] } as const, outputs: ['label'], threads: 1 };
  const tried = await runLoop({ ...order, batches: LOOP_BATCHES, seconds: effort.seconds / 2 });
  const best = tried.reduce((a, b) => (a.rowsPerSecond > b.rowsPerSecond ? a : b));
  const ours: number[] = [];
  const theirs: number[] = [];
  const notes: string[] = [];
  for (let round = 0; round < effort.rounds; round++) {
    const [[measured] = []] = await inTurns([side], BULK_CONNECTIONS, {
      ...effort,
      rounds: 1,
      warmSeconds: round === 0 ? effort.warmSeconds : 0,
    });
    if (!measured) throw new Error('a round is missing');
    ours.push(measured.perSecond * REQUEST_ROWS);
    notes.push(costLine(`P3 round ${round + 1}`, [measured]));
    const [looped] = await runLoop({ ...order, batches: [best.batch], seconds: effort.seconds });
    theirs.push(looped?.rowsPerSecond ?? Number.NaN);
  }
  return {
    id: 'P3',
    what: `rows/s, ${REQUEST_ROWS}-row requests : session.run loop`,
    unit: '×',
    ...ratios(ours, theirs),
    ours: `${median(ours).toFixed(0)} rows/s`,
    theirs: `${median(theirs).toFixed(0)} rows/s at batch ${best.batch}`,
    mark: { least: 0.8 },
    goal: { least: 0.9 },
    notes,
  };
}

const WIDE = [784, 2048, 2048, 10];

/** P4: 64 callers of one row of a wide net, beside a server that runs each request alone with the better of one thread and all. */
export async function joinedRows(market: Market, effort: Effort, widths: readonly number[] = WIDE): Promise<Figure> {
  await using stack = new AsyncDisposableStack();
  const bytes = denseNet(widths);
  const path = await modelFile(stack, bytes);
  const call = { ...(await digitCall(await market.offer('wide', bytes, 64), 1, [784])), outputs: ['scores'] };
  const single = stack.use(await openNaive({ path, datatype: 'UINT8', threads: 1 }));
  const all = stack.use(await openNaive({ path, datatype: 'UINT8', threads: 0 }));
  const sides = [market.side(call), single.side(call), all.side(call)];
  const [ours = [], one = [], every = []] = await inTurns(sides, 64, effort);
  const rate = (rounds: readonly { perSecond: number }[]) => rounds.map(({ perSecond }) => perSecond);
  const [theirs, threads] = median(rate(one)) >= median(rate(every)) ? [one, 'one thread'] : [every, 'all threads'];
  return {
    id: 'P4',
    what: `64 callers, one row of ${widths.join('-')} : naive Apollo`,
    unit: '×',
    ...ratios(rate(ours), rate(theirs)),
    ours: `${median(rate(ours)).toFixed(0)} rows/s`,
    theirs: `${median(rate(theirs)).toFixed(0)} rows/s, ${threads}`,
    mark: { least: 2 },
    goal: { least: 4 },
    notes: [costLine('P4 Mercato', ours), costLine('P4 naive Apollo', theirs)],
  };
}
