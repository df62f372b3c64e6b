import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readlinkSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { confined, confinement } from '../../src/inference/inference.ts';
import { floats, request, testInference, versionOf } from './setup.ts';
import { identityModel } from './tiny-models.ts';

const CONFINEMENT = new URL('../../src/inference/confinement.ts', import.meta.url).href;
const { inForce } = confinement();
const holds = (words: string) => inForce.some((measure) => measure.includes(words));
const row = floats([1, 2], [1, 2]);

async function loadedPid(trusted = false): Promise<number> {
  const inference = await testInference();
  await inference.run(request(versionOf(identityModel(), { trusted }), [row]));
  return (await inference.status()).deployments[0]?.replicas[0]?.pid ?? 0;
}

/** Runs a script under the same confinement: what it prints, or how it failed. */
async function say(script: string, writes = false, cwd = '/'): Promise<string> {
  const [command, ...args] = confined([process.execPath, '-e', script], { bytes: 2 ** 30, writes });
  return new Promise((resolve) => {
    execFile(command, args, { cwd, env: {} }, (error, stdout) => resolve(stdout.trim() || String(error?.signal ?? error?.code ?? '')));
  });
}

describe('a runner', () => {
  test('has an empty environment and works in an empty folder of its own', async () => {
    const pid = await loadedPid();
    // What the C library or the runtime add at the start is not there: the kernel shows what was given.
    expect(readFileSync(`/proc/${pid}/environ`, 'utf8')).toBe('');
    expect(readlinkSync(`/proc/${pid}/cwd`)).toMatch(/\/w$/);
  });

  test.runIf(holds('no new privileges'))('can gain no privilege', async () => {
    const status = readFileSync(`/proc/${await loadedPid()}/status`, 'utf8');
    expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
    if (holds('no capabilities'))
      for (const set of ['Eff', 'Prm', 'Bnd', 'Inh']) expect(status).toMatch(new RegExp(`^Cap${set}:\\s+0+$`, 'm'));
  });

  test.runIf(holds('bounds of memory'))('leaves no core, writes no file and opens few', async () => {
    const limits = readFileSync(`/proc/${await loadedPid()}/limits`, 'utf8');
    for (const limit of [/Max core file size +0 /, /Max file size +0 /, /Max open files +512 /]) expect(limits).toMatch(limit);
  });

  test('gives way to others on the processor, unless the operator vouches for its version', async () => {
    const nice = (pid: number) => Number(readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ')[16]);
    const own = nice(process.pid);
    expect(nice(await loadedPid(true))).toBe(own);
    expect(nice(await loadedPid())).toBe(5);
  });
});

describe('a confined process', () => {
  test.runIf(holds('bounds of memory'))('starts where this process may itself hold less', async () => {
    const script = `const { confined } = await import(${JSON.stringify(CONFINEMENT)});
      const [command, ...args] = confined(['/bin/true'], { bytes: 2 ** 40, writes: false });
      console.log(require('node:child_process').spawnSync(command, args).status);`;
    const args = [`--data=${2 ** 30}`, process.execPath, '--input-type=commonjs', '-e', `(async () => { ${script} })()`];
    expect((await promisify(execFile)('/usr/bin/prlimit', args)).stdout.trim()).toBe('0');
  });

  test.runIf(holds('no network'))('reaches no port of this machine', async () => {
    const server = createServer((socket) => socket.end()).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    const port = typeof address === 'object' ? address?.port : 0;
    const script = `require('node:net').connect(${port}, '127.0.0.1').on('connect', () => console.log('REACHED')).on('error', (e) => console.log(e.code))`;
    expect(await say(script)).toMatch(/^E(CONNREFUSED|NETUNREACH|ADDRNOTAVAIL)$/);
    server.close();
  });

  test.runIf(holds('a bound of processes'))('starts few processes', async () => {
    const script = `let n = 0;
      const next = () => require('node:child_process').spawn('/bin/sleep', ['60'], { stdio: 'ignore' })
        .on('error', (error) => { console.log(error.code); process.exit(); })
        .on('spawn', () => { if (++n < 512) return next(); console.log('STARTED'); process.exit(); });
      next();`;
    expect(await say(script)).toBe('EAGAIN');
  });

  test.runIf(holds('bounds of memory'))('writes no file, unless it may', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'mercato-test-'));
    const script = `require('node:fs').writeFileSync('${folder}/file', 'text'); console.log('WRITTEN')`;
    expect(await say(script)).not.toContain('WRITTEN');
    expect(await say(script, true)).toBe('WRITTEN');
    await rm(folder, { recursive: true });
  });
});
