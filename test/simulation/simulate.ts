/** `npm run simulate -- [--schedules 100000] [--seed N]`: random schedules until one goes wrong, which is then made as small as can be and printed. */
import { parseArgs } from 'node:util';
import { asyncProperty, check } from 'fast-check';
import { schedules } from './arbitrary.ts';
import { simulate } from './schedule.ts';

const say = (line: string) => void process.stdout.write(`${line}\n`);
const { values } = parseArgs({ options: { schedules: { type: 'string', default: '100000' }, seed: { type: 'string' } } });
const numRuns = Number(values.schedules);
const seed = values.seed === undefined ? Date.now() | 0 : Number(values.seed);
if (!Number.isInteger(numRuns) || numRuns < 1 || !Number.isInteger(seed)) {
  say('--schedules takes a whole number from 1, --seed a whole number');
  process.exit(2);
}
const startedAt = performance.now();
let done = 0;
const holds = asyncProperty(schedules, async (schedule) => {
  if (++done % 10_000 === 0) say(`${done} schedules, ${Math.round((performance.now() - startedAt) / 1000)} s`);
  const wrong = await simulate(schedule);
  if (wrong.length > 0) throw new Error(wrong.join('; '));
});
const result = await check(holds, { numRuns, seed });
const seconds = Math.round((performance.now() - startedAt) / 1000);
if (result.failed) {
  say(`seed ${seed}: wrong after ${result.numRuns} schedules, ${result.numShrinks} times made smaller: ${result.errorInstance}`);
  say(JSON.stringify(result.counterexample?.[0]));
  process.exit(1);
}
say(`seed ${seed}: ${result.numRuns} schedules held, ${seconds} s`);
