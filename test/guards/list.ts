import type { Excuse, Guard } from './guard.ts';
import { checks } from './list/checks.ts';
import { excuses } from './list/excuses.ts';
import { functions } from './list/functions.ts';
import { locks } from './list/locks.ts';
import { sqlGuards } from './sql.ts';

/** Every guard that is removed in turn. */
export function allGuards(read: (file: string) => string): Guard[] {
  return [...locks, ...sqlGuards(read), ...functions, ...checks];
}

export function allExcuses(): readonly Excuse[] {
  return excuses;
}
