import { badInput, type MercatoError } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import type { PlanTerms } from './views.ts';

export type PlanInput = {
  name: string;
  unitPriceNanos: string;
  freeUnitsPerMonth?: string;
  quotaUnitsPerMonth?: string | null | undefined;
  requestsPerMinute?: number | null | undefined;
  burst?: number | null | undefined;
  priority?: number;
  alias?: string | null | undefined;
};

/** A plan as it is stored, without the id that its version will have. */
export type ParsedPlan = { name: string; terms: Omit<PlanTerms, 'planVersionId'> };

const MODEL_NAME = /^[a-z0-9](?:[-._]?[a-z0-9]){0,62}$/;
const TENANT_NAME = /^[a-z0-9](?:-?[a-z0-9]){1,38}$/;
const ALIAS = /^(?![0-9]+$)[a-z0-9](?:-?[a-z0-9])*$/;
const CONTROL = /\p{Cc}/u;
const REQUESTS_PER_MINUTE_MAX = 1_000_000;
const BURST_MAX = 100_000;

/** @throws BAD_USER_INPUT `name` */
export function parseModelName(name: string): string {
  if (MODEL_NAME.test(name) && name.length <= 63) return name;
  throw wrong('name', name, '1–63 characters: lower-case letters, digits, and single -, . or _ inside');
}

/** @throws BAD_USER_INPUT `field` */
export function parseAlias(field: string, alias: string): string {
  if (ALIAS.test(alias) && alias.length <= 39) return alias;
  throw wrong(field, shorten(alias), '1–39 characters: lower-case letters, digits and single hyphens inside, not digits alone');
}

/** What a call names: `tenant/name`, with `@` and a version's number or an alias; null where the text is neither. */
export function parseHandle(text: string): { handle: string; number: number | null; alias: string | null } | null {
  if (text.length > 150) return null;
  const [tenant, rest, ...more] = text.split('/');
  if (tenant === undefined || rest === undefined || more.length > 0) return null;
  const [name, which, ...others] = rest.split('@');
  if (name === undefined || others.length > 0) return null;
  if (!TENANT_NAME.test(tenant) || tenant.length > 39 || !MODEL_NAME.test(name) || name.length > 63) return null;
  const handle = `${tenant}/${name}`;
  if (which === undefined) return { handle, number: null, alias: null };
  if (/^[1-9][0-9]{0,8}$/.test(which)) return { handle, number: Number(which), alias: null };
  return ALIAS.test(which) && which.length <= 39 ? { handle, number: null, alias: which } : null;
}

/** @throws BAD_USER_INPUT `summary` */
export function parseSummary(summary: string): string {
  if (summary.isWellFormed() && characters(summary) <= 500 && !CONTROL.test(summary.replace(/[\n\t]/g, ''))) return summary;
  throw wrong('summary', shorten(summary), 'at most 500 characters, none of them control characters');
}

/** @throws BAD_USER_INPUT `tags`, `tags[i]` */
export function parseTags(tags: readonly string[]): string[] {
  if (tags.length > LIMITS.tagsPerListing) throw wrong('tags', `${tags.length} tags`, `at most ${LIMITS.tagsPerListing}`);
  for (const [index, tag] of tags.entries()) {
    if (!isLine(tag, 30)) throw wrong(`tags[${index}]`, shorten(tag), '1–30 characters, without spaces at the ends');
    if (tags.indexOf(tag) !== index) throw wrong(`tags[${index}]`, tag, 'different tags');
  }
  return [...tags];
}

/** A whole number in [min, max]; null and undefined give `otherwise`. @throws BAD_USER_INPUT `field` */
export function parseCount(field: string, value: number | null | undefined, [min, max]: readonly [number, number]): number | null {
  if (value === null || value === undefined) return null;
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw wrong(field, String(value), `${min} to ${max}`);
}

/** Fields are named as in `plans[1].unitPriceNanos`. @throws BAD_USER_INPUT */
export function parsePlans(plans: readonly PlanInput[], currency: string): ParsedPlan[] {
  if (plans.length < 1 || plans.length > LIMITS.plansPerListing) {
    throw wrong('plans', `${plans.length} plans`, `1 to ${LIMITS.plansPerListing}`);
  }
  const names = new Set<string>();
  return plans.map((plan, index) => {
    const at = `plans[${index}]`;
    if (!isLine(plan.name, 50)) throw wrong(`${at}.name`, shorten(plan.name), '1–50 characters, without spaces at the ends');
    if (names.has(plan.name)) throw wrong(`${at}.name`, plan.name, 'different names');
    names.add(plan.name);
    return { name: plan.name, terms: parseTerms(at, plan, currency) };
  });
}

function parseTerms(at: string, plan: PlanInput, currency: string): ParsedPlan['terms'] {
  const unitPriceNanos = parseAmount(`${at}.unitPriceNanos`, plan.unitPriceNanos, LIMITS.moneyNanosMax);
  const freeUnits = parseAmount(`${at}.freeUnitsPerMonth`, plan.freeUnitsPerMonth ?? '0', LIMITS.unitsMax);
  const quota = plan.quotaUnitsPerMonth ?? null;
  const quotaUnits = quota === null ? null : parseAmount(`${at}.quotaUnitsPerMonth`, quota, LIMITS.unitsMax);
  const requestsPerMinute = parseCount(`${at}.requestsPerMinute`, plan.requestsPerMinute, [1, REQUESTS_PER_MINUTE_MAX]);
  const burst = parseCount(`${at}.burst`, plan.burst, [1, BURST_MAX]);
  if (burst !== null && requestsPerMinute === null) throw wrong(`${at}.burst`, String(burst), 'none without requestsPerMinute');
  const alias = plan.alias === null || plan.alias === undefined ? null : parseAlias(`${at}.alias`, plan.alias);
  const priority = parseCount(`${at}.priority`, plan.priority, [0, 9]) ?? 0;
  return {
    currency,
    unitPriceNanos,
    freeUnits,
    quotaUnits,
    requestsPerMinute,
    burst: requestsPerMinute === null ? null : (burst ?? Math.max(1, Math.floor(requestsPerMinute / 60))),
    priority,
    alias,
  };
}

function parseAmount(field: string, text: string, max: bigint): bigint {
  if (/^(?:0|[1-9][0-9]{0,18})$/.test(text) && BigInt(text) <= max) return BigInt(text);
  throw wrong(field, shorten(text), `a whole number as a decimal string, 0 to ${max}`);
}

function isLine(text: string, max: number): boolean {
  return text.isWellFormed() && text.trim() === text && text !== '' && characters(text) <= max && !CONTROL.test(text);
}

function characters(text: string): number {
  return [...text].length;
}

function shorten(text: string): string {
  return text.length <= 60 ? text : `${text.slice(0, 60)}…`;
}

function wrong(field: string, given: string, expected: string): MercatoError {
  return badInput(field, `${field} must be ${expected}.`, { given: given.toWellFormed(), expected });
}
