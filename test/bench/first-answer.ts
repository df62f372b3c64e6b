import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digitCall } from './calls.ts';
import type { Figure } from './figure.ts';
import { bodyOf } from './market.ts';
import { ROOT, whenReady } from './processes.ts';
import { type Effort, median } from './sides.ts';

/** P11: from `npm start` in an installed checkout, with an empty data directory and no configuration, to an answered prediction. */
export async function firstAnswer({ rounds }: Effort): Promise<Figure> {
  const seconds: number[] = [];
  for (let round = 0; round < rounds; round++) seconds.push(await once());
  return {
    id: 'P11',
    what: 'npm start to the first answered prediction, embedded',
    unit: 's',
    rounds: seconds,
    value: median(seconds),
    ours: `${median(seconds).toFixed(2)} s`,
    theirs: '',
    mark: { most: 8 },
    goal: { most: 5 },
    notes: [],
  };
}

async function once(): Promise<number> {
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-bench-'));
  const given = { MERCATO_DATA: dataDir, MERCATO_PORT: '0', DATABASE_URL: undefined };
  const body = bodyOf(await digitCall('mercato/digits', 1));
  const startedMs = performance.now();
  try {
    // A group of its own: npm and what it started end together.
    const child = spawn('npm', ['start'], {
      cwd: ROOT,
      env: { ...process.env, ...given },
      stdio: ['ignore', 'pipe', 'ignore'],
      detached: true,
    });
    await using server = await whenReady(child, /curl -s .*\n/, true);
    const find = (pattern: RegExp) => pattern.exec(server.output)?.[1] ?? '';
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${find(/(mk_\w+)/)}` };
    const response = await fetch(`${find(/is at (http:\/\/\S+)/)}`, { method: 'POST', headers, body });
    const answer = await response.text();
    if (!answer.startsWith('{"data":{')) throw new Error(answer);
    return (performance.now() - startedMs) / 1000;
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
}
