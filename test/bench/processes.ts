import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';

const ROOT = new URL('../..', import.meta.url).pathname;
/** Of the kernel's clock ticks, as on every Linux that Node supports. */
const TICKS_PER_SECOND = 100;

export type Started = { child: ChildProcess; pid: number; output: string };

/** Starts a program of this repository and waits until its output matches. */
export function start(file: string, env: Record<string, string>, ready: RegExp): Promise<Started> {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', '--disable-warning=DeprecationWarning', file], {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return new Promise((resolve, reject) => {
    let output = '';
    child.stdout.on('data', (part: Buffer) => {
      output += part.toString('utf8');
      if (ready.test(output)) resolve({ child, pid: child.pid ?? 0, output });
    });
    child.on('exit', (code) => reject(new Error(`${file} exited with ${code}: ${output}`)));
  });
}

export async function stop({ child }: Started): Promise<void> {
  child.removeAllListeners('exit');
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  await ended;
}

/** CPU seconds that a process and its ended children have used. */
export function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

export type Load = { url: string; headers: Record<string, string>; body: string; connections: number; seconds: number };
export type Measured = { perSecond: number; p50Ms: number; p99Ms: number; requests: number; failed: number };

/** Load by autocannon, in a process of its own. */
export async function load({ url, headers, body, connections, seconds }: Load): Promise<Measured> {
  const given = Object.entries({ 'content-type': 'application/json', ...headers }).flatMap(([name, value]) => ['-H', `${name}=${value}`]);
  const args = ['-c', String(connections), '-d', String(seconds), '-m', 'POST', ...given, '-b', body, '--json', url];
  const { stdout } = await promisify(execFile)(process.execPath, [`${ROOT}node_modules/autocannon/autocannon.js`, ...args], {
    maxBuffer: 1 << 24,
  });
  const result = JSON.parse(stdout) as {
    requests: { average: number; total: number };
    latency: { p50: number; p99: number };
    errors: number;
    non2xx: number;
  };
  return {
    perSecond: result.requests.average,
    p50Ms: result.latency.p50,
    p99Ms: result.latency.p99,
    requests: result.requests.total,
    failed: result.errors + result.non2xx,
  };
}
