import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { totalmem } from 'node:os';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { Log } from '../base/log.ts';
import { confined, endFirst } from './confinement.ts';
import { connectRunner, type RunnerConnection } from './connection.ts';
import type { DeviceEnvironment } from './devices.ts';
import type { RunFolder } from './run-folder.ts';

const RUNNER = fileURLToPath(new URL('./runner.ts', import.meta.url));
const READY_LIMIT_MS = 60_000;
const PING_INTERVAL_MS = 5_000;
/** One unanswered ping is no proof: after a pause of this process the answer may lie unread. */
const PINGS_LOST_MAX = 2;
const STDERR_CHARS_MAX = 1_000;
/** What a model may take at least; more is a quarter of the memory. */
const MODEL_BYTES_MIN = 2 * 1024 ** 3;
/** How the C++ library, ONNX Runtime and V8 say that memory was refused; a stack of a thread is memory too. */
export const NO_MEMORY = /bad.alloc|fail\w* to allocate|cannot allocate|allocation failed|out of memory|resource temporarily unavailable/i;

/**
 * A live runner process. `ended` resolves when the process is gone, and its socket with it; `killed`: by SIGKILL, which it never sends itself; `onLost` listeners are called when it
 * takes no further call.
 */
export type Runner = {
  pid: number;
  /** Its socket, for other connections. */
  path: string;
  connection: RunnerConnection;
  ended: Promise<void>;
  readonly killed: boolean;
  /** It said so on standard error. */
  readonly refusedMemory: boolean;
  kill(): void;
  onLost(listener: () => void): void;
};

/** `env` is all that a runner gets. `gpu`: drivers of graphics processors keep memory in files without a name. */
export type RunnerSettings = { folder: RunFolder; env: DeviceEnvironment; gpu: boolean };

type Child = ChildProcessByStdio<Writable, Readable, Readable>;

/**
 * Starts a runner and connects to it: an empty environment, an empty read-only working directory, and what `confined` adds. Rejects where it does
 * not listen within a minute.
 */
export async function startRunner({ folder, env, gpu }: RunnerSettings, log: Log): Promise<Runner> {
  const socketPath = folder.nextSocket();
  const [command, ...args] = confined([process.execPath, RUNNER, socketPath], { bytes: modelBytes(), writes: gpu });
  const child = spawn(command, args, { cwd: folder.workingDirectory, env, stdio: ['pipe', 'pipe', 'pipe'] });
  if (child.pid !== undefined) endFirst(child.pid);
  const gone = new Promise<void>((resolve) => {
    child.once('close', resolve);
    child.once('error', () => resolve());
  });
  // Who is killed leaves its socket; no other runner ever gets the name.
  const ended = gone
    .then(() => rm(socketPath, { force: true }))
    .catch((error: unknown) => log.warn({ err: error, path: socketPath }, 'the socket of a runner stays'));
  let wanted = false;
  let killed = false;
  let connected: RunnerConnection | null = null;
  const kill = () => {
    wanted = true;
    child.kill('SIGKILL');
  };
  child.once('exit', (code, signal) => {
    killed = signal === 'SIGKILL';
    if (!wanted && connected?.leaving !== true) log.warn({ pid: child.pid, code, signal }, 'a runner ended by itself');
  });
  const said = logStandardError(child, log);
  try {
    await listening(child, ended, said);
    const listeners: (() => void)[] = [];
    const connection = await connectRunner({ path: socketPath, device: null }, () => {
      for (const listener of listeners) listener();
    });
    connected = connection;
    const stopPings = keepAsking(connection, kill);
    void ended.then(stopPings);
    const runner = { pid: child.pid ?? 0, path: socketPath, connection, ended, kill };
    return {
      ...runner,
      get killed() {
        return killed;
      },
      get refusedMemory() {
        return NO_MEMORY.test(said());
      },
      onLost: (listener) => void listeners.push(listener),
    };
  } catch (error) {
    kill();
    throw error;
  }
}

/** What a runner may take, before it is known what its model needs. */
export function modelBytes(): number {
  const memoryBytes = Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY);
  return Math.max(MODEL_BYTES_MIN, Math.floor(memoryBytes / 4));
}

async function listening(child: Child, ended: Promise<void>, said: () => string): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const ready = await Promise.race([
    new Promise<true>((resolve) => child.stdout.once('data', () => resolve(true))),
    ended.then(() => false),
    new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), READY_LIMIT_MS);
    }),
  ]);
  clearTimeout(timer);
  if (!ready) throw new Error(`A runner ended or hung before it listened${said() === '' ? '.' : `: ${said()}`}`);
}

/** Kills a runner whose I/O thread does not answer; that thread never runs a model, so only a process in distress is silent. */
function keepAsking(connection: RunnerConnection, kill: () => void): () => void {
  let unanswered = 0;
  const timer = setInterval(() => {
    if (unanswered >= PINGS_LOST_MAX) return kill();
    unanswered++;
    connection.stats().then(
      () => {
        unanswered = 0;
      },
      () => {},
    );
  }, PING_INTERVAL_MS);
  timer.unref();
  return () => clearInterval(timer);
}

/** What native code says before it aborts, up to a bound: a model can make it talk. Returns what was said so far. */
function logStandardError(child: Child, log: Log): () => string {
  let said = '';
  child.stdin.on('error', () => {});
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    const more = text.slice(0, STDERR_CHARS_MAX - said.length);
    if (more !== '') log.warn({ pid: child.pid, text: more }, 'a runner wrote to standard error');
    said += more;
  });
  return () => said.trim();
}
