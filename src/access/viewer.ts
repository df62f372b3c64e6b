import { asSystem, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { type Membership, memberships, type Tenant, tenantById, type User, userById } from '../tenancy/tenancy.ts';
import type { Principal } from './principal.ts';

/** What a caller may know of itself. */
export type Viewing = {
  /** The signed-in user; null for an API key. */
  user(tx: Tx, principal: Principal): Promise<User | null>;
  /** The tenant that the caller acts in. */
  tenant(tx: Tx, principal: Principal): Promise<Tenant>;
  /** Every tenant of the user, in the order of joining; none for an API key. In a transaction of its own, since it crosses tenants. */
  memberships(principal: Principal): Promise<Membership[]>;
};

export function createViewing(db: Database): Viewing {
  return {
    user: async (tx, { userId }) => (userId === null ? null : userById(tx, userId)),
    async tenant(tx, { tenantId }) {
      const tenant = await tenantById(tx, tenantId);
      if (!tenant) throw new MercatoError('NOT_FOUND');
      return tenant;
    },
    memberships: async ({ userId }) => (userId === null ? [] : asSystem(db, (tx) => memberships(tx, userId))),
  };
}
