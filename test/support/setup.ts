import { afterAll, vi } from 'vitest';
import { children } from './leftovers.ts';

// A test that ran out of time never reaches its own end.
afterAll(() => {
  vi.useRealTimers();
  vi.unstubAllEnvs();
  for (const child of children) child.kill('SIGKILL');
});
