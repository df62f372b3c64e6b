import type { ChildProcess } from 'node:child_process';

/** What a test started and has not ended. */
export const children = new Set<ChildProcess>();
