import { globalId } from '../base/ids.ts';
import type { Resolvers } from '../generated/schema.ts';

export const resolvers = {
  Tenant: { id: (tenant) => globalId('Tenant', tenant.id) },
  User: { id: (user) => globalId('User', user.id) },
} satisfies Resolvers;
