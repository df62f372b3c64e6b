import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { modelFile, openNaive } from './baselines.ts';
import { digitCall, pictureCall } from './calls.ts';
import type { Delay } from './delay.ts';
import type { Figure } from './figure.ts';
import { load } from './load.ts';
import { openMarket } from './market.ts';
import { resNet50 } from './nets.ts';
import { ROOT } from './processes.ts';
import { type Effort, median } from './sides.ts';

const PRELOAD = ['--import', pathToFileURL(`${ROOT}test/bench/delay.ts`).href];

/** P12: how late the server's event loop is under full load, and while it takes, checks and loads a model of 100 MB. */
export async function loopDelay(effort: Effort): Promise<Figure> {
  const net = resNet50();
  await using stack = new AsyncDisposableStack();
  const folder = await mkdtemp(join(tmpdir(), 'mercato-bench-delay-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const [ourFile, theirFile] = [join(folder, 'ours'), join(folder, 'theirs')];
  const market = stack.use(await openMarket(PRELOAD, { BENCH_DELAY_FILE: ourFile }));
  const side = market.side(await digitCall('mercato/digits', 1));
  await load({ ...side, connections: 64, seconds: effort.warmSeconds });
  const full: Delay[] = [];
  const during = async (work: () => Promise<unknown>) => {
    await seen(market.pid, ourFile);
    await work();
    return seen(market.pid, ourFile);
  };
  for (let round = 0; round < effort.rounds; round++)
    full.push(await during(() => load({ ...side, connections: 64, seconds: effort.seconds })));
  let handle = '';
  const offered = await during(async () => {
    handle = await market.offer('pictures', net, 4);
  });
  const loaded = await during(() => market.predict(pictureCall(handle)));

  const path = await modelFile(stack, net);
  const env = { BENCH_DELAY_FILE: theirFile };
  const naive = stack.use(await openNaive({ path, datatype: 'FP32', threads: 1, nodeOptions: PRELOAD, env }));
  const theirs = naive.side(pictureCall('any'));
  await seen(naive.pid, theirFile);
  await fetch(theirs.url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: theirs.body });
  const naively = await seen(naive.pid, theirFile);

  const p99 = full.map(({ p99Ms }) => p99Ms);
  const worst = Math.max(median(p99), offered.p99Ms, loaded.p99Ms);
  const said = (name: string, delay: Delay) =>
    `P12 ${name}: p50 ${delay.p50Ms.toFixed(1)}, p99 ${delay.p99Ms.toFixed(1)}, max ${delay.maxMs.toFixed(1)} ms`;
  return {
    id: 'P12',
    what: 'event loop delay p99, the worst of full load, upload with check, load',
    unit: 'ms',
    rounds: [...p99, offered.p99Ms, loaded.p99Ms],
    value: worst,
    ours: `${median(p99).toFixed(1)}, ${offered.p99Ms.toFixed(1)}, ${loaded.p99Ms.toFixed(1)} ms`,
    theirs: `max ${naively.maxMs.toFixed(0)} ms, naive, first call`,
    mark: null,
    goal: { most: 20 },
    notes: [
      ...full.map((delay, round) => said(`full load, round ${round + 1}`, delay)),
      said('upload and check', offered),
      said('first call, with its load', loaded),
      said('naive, first call with its load', naively),
    ],
  };
}

/** What the preloaded monitor saw since it was last asked. */
async function seen(pid: number, file: string): Promise<Delay> {
  await rm(file, { force: true });
  process.kill(pid, 'SIGUSR2');
  for (;;) {
    const text = await readFile(file, 'utf8').catch(() => null);
    if (text !== null) return JSON.parse(text) as Delay;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
