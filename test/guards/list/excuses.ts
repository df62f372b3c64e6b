import type { Excuse } from '../guard.ts';

export const excuses: Excuse[] = [];
