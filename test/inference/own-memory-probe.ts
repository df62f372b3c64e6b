/** What a process holds for itself before and after it makes a buffer of so many bytes, as JSON: alone in its process, where nothing else is collected meanwhile. */
import { ownMemory } from '../../src/inference/own-memory.ts';

const before = ownMemory();
const filled = Buffer.alloc(Number(process.argv[2]), 1);
const after = ownMemory();
process.stdout.write(JSON.stringify({ before, after, last: filled.at(-1) }));
