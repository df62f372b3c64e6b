import { afterAll } from 'vitest';
import { children } from './leftovers.ts';

// A test that ran out of time never reaches its own end.
afterAll(() => {
  for (const child of children) child.kill('SIGKILL');
});
