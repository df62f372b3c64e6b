import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Of over 20 seconds: one of these at the end would run alone. */
const LONG = /(exactly-once|sweep|training|hosting|live|bench|run)\.test\.ts$/;

/** Files in random order, the long ones first; the seed decides. */
class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const { seed } = this.ctx.config.sequence;
    const place = ({ moduleId }: TestSpecification) =>
      `${LONG.test(moduleId) ? 0 : 1} ${createHash('sha256').update(`${seed} ${moduleId}`).digest('hex')}`;
    return files.toSorted((a, b) => (place(a) < place(b) ? -1 : 1));
  }
}

export default defineConfig({
  root: new URL('..', import.meta.url).pathname,
  // Vite takes graphql's ES module, Node its CommonJS one, for Apollo: two copies, whose classes refuse each other.
  resolve: { alias: [{ find: /^graphql$/, replacement: fileURLToPath(new URL('../node_modules/graphql/index.js', import.meta.url)) }] },
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    setupFiles: ['test/support/setup.ts'],
    pool: 'forks',
    // PGlite lives for seconds in each of many processes: optimising its code costs more than it saves.
    execArgv: ['--liftoff-only'],
    maxWorkers: 2,
    sequence: { shuffle: true, sequencer: LongFirst },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 20_000,
  },
});
