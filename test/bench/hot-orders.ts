import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import type { Right } from '../support/core.ts';

/** So many callers, each with the next call as soon as its last is settled, for so long. */
export type HotOrder = { right: Right; callers: number; seconds: number };
/** `counted`: settled within the time; `settled`: those that were under way at its end included. */
export type Done = { counted: number; settled: number; groupMs: number[] };

/** In a child: does what the parent orders until it says no more. */
export async function takeOrders(work: (order: HotOrder) => Promise<Done>): Promise<void> {
  const over = once(process, 'disconnect');
  process.on('message', (order: HotOrder) => {
    work(order).then(
      (done) => process.send?.(done),
      (error: unknown) => {
        console.error(error);
        process.exit(1);
      },
    );
  });
  process.send?.('ready');
  await over;
}

export async function underLoad({ callers, seconds }: HotOrder, call: () => Promise<void>): Promise<Omit<Done, 'groupMs'>> {
  const endMs = performance.now() + seconds * 1_000;
  let [counted, settled] = [0, 0];
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (performance.now() < endMs) {
        await call();
        settled++;
        if (performance.now() < endMs) counted++;
      }
    }),
  );
  return { counted, settled };
}

/** Processes that take the same order at the same time. */
export type Crew = AsyncDisposable & { pids: number[]; work(order: HotOrder): Promise<Done[]> };

export async function openCrew(file: string, args: readonly string[], size: number): Promise<Crew> {
  const execArgv = ['--disable-warning=ExperimentalWarning'];
  const children = Array.from({ length: size }, () => fork(new URL(file, import.meta.url), args, { serialization: 'advanced', execArgv }));
  await Promise.all(children.map(answerOf));
  return {
    pids: children.map(({ pid }) => pid ?? 0),
    work: (order) =>
      Promise.all(
        children.map((child) => {
          child.send(order);
          return answerOf<Done>(child);
        }),
      ),
    async [Symbol.asyncDispose]() {
      await Promise.all(
        children.map(async (child) => {
          if (child.exitCode !== null || child.signalCode !== null) return;
          const ended = once(child, 'exit');
          if (child.connected) child.disconnect();
          await ended;
        }),
      );
    },
  };
}

function answerOf<T>(child: ChildProcess): Promise<T> {
  return new Promise((resolve, reject) => {
    const failed = (code: number | null) => reject(new Error(`a process of the bench exited with ${code}`));
    child.once('exit', failed);
    child.once('message', (answer) => {
      child.off('exit', failed);
      resolve(answer as T);
    });
  });
}
