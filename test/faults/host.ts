import { setTimeout as sleep } from 'node:timers/promises';
import type { Market, Server } from '../support/server.ts';
import { runnersOf, serversOf } from './processes.ts';

/** A server whose processes may be killed, and are started again on the same port. */
export type Host = {
  readonly url: string;
  /** The process that was started: the one server, or the parent of several. */
  readonly server: Server;
  /** The processes that answer calls. */
  servers(): number[];
  /** The processes that models run in. */
  runners(): number[];
  /** Server processes that ended without being told to, in words. */
  deaths(): string[];
  /** SIGKILL, now, of one of its processes. */
  kill(pid: number): void;
  /** Resolves when there are as many server processes as at first: starts the first one again where it was killed. */
  recovered(): Promise<void>;
  /** Ends the server with this signal: its exit code. `start` makes another. */
  end(signal: NodeJS.Signals): Promise<number | null>;
  start(): Promise<void>;
};

const RECOVER_MS_MAX = 60_000;

/** Starts a server with so many processes; `env` names its port. */
export async function openHost(market: Market, processes: number, env: Record<string, string>): Promise<Host> {
  const serving = { ...env, MERCATO_PROCESSES: String(processes) };
  let server = await market.start(serving);
  let ending: Promise<number | null> | null = null;
  const killed = new Set<number>();
  const known = new Set(serversOf(server.pid));

  async function start(): Promise<void> {
    await ending;
    ending = null;
    known.clear();
    server = await market.start(serving);
    for (const pid of serversOf(server.pid)) known.add(pid);
  }

  return {
    url: server.url,
    get server() {
      return server;
    },
    servers: () => serversOf(server.pid),
    runners: () => runnersOf(server.pid),
    deaths() {
      const alive = new Set(serversOf(server.pid));
      const dead = [...known].filter((pid) => !alive.has(pid) && !killed.has(pid));
      for (const pid of dead) known.delete(pid);
      return ending ? [] : dead.map((pid) => `the server process ${pid} ended by itself`);
    },
    kill(pid) {
      if (pid === server.pid) ending ??= server.kill('SIGKILL');
      else {
        killed.add(pid);
        process.kill(pid, 'SIGKILL');
      }
    },
    async recovered() {
      if (ending) await start();
      const giveUpMs = performance.now() + RECOVER_MS_MAX;
      const alive = () => serversOf(server.pid).filter((pid) => !killed.has(pid));
      while (alive().length < processes) {
        if (performance.now() > giveUpMs) throw new Error('a server process that was killed was not replaced within a minute');
        await sleep(50);
      }
      for (const pid of alive()) known.add(pid);
    },
    end(signal) {
      ending ??= server.kill(signal);
      return ending;
    },
    start,
  };
}
