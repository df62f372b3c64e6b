import type { Allowance } from '../prediction/prediction.ts';

/** Structured fields have integers of at most 15 digits (RFC 9651). */
const INTEGER_MAX = 999_999_999_999_999;
const integer = (value: number) => Math.min(INTEGER_MAX, Math.max(0, Math.floor(value)));

/**
 * The fields `RateLimit-Policy` and `RateLimit` of the IETF draft draft-ietf-httpapi-ratelimit-headers (10): by policy its quota `q` in units `qu` per
 * `w` seconds; what remains `r`, and in `t` seconds it is whole again. `Retry-After` in seconds, where a refusal says when. None where nothing is limited.
 */
export function rateHeaders(allowances: readonly Allowance[], retryAfterMs: number | null): Record<string, string> {
  const headers: Record<string, string> = retryAfterMs === null ? {} : { 'retry-after': String(Math.ceil(retryAfterMs / 1000)) };
  if (allowances.length === 0) return headers;
  const policies = allowances.map(({ name, limit, unit, windowS }) => {
    return `"${name}";q=${integer(limit)};qu="${unit}"${windowS === null ? '' : `;w=${windowS}`}`;
  });
  const states = allowances.map(({ name, left, resetMs }) => {
    return `"${name}";r=${integer(left)}${resetMs === null ? '' : `;t=${integer(Math.ceil(resetMs / 1000))}`}`;
  });
  return { ...headers, 'ratelimit-policy': policies.join(', '), ratelimit: states.join(', ') };
}
