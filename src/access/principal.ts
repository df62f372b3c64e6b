import { MercatoError } from '../base/errors.ts';
import type { Role } from '../tenancy/tenancy.ts';

/** Everything that a caller can be allowed to do, as `resource:action`. */
export const SCOPES = [
  'tenant:write',
  'member:read',
  'key:read',
  'key:write',
  'model:read',
  'model:write',
  'listing:publish',
  'subscription:read',
  'subscription:write',
  'model:predict',
  'usage:read',
  'billing:read',
  'billing:write',
] as const;
export type Scope = (typeof SCOPES)[number];

/** The authenticated caller, acting in one tenant: a signed-in member, or an API key. */
export type Principal = {
  tenantId: string;
  /** Null for an API key. */
  userId: string | null;
  /** Null for a signed-in member. */
  apiKeyId: string | null;
  /** Whose limits as a member concern the caller: the user, or who made the key; null where nobody is known to have made it. */
  memberId: string | null;
  /** Null for an API key. */
  role: Role | null;
  /** Whether this is the operator of the marketplace; never an API key. */
  isOperator: boolean;
  scopes: ReadonlySet<Scope>;
  /** The sign-in of a signed-in member; absent for an API key. */
  sessionId?: string;
};

const ROLE_SCOPES: Record<Role, readonly Scope[]> = {
  OWNER: SCOPES,
  ADMIN: SCOPES,
  DEVELOPER: SCOPES.filter((scope) => !['tenant:write', 'billing:read', 'billing:write'].includes(scope)),
  BILLING: ['usage:read', 'billing:read', 'billing:write'],
  VIEWER: SCOPES.filter((scope) => scope.endsWith(':read')),
};
const SETS = new Map(Object.entries(ROLE_SCOPES).map(([role, scopes]) => [role, new Set(scopes)]));

/** What a member with `role` may do. */
export function scopesOf(role: Role): ReadonlySet<Scope> {
  return SETS.get(role) ?? new Set();
}

export function isRole(text: unknown): text is Role {
  return typeof text === 'string' && SETS.has(text);
}

export function isScope(text: string): text is Scope {
  return SCOPES.some((scope) => scope === text);
}

/** The caller, if it has `scope`; null asks for nothing more than credentials. @throws UNAUTHENTICATED, FORBIDDEN */
export function authorize(principal: Principal | null, scope: Scope | null): Principal {
  if (principal === null) throw new MercatoError('UNAUTHENTICATED');
  if (scope !== null && !principal.scopes.has(scope)) throw new MercatoError('FORBIDDEN', `This needs the scope ${scope}.`);
  return principal;
}

/** The caller, if it is the operator of the marketplace. @throws UNAUTHENTICATED, FORBIDDEN */
export function authorizeOperator(principal: Principal | null): Principal {
  if (principal === null) throw new MercatoError('UNAUTHENTICATED');
  if (!principal.isOperator) throw new MercatoError('FORBIDDEN', 'Only the operator of the marketplace may do this.');
  return principal;
}
