import type { Tx } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import { newId } from '../base/ids.ts';
import type { Role } from '../generated/prisma/client.ts';

export type { Role };
export type Tenant = { id: string /** The handle. */; name: string; displayName: string; createdAt: Date };
/** A person; the password's hash never leaves `app_user`. */
export type User = { id: string; email: string; isOperator: boolean; createdAt: Date };
export type Membership = { tenant: Tenant; role: Role };

const TENANT_NAME = /^[a-z0-9](-?[a-z0-9]){1,38}$/;
const USER = { id: true, email: true, isOperator: true, createdAt: true } as const;

/** A tenant's handle: 2–39 characters, lower-case letters, digits, single hyphens inside. @throws BAD_USER_INPUT */
export function checkTenantName(field: string, name: string): string {
  if (name.length <= 39 && TENANT_NAME.test(name)) return name;
  throw badInput(field, `${field} is not a valid handle.`, {
    given: name.slice(0, 60),
    expected: '2 to 39 characters: lower-case letters, digits, single hyphens inside',
  });
}

/** A name for people: 1–100 characters once trimmed, none of them a control character. @throws BAD_USER_INPUT */
export function checkLabel(field: string, text: string): string {
  const label = text.trim();
  if (label !== '' && label.length <= 100 && !/\p{C}/u.test(label)) return label;
  throw badInput(field, `${field} is not a valid name.`, { given: label.slice(0, 60), expected: '1 to 100 printable characters' });
}

/** Makes a tenant with its OWNER. System role. Names are checked before. @throws CONFLICT naming `field`: the name is taken */
export async function createTenant(
  tx: Tx,
  input: { name: string; displayName: string; ownerUserId: string; field: string },
): Promise<Tenant> {
  const [tenant] = await tx.$queryRaw<Tenant[]>`
    insert into tenant (id, name, display_name) values (${newId()}::uuid, ${input.name}, ${input.displayName})
    on conflict (name) do nothing
    returning id, name, display_name as "displayName", created_at as "createdAt"`;
  if (!tenant) throw new MercatoError('CONFLICT', 'The tenant name is taken.', { field: input.field, given: input.name });
  await tx.member.create({ data: { tenantId: tenant.id, userId: input.ownerUserId, role: 'OWNER' } });
  return tenant;
}

/** Makes a user; `email` is lower-cased and trimmed. System role. Null: the e-mail is taken. */
export async function createUser(tx: Tx, input: { email: string; passwordHash: string; isOperator: boolean }): Promise<User | null> {
  const [user] = await tx.$queryRaw<User[]>`
    insert into app_user (id, email, password_hash, is_operator)
    values (${newId()}::uuid, ${input.email}, ${input.passwordHash}, ${input.isOperator})
    on conflict (email) do nothing
    returning id, email, is_operator as "isOperator", created_at as "createdAt"`;
  return user ?? null;
}

/** Null where there is none that the transaction's tenant may see. */
export function tenantById(tx: Tx, id: string): Promise<Tenant | null> {
  return tx.tenant.findUnique({ where: { id } });
}

/** Null where there is none that the transaction's tenant may see. */
export function userById(tx: Tx, id: string): Promise<User | null> {
  return tx.user.findUnique({ where: { id }, select: USER });
}

/** What `signIn` compares; the only reader of a password's hash. System role. */
export async function userForSignIn(tx: Tx, email: string): Promise<{ user: User; passwordHash: string } | null> {
  const row = await tx.user.findUnique({ where: { email }, select: { ...USER, passwordHash: true } });
  if (!row) return null;
  const { passwordHash, ...user } = row;
  return { user, passwordHash };
}

/** Every tenant of a user, in the order of joining. System role: the list crosses tenants. */
export async function memberships(tx: Tx, userId: string): Promise<Membership[]> {
  return tx.member.findMany({
    where: { userId },
    select: { role: true, tenant: true },
    orderBy: [{ createdAt: 'asc' }, { tenantId: 'asc' }],
  });
}

/** A user's membership of one tenant; null: none. System role. */
export function membership(tx: Tx, userId: string, tenantId: string): Promise<Membership | null> {
  return tx.member.findUnique({ where: { tenantId_userId: { tenantId, userId } }, select: { role: true, tenant: true } });
}
