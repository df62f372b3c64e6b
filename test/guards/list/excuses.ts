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
    file: 'src/usage/limits.ts',
    find: "if (!view) throw new MercatoError('NOT_FOUND');",
    why: 'it narrows a type: the limit was written in the same transaction',
  },
  {
    file: 'src/access/viewer.ts',
    find: "if (!tenant) throw new MercatoError('NOT_FOUND');",
    why: 'it narrows a type: a principal is of a tenant, and no tenant is ever deleted',
  },
];
