import type { Excuse } from '../guard.ts';

const INIT = 'prisma/migrations/20261123000000_init/migration.sql';

export const excuses: Excuse[] = [
  {
    file: INIT,
    find: "PERFORM pg_advisory_xact_lock(hashtext('mercato.roles'));",
    why: 'it keeps the first databases of a cluster from racing for its roles, which a test that has a cluster finds there',
  },
  {
    file: INIT,
    find: "RAISE EXCEPTION 'model_version % is immutable', OLD.id USING ERRCODE = 'integrity_constraint_violation';",
    why: "it is the catalogue's",
  },
  {
    file: INIT,
    find: 'ALTER TABLE "account" ADD CONSTRAINT "account_wallet_check" CHECK (',
    why: 'a later migration drops it and adds a narrower one',
  },
  {
    file: 'prisma/migrations/20261126000100_limits/migration.sql',
    find: 'CREATE TRIGGER "usage_alert_append_only" BEFORE UPDATE OR DELETE',
    why: 'a later migration drops it and makes two of it',
  },
  {
    file: INIT,
    find: 'ALTER TABLE "usage_record" FORCE ROW LEVEL SECURITY;',
    why: 'a later migration takes it off and puts it on again',
  },
  {
    file: 'src/usage/resolvers.ts',
    find: "if (quota === null) throw new MercatoError('NOT_FOUND');",
    why: 'it narrows a type: quotasOf answers for every listing that it is asked for',
  },
  {
    file: 'src/usage/limit-counters.ts',
    find: 'where l.consumer_tenant_id = k.tenant_id and k.id = any(l.counters)',
    why: "it lets an index be used: a lease has its consumer's counters alone",
  },
  {
    file: 'src/usage/limits.ts',
    find: "if (!view) throw new MercatoError('NOT_FOUND');",
    why: 'it narrows a type: the limit was written in the same transaction',
  },
  {
    file: 'src/access/viewer.ts',
    find: "if (!tenant) throw new MercatoError('NOT_FOUND');",
    why: 'it narrows a type: a principal is of a tenant, and no tenant is ever deleted',
  },
  {
    file: 'src/prediction/prediction.ts',
    find: "if (remaining() <= 0) throw new MercatoError('DEADLINE_EXCEEDED');",
    why: 'it spares a queue what the run itself refuses: no run begins after its deadline',
  },
  {
    file: 'src/prediction/resolvers.ts',
    find: "if (!version) throw new MercatoError('NOT_FOUND', 'The version of this answer is no longer visible to you.');",
    why: 'it narrows a type: a version that was called stays visible to its caller while nothing can be withdrawn',
  },
  {
    file: 'src/catalog/subscriptions.ts',
    find: "if (plan.listing.state !== 'PUBLISHED') throw new MercatoError('CONFLICT', 'The model is not offered any more.');",
    why: 'it says what the unique index would refuse: who sees a listing that is not published has a subscription to it',
  },
  {
    file: 'src/catalog/subscriptions.ts',
    find: 'where id = ${id}::uuid and consumer_tenant_id = ${tenantId}::uuid',
    why: "the subscription was found as the tenant's in the same transaction",
  },
  {
    file: 'src/usage/export.ts',
    find: "set_config('enable_sort', 'off', true)",
    why: 'it chooses a plan: nobody sees more or less by it',
  },
  {
    file: 'src/access/api-keys.ts',
    find: 'where k.id = ${id}::uuid and k.tenant_id = ${tenantId}::uuid and k.created_by_user_id',
    why: "the key was found under the tenant's idempotency key in the same transaction",
  },
];
