import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';

export const ROOT = new URL('../..', import.meta.url).pathname;
const QUIET = ['--disable-warning=ExperimentalWarning', '--disable-warning=DeprecationWarning'];
/** Of the kernel's clock ticks, as on every Linux that Node supports. */
const TICKS_PER_SECOND = 100;

export type Started = AsyncDisposable & { pid: number; output: string };
type Environment = Readonly<Record<string, string | undefined>>;

/** Starts a program of this repository and waits until its output matches; `nodeOptions` stand before the file. Disposing ends it. */
export function start(
  file: string,
  env: Environment,
  ready: RegExp,
  nodeOptions: readonly string[] = [],
  args: readonly string[] = [],
): Promise<Started> {
  const options: SpawnOptions = { cwd: ROOT, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'inherit'] };
  return whenReady(spawn(process.execPath, [...QUIET, ...nodeOptions, file, ...args], options), ready);
}

/** Waits for a process's standard output to match; ends its whole group where it leads one. */
export function whenReady(child: ChildProcess, ready: RegExp, group = false): Promise<Started> {
  const pid = child.pid ?? 0;
  return new Promise((resolve, reject) => {
    let output = '';
    const failed = (code: number | null) => reject(new Error(`a program exited with ${code}: ${output}`));
    child.once('exit', failed);
    child.once('error', reject);
    child.stdout?.on('data', (part: Buffer) => {
      output += part.toString('utf8');
      if (!ready.test(output)) return;
      child.off('exit', failed);
      resolve({
        pid,
        output,
        async [Symbol.asyncDispose]() {
          if (child.exitCode !== null || child.signalCode !== null) return;
          const ended = once(child, 'exit');
          process.kill(group ? -pid : pid, 'SIGTERM');
          await ended;
        },
      });
    });
  });
}

/** Runs a program of this repository to its end and reads its output as JSON. */
export async function runJson<T>(file: string, args: readonly string[], input = '', env: Environment = {}): Promise<T> {
  const child = spawn(process.execPath, [...QUIET, file, ...args], {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(child, 'exit');
  child.stdin.end(input);
  const output = await text(child.stdout);
  const [code] = await ended;
  if (code !== 0) throw new Error(`${file} exited with ${code}: ${output}`);
  return JSON.parse(output) as T;
}

/** CPU seconds of living processes, all their threads; one that is gone, or not on this machine, counts nothing. */
export function cpuSeconds(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + (cpuOf(pid) ?? 0), 0);
}

function cpuOf(pid: number): number | null {
  const fields = statOf(pid);
  return fields && (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** The fields after the name, which may hold spaces. */
function statOf(pid: number): string[] | null {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? null;
  } catch {
    return null;
  }
}

/** A server with the processes that it shares its port with, and their runners. */
export function partsOf(server: number): { servers: number[]; runners: number[] } {
  const children = Map.groupBy(childrenOf(server), (pid) => (runs(pid, 'src/main.ts') ? 'servers' : 'runners'));
  return { servers: [server, ...(children.get('servers') ?? [])], runners: children.get('runners') ?? [] };
}

function runs(pid: number, file: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(file);
  } catch {
    return false;
  }
}

/** The direct children of a process. */
function childrenOf(parent: number): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0 && Number(statOf(pid)?.[1]) === parent);
}
