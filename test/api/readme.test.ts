import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { copyFile, mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { openMarket } from '../support/server.ts';

const root = new URL('../..', import.meta.url).pathname;
const given = process.env.MERCATO_TEST_DATA;
const model = resolve(root, given ?? '../shared/data', 'onnx/light_squeezenet.onnx');

/** The commands of the README's walk-through and the answers it shows, in their order. */
function walkThrough(): { commands: string; answers: string[] } {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const blocks = (language: string) =>
    [...readme.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\`$`, 'gms'))].map(([, text = '']) => text);
  return { commands: blocks('bash').join(''), answers: blocks('json').join('').trim().split('\n') };
}

/** A shown answer as a pattern: `…` stands for anything. */
const patternOf = (answer: string) => new RegExp(`^${answer.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&').replaceAll('…', '.*')}$`);

it.skipIf(given === undefined && !existsSync(model))(
  "the README's walk-through, run as it is written, gives the answers that it shows",
  { timeout: 180_000 },
  async () => {
    const { commands, answers } = walkThrough();
    await using market = await openMarket();
    const { url } = await market.start();
    const folder = await mkdtemp(join(tmpdir(), 'readme-'));
    try {
      await copyFile(model, join(folder, 'squeezenet.onnx'));
      await symlink(market.dataDir, join(folder, '.mercato'));
      const script = commands.replace('http://127.0.0.1:4000', url);
      const { stdout, stderr } = await promisify(execFile)('bash', ['--norc', '-eu', '-c', script], {
        cwd: folder,
        maxBuffer: 64 * 1024 * 1024,
      });
      expect(stderr).toBe('');
      const said = stdout.trim().split('\n');
      for (const [i, answer] of answers.entries()) expect(said[i]?.slice(0, 2_000_000)).toMatch(patternOf(answer));
      expect(said).toHaveLength(answers.length);
      await expect(market.audit()).resolves.toContain('invariants hold');
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
);
