import cluster, { type Worker } from 'node:cluster';
import { setTimeout as sleep } from 'node:timers/promises';
import { openFleet } from './app.ts';
import type { Log } from './base/log.ts';
import type { Config } from './config.ts';
import { serveFleet } from './inference/inference.ts';

/** A server process that ended by itself is replaced after this pause. */
const REPLACE_AFTER_MS = 1_000;
/** Ctrl-C under npm arrives twice; a person who insists is slower. */
const REPEATED_MS_MAX = 500;

/** Of a connection, inside Node. */
type Handle = { close(): void };
type Ready = { ready: true; banner: string };

/** A server process says that it listens, and what its parent may print. */
export function sayReady(banner: string): void {
  process.send?.({ ready: true, banner } satisfies Ready);
}

/**
 * Several server processes on one port, which share the host's runners: this process owns those, and holds neither a database connection nor a
 * request. The first is started alone, so that it migrates, seeds and makes keys for the others. A process that ends by itself is replaced. A
 * signal is passed on; each drains. Resolves to the exit code when all are gone.
 */
export async function runProcesses(config: Config, log: Log): Promise<number> {
  await using fleet = await openFleet(config, log);
  const workers = new Set<Worker>();
  let stopping = false;
  let signalledMs = Number.POSITIVE_INFINITY;
  let exitCode = 0;
  const ended = Promise.withResolvers<void>();

  /** Resolves to what the process prints when it serves; rejects with its exit code where it ends before. */
  function start(): Promise<string> {
    const worker = cluster.fork();
    workers.add(worker);
    closeWhatItNeverTook(worker);
    serveFleet(fleet, worker.process);
    return new Promise((resolve, reject) => {
      let ready = false;
      worker.on('message', (message: unknown) => {
        if (!isReady(message)) return;
        ready = true;
        resolve(message.banner);
      });
      worker.once('exit', (code, signal) => {
        workers.delete(worker);
        endIfLast();
        if (!ready) return reject(code || 1);
        if (stopping) {
          exitCode ||= code ?? 1;
          return;
        }
        log.error({ pid: worker.process.pid, code, signal }, 'a server process ended; starting another');
        void replace();
      });
    });
  }

  /** Until one serves. */
  async function replace(): Promise<void> {
    for (let serves = false; !serves; ) {
      await sleep(REPLACE_AFTER_MS);
      if (stopping) return;
      serves = await start().then(
        () => true,
        () => false,
      );
    }
  }

  function endIfLast(): void {
    if (stopping && workers.size === 0) ended.resolve();
  }

  function onSignal(signal: NodeJS.Signals): void {
    const nowMs = performance.now();
    if (nowMs - signalledMs > REPEATED_MS_MAX) {
      for (const worker of workers) worker.process.kill('SIGKILL');
      process.exit(1);
    }
    signalledMs = Math.min(signalledMs, nowMs);
    if (stopping) return;
    stopping = true;
    log.info({ signal, processes: workers.size }, 'draining');
    for (const worker of workers) worker.process.kill('SIGTERM');
    endIfLast();
  }

  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, onSignal);
  try {
    const banner = await start();
    await Promise.all(Array.from({ length: config.processes - 1 }, start));
    process.stdout.write(banner);
  } catch (code) {
    stopping = true;
    exitCode = typeof code === 'number' ? code : 1;
    for (const worker of workers) worker.process.kill('SIGTERM');
    endIfLast();
  }
  await ended.promise;
  return exitCode;
}

/**
 * node:cluster forgets the connection that it was handing to a process when that died: it stays open in this one, and its client would wait for an
 * answer for ever. Closed, the client sees what it sees of every other connection of that process.
 */
function closeWhatItNeverTook({ process: child }: Worker): void {
  const handed = new Map<unknown, Handle>();
  const send = child.send.bind(child) as (...given: unknown[]) => boolean;
  child.send = (...given: unknown[]) => {
    const [message, handle] = given as [{ act?: string; seq?: number } | null, Handle | undefined];
    if (handle && message?.act === 'newconn') handed.set(message.seq, handle);
    return send(...given);
  };
  child.on('internalMessage', (message: { ack?: number }) => handed.delete(message.ack));
  child.once('exit', () => {
    for (const handle of handed.values()) handle.close();
  });
}

function isReady(message: unknown): message is Ready {
  return typeof message === 'object' && message !== null && 'ready' in message && message.ready === true;
}
