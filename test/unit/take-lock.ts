/** A process of its own that, per line `<time in ms> <directory>`, locks that directory at that time, and says `won`, `lost` or the fault. */
import { createInterface } from 'node:readline';
import { DataDirectoryLocked, lockDirectory } from '../../src/base/database-embedded.ts';

const say = (word: string) => process.stdout.write(`${word}\n`);

say('ready');
for await (const line of createInterface(process.stdin)) {
  const [at, directory = ''] = line.split(' ');
  while (Date.now() < Number(at));
  try {
    await lockDirectory(directory);
    say('won');
  } catch (error) {
    say(error instanceof DataDirectoryLocked ? 'lost' : String(error));
  }
}
