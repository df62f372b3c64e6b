import { badInput } from '../base/errors.ts';
import type { Limits } from './work.ts';

type Range = readonly [min: number, max: number];

const TIME_LIMIT_MS: Range = [1_000, 21_600_000];
const MEMORY_LIMIT_MIB: Range = [64, 65_536];

/** @throws BAD_USER_INPUT `field`: what was given, and what would be right */
export function mustBe(fits: boolean, field: string, given: unknown, expected: string): void {
  if (fits) return;
  const shown = typeof given === 'string' ? given.toWellFormed() : JSON.stringify(given);
  throw badInput(field, `${field} must be ${expected}.`, { given: shown.slice(0, 60), expected });
}

/** A whole number in [min, max]. @throws BAD_USER_INPUT `field` */
export function whole(field: string, value: number, [min, max]: Range): number {
  mustBe(Number.isInteger(value) && value >= min && value <= max, field, value, `a whole number, ${min} to ${max}`);
  return value;
}

/** A number in [min, max]. @throws BAD_USER_INPUT `field` */
export function within(field: string, value: number, [min, max]: Range): number {
  mustBe(Number.isFinite(value) && value >= min && value <= max, field, value, `${min} to ${max}`);
  return value;
}

/** @throws BAD_USER_INPUT `timeLimitMs`, `memoryLimitMib` */
export function parseLimits(
  given: { timeLimitMs?: number | null | undefined; memoryLimitMib?: number | null | undefined },
  otherwise: Limits,
): Limits {
  return {
    timeLimitMs: whole('timeLimitMs', given.timeLimitMs ?? otherwise.timeLimitMs, TIME_LIMIT_MS),
    memoryLimitMib: whole('memoryLimitMib', given.memoryLimitMib ?? otherwise.memoryLimitMib, MEMORY_LIMIT_MIB),
  };
}
