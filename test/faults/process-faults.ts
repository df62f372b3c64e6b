import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Dice } from '../fuzz/random.ts';
import { killAt } from './moments.ts';
import { POINTS } from './proxy.ts';
import { each, type Fault, type Round, type Running, underLoad } from './round.ts';
import type { Stage } from './stage.ts';

const EXIT_MS_MAX = 5_000;
const FAKETIME = ['/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib64', '/usr/local/lib']
  .map((directory) => `${directory}/faketime/libfaketimeMT.so.1`)
  .find((path) => existsSync(path));

/** Faults of the server's processes: killed, stopped for a while, ended politely, with a wrong clock. */
export const PROCESS_FAULTS: readonly Fault[] = [
  {
    name: 'kill -9 of a server process',
    processes: [1, 4],
    runs: 2,
    fullRuns: 100,
    perRound: 10,
    round: underLoad(
      each(async ({ stage, dice }) => {
        await sleep(dice.below(100));
        stage.kill(dice.pick(stage.servers()));
        await stage.recovered();
        return undefined;
      }),
    ),
  },
  {
    name: 'kill -9 of the primary',
    processes: [4],
    runs: 1,
    fullRuns: 100,
    perRound: 10,
    round: underLoad(
      each(async ({ stage, dice }) => {
        await sleep(dice.below(100));
        stage.kill(stage.server.pid);
        await stage.recovered();
        return undefined;
      }),
    ),
  },
  {
    name: 'kill -9 of the runners',
    processes: [1, 4],
    runs: 1,
    fullRuns: 100,
    // A third would be the strike that suspends the version for the payer.
    perRound: 2,
    round: runnersKilled,
  },
  ...POINTS.map(
    (point): Fault => ({
      name: `kill -9 ${point}`,
      processes: [1, 4],
      runs: 1,
      fullRuns: 100,
      perRound: 10,
      round: underLoad(each(({ stage }) => killAt(stage, point, 'settlement'))),
    }),
  ),
  {
    name: 'SIGSTOP beyond the lease',
    processes: [1, 4],
    runs: 1,
    fullRuns: 100,
    perRound: 5,
    round: underLoad(
      each(async ({ stage, dice }) => {
        const pid = dice.pick(stage.servers());
        process.kill(pid, 'SIGSTOP');
        await sleep(3_000 + dice.below(2_000));
        process.kill(pid, 'SIGCONT');
        return undefined;
      }),
    ),
  },
  {
    name: 'SIGTERM, and another server',
    processes: [1, 4],
    runs: 1,
    fullRuns: 1_000,
    perRound: 20,
    // A process that has filled Node's cache of compiled code writes it at its exit, seconds long where the disk is busy. Who runs Mercato has none.
    env: { NODE_DISABLE_COMPILE_CACHE: '1' },
    round: underLoad(roll),
  },
  ...[1, -1].map(
    (days): Fault => ({
      name: `clock ${days > 0 ? '+' : '−'}1 day`,
      processes: [1, 4],
      runs: 1,
      fullRuns: 10,
      perRound: 1,
      env: {
        LD_PRELOAD: FAKETIME ?? '',
        FAKETIME: `${days > 0 ? '+' : '-'}1d`,
        DONT_FAKE_MONOTONIC: '1',
        FAKETIME_DONT_FAKE_MONOTONIC: '1',
      },
      notRun: () => (FAKETIME === undefined ? 'no faketime' : null),
      round: underLoad(
        each(async ({ callers }) => {
          await callers.more(500);
          return undefined;
        }),
      ),
    }),
  ),
];

/** Whose run ends with its runner is told that the model failed, and is not billed: as for a model that crashes, which looks the same. Sent again, it is answered. */
async function runnersKilled(stage: Stage, runs: number, dice: Dice): Promise<Round> {
  const kill = async () => {
    await sleep(dice.below(100));
    const runners = stage.runners();
    for (const pid of runners) process.kill(pid, 'SIGKILL');
    return runners.length === 0 ? ['there was no runner'] : [];
  };
  const round = await underLoad(each(kill))(stage, runs, dice);
  const failed = round.journal.refusals().get('MODEL_FAILED') ?? 0;
  round.notes.push(`${failed} calls were in a run whose runner was killed`);
  return { ...round, wrong: round.wrong.filter((text) => !text.startsWith('MODEL_FAILED')) };
}

/** Each answer that was billed must have reached its caller: a retry that finds it stored says that it did not. */
async function roll({ stage, journal, callers, note }: Running, runs: number): Promise<string[]> {
  const wrong: string[] = [];
  let longestMs = 0;
  for (let run = 0; run < runs; run++) {
    await callers.more(100);
    const startedMs = performance.now();
    const code = await stage.end('SIGTERM');
    const tookMs = performance.now() - startedMs;
    longestMs = Math.max(longestMs, tookMs);
    if (code !== 0) wrong.push(`the server exited with ${code}`);
    if (tookMs > EXIT_MS_MAX) wrong.push(`the server took ${(tookMs / 1000).toFixed(1)} s to exit`);
    await stage.start();
  }
  await callers.more(100);
  const unheard = journal.entries.filter(({ foundStored }) => foundStored).length;
  if (unheard > 0) wrong.push(`${unheard} calls were billed and their answers lost`);
  note(`longest exit ${(longestMs / 1000).toFixed(2)} s; ${journal.unknown} connections closed on a call that nobody had taken`);
  return wrong;
}
