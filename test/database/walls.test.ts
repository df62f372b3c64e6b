import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Database, Tx } from '../../src/base/database.ts';
import { asAdmin, undone } from '../support/admin.ts';
import { openTestDatabase } from '../support/database.ts';

let db: Database;
beforeAll(async () => {
  db = await openTestDatabase();
  await asAdmin(db, (tx) => tx.$executeRaw`select mercato_ensure_partitions(2)`);
});
afterAll(() => db[Symbol.asyncDispose]());

const TENANT = 'mercato_tenant';
const SYSTEM = 'mercato_system';
const ROLES = ['mercato_owner', SYSTEM, TENANT];

/** What each role may do with each table; a table without a line is one that no role but the owner may touch. */
const GRANTS: Record<string, { tenant?: string; system?: string }> = {
  server_process: { system: 'SELECT INSERT UPDATE DELETE' },
  invalidation: { system: 'SELECT INSERT UPDATE DELETE' },
  tenant: { tenant: 'SELECT', system: 'SELECT INSERT UPDATE' },
  app_user: { tenant: 'SELECT', system: 'SELECT INSERT UPDATE' },
  member: { tenant: 'SELECT', system: 'SELECT INSERT UPDATE' },
  session: { system: 'SELECT INSERT UPDATE DELETE' },
  refresh_token: { system: 'SELECT INSERT UPDATE DELETE' },
  api_key: { tenant: 'SELECT INSERT UPDATE', system: 'SELECT INSERT UPDATE' },
  mutation_key: { tenant: 'SELECT INSERT', system: 'SELECT INSERT' },
  api_key_use: { tenant: 'SELECT', system: 'SELECT INSERT UPDATE DELETE' },
  upload: { tenant: 'SELECT INSERT UPDATE', system: 'SELECT INSERT UPDATE' },
  model: { tenant: 'SELECT INSERT' },
  model_version: { tenant: 'SELECT INSERT UPDATE', system: 'SELECT' },
  version_samples: { tenant: 'SELECT INSERT' },
  listing: { tenant: 'SELECT INSERT UPDATE', system: 'SELECT' },
  plan: { tenant: 'SELECT INSERT UPDATE' },
  plan_version: { tenant: 'SELECT INSERT', system: 'SELECT' },
  subscription: { tenant: 'SELECT INSERT UPDATE', system: 'SELECT' },
  usage_counter: { tenant: 'SELECT', system: 'SELECT INSERT UPDATE' },
  lease: { system: 'SELECT INSERT UPDATE DELETE' },
  usage_limit: { tenant: 'SELECT INSERT UPDATE', system: 'SELECT' },
  limit_counter: { tenant: 'SELECT', system: 'SELECT INSERT UPDATE DELETE' },
  usage_alert: { tenant: 'SELECT', system: 'SELECT INSERT' },
  outbox: { system: 'SELECT INSERT UPDATE DELETE' },
  usage_rollup: { tenant: 'SELECT', system: 'SELECT INSERT UPDATE' },
  rate_limit: { system: 'SELECT INSERT UPDATE DELETE' },
  usage_record: { tenant: 'SELECT', system: 'SELECT INSERT' },
  account: { tenant: 'SELECT', system: 'SELECT INSERT UPDATE' },
  transfer: { tenant: 'SELECT', system: 'SELECT INSERT' },
  closed_period: { system: 'SELECT' },
  subscription_charge: { tenant: 'SELECT', system: 'SELECT INSERT UPDATE' },
  idempotency_key: { system: 'SELECT INSERT' },
  replay: { system: 'SELECT INSERT UPDATE DELETE' },
  model_alias: { tenant: 'SELECT INSERT UPDATE DELETE' },
  alias_move: { tenant: 'SELECT INSERT' },
  work: { tenant: 'SELECT INSERT UPDATE', system: 'SELECT UPDATE' },
  dataset: { tenant: 'SELECT INSERT UPDATE', system: 'SELECT' },
  training_run: { tenant: 'SELECT INSERT UPDATE' },
  training_epoch: { tenant: 'SELECT INSERT' },
  evaluation: { tenant: 'SELECT INSERT' },
  optimization: { tenant: 'SELECT INSERT UPDATE', system: 'SELECT' },
  deployment_rule: { tenant: 'SELECT INSERT DELETE' },
  deployment: { tenant: 'SELECT INSERT UPDATE' },
  strike: { system: 'SELECT INSERT' },
  suspension: { tenant: 'SELECT', system: 'SELECT INSERT UPDATE' },
};

type Table = { name: string; isTenants: boolean; isPartition: boolean; enabled: boolean; forced: boolean; policies: number };

/** Every table of schema public but Prisma's own; `isTenants`: it has a column that names a tenant, or is the tenants' own. */
function tables(tx: Tx): Promise<Table[]> {
  return tx.$queryRaw<Table[]>`
    select c.relname::text "name", c.relispartition "isPartition", c.relrowsecurity enabled, c.relforcerowsecurity forced,
           (select count(*)::int from pg_policy p where p.polrelid = c.oid) policies,
           c.relname = 'tenant' or exists (select from pg_attribute a where a.attrelid = c.oid and not a.attisdropped
                                              and a.attname ~ '(^|_)tenant_id$') "isTenants"
      from pg_class c
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relname <> '_prisma_migrations'
     order by 1`;
}

/** Tables without a wall: row-level security that is not enabled, not forced, or has no policy though somebody reads the table by its name. */
async function gaps(tx: Tx): Promise<string[]> {
  return (await tables(tx)).filter((t) => !t.enabled || !t.forced || (t.policies === 0 && !t.isPartition)).map((t) => t.name);
}

/** `table: PRIVILEGE …` of what a role may do, through PUBLIC and other roles too; of columns as well as whole tables. */
async function grants(tx: Tx, role: string): Promise<Record<string, string>> {
  const rows = await tx.$queryRaw<{ name: string; privileges: string }[]>`
    select c.relname::text "name", string_agg(p, ' ' order by n) privileges
      from pg_class c, unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) with ordinality x (p, n)
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
       and (has_table_privilege(${role}, c.oid, p) or (p in ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') and has_any_column_privilege(${role}, c.oid, p)))
     group by 1`;
  return Object.fromEntries(rows.map((row) => [row.name, row.privileges]));
}

const expected = (who: 'tenant' | 'system') =>
  Object.fromEntries(Object.entries(GRANTS).flatMap(([name, grant]) => (grant[who] === undefined ? [] : [[name, grant[who]]])));

describe('row-level security', () => {
  it('is enabled and forced on every table, with a policy; on partitions without one, so that their names open nothing', async () => {
    const all = await asAdmin(db, tables);
    expect(await asAdmin(db, gaps)).toEqual([]);
    expect(all.filter((t) => !t.isPartition).map((t) => t.name)).toEqual(Object.keys(GRANTS).sort());
    expect(all.filter((t) => t.isTenants && !t.isPartition).length).toBeGreaterThan(15);
    const partitions = all.filter((t) => t.isPartition);
    expect(partitions).toHaveLength(3);
    expect(partitions.filter((t) => t.policies > 0)).toEqual([]);
  });

  it.each([
    ['is no longer forced', 'alter table plan no force row level security'],
    ['is disabled', 'alter table plan disable row level security'],
    ['has lost its policies', 'drop policy own on plan; drop policy public on plan'],
    ['is new and has none', 'create table plan_secret (tenant_id uuid)'],
  ])('is missed where it %s', async (_, sql) => {
    const found = await undone(db, async (tx) => {
      for (const statement of sql.split('; ')) await tx.$executeRawUnsafe(statement);
      return gaps(tx);
    });
    expect(found).toEqual([sql.startsWith('create') ? 'plan_secret' : 'plan']);
  });
});

it('a policy is for one role; a tenant sees by it what is its own, or in the public catalogue, and writes only what is its own', async () => {
  const policies = await asAdmin(
    db,
    (tx) => tx.$queryRaw<{ name: string; roles: string[]; command: string; using: string; check: string | null }[]>`
      select polrelid::regclass || '.' || polname "name", polroles::regrole[]::text[] roles, polcmd::text command,
             pg_get_expr(polqual, polrelid) "using", pg_get_expr(polwithcheck, polrelid) "check"
        from pg_policy where polrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)`,
  );
  expect(policies.length).toBeGreaterThan(Object.keys(GRANTS).length);
  for (const { name, roles, command, using, check } of policies) {
    expect([name, ...roles]).toEqual([name, expect.stringMatching(/^mercato_(tenant|system|owner)$/)]);
    expect(name.endsWith('.system')).toBe(roles[0] === SYSTEM);
    if (roles[0] !== TENANT) continue;
    expect(`${name}: ${using}`).toMatch(name.endsWith('.public') ? /EXISTS|PUBLISHED/ : /mercato_tenant_id\(\)/);
    // Without a check of its own, what may be written is what may be seen.
    if (command !== 'r') expect(`${name}: ${check ?? 'mercato_tenant_id()'}`).toContain('mercato_tenant_id()');
  }
});

describe('the roles', () => {
  it('are no superusers, do not bypass row-level security, cannot log in, and make neither roles nor databases', async () => {
    const rows = await asAdmin(
      db,
      (tx) => tx.$queryRaw`
        select rolname::text "name", rolsuper or rolbypassrls or rolcanlogin or rolcreaterole or rolcreatedb or rolreplication may
          from pg_roles where rolname like 'mercato\\_%' and rolname = any (${ROLES}) order by 1`,
    );
    expect(rows).toEqual(ROLES.map((name) => ({ name, may: false })));
  });

  it('are members of no other role', async () => {
    const rows = await asAdmin(
      db,
      (tx) => tx.$queryRaw`
        select m.rolname::text member, r.rolname::text of from pg_auth_members a
          join pg_roles m on m.oid = a.member join pg_roles r on r.oid = a.roleid where m.rolname = any (${ROLES})`,
    );
    expect(rows).toEqual([]);
  });

  it.each([
    ['tenant', TENANT],
    ['system', SYSTEM],
  ] as const)('grant mercato_%s what the table says, no more and no less, and nothing on partitions', async (who, role) => {
    expect(await asAdmin(db, (tx) => grants(tx, role))).toEqual(expected(who));
  });

  it('grant a new table to nobody', async () => {
    const found = await undone(db, async (tx) => {
      await tx.$executeRaw`set local role mercato_owner`;
      await tx.$executeRaw`create table surprise (tenant_id uuid)`;
      return [await grants(tx, TENANT), await grants(tx, SYSTEM)].map((granted) => granted.surprise);
    });
    expect(found).toEqual([undefined, undefined]);
  });

  it('let a tenant run none of the functions that do what it may not, but for telling processes to forget and what its versions were struck by, and others none at all', async () => {
    const rows = await asAdmin(
      db,
      (tx) => tx.$queryRaw<{ name: string; tenant: boolean; system: boolean; all: boolean; settings: string | null }[]>`
        select proname::text "name", has_function_privilege(${TENANT}, oid, 'EXECUTE') tenant, has_function_privilege(${SYSTEM}, oid, 'EXECUTE') system,
               has_function_privilege('public', oid, 'EXECUTE') "all", proconfig::text settings
          from pg_proc where pronamespace = 'public'::regnamespace and (prosecdef or proname = 'mercato_settle') order by 1`,
    );
    const system = { tenant: false, system: true, all: false };
    expect(rows).toEqual([
      { ...system, name: 'mercato_checks', tenant: true, system: false, settings: '{"search_path=public, pg_temp"}' },
      { ...system, name: 'mercato_close_period', settings: '{"search_path=public, pg_temp",lock_timeout=2s}' },
      { tenant: true, system: false, all: false, name: 'mercato_consumer_suspensions', settings: '{"search_path=public, pg_temp"}' },
      { ...system, name: 'mercato_drop_old_alerts', settings: '{"search_path=public, pg_temp"}' },
      { ...system, name: 'mercato_ensure_partitions', settings: '{"search_path=public, pg_temp"}' },
      { ...system, name: 'mercato_follow_usage_limit', system: false, settings: '{"search_path=public, pg_temp"}' },
      { ...system, name: 'mercato_invalidate', tenant: true, settings: '{"search_path=public, pg_temp"}' },
      { ...system, name: 'mercato_settle', settings: '{plan_cache_mode=force_generic_plan}' },
      { tenant: true, system: false, all: false, name: 'mercato_strikes', settings: '{"search_path=public, pg_temp"}' },
    ]);
  });

  it("keep a tenant out of the jobs' schema, and from making tables", async () => {
    const [row] = await asAdmin(
      db,
      (tx) => tx.$queryRaw<object[]>`
        select has_schema_privilege(${TENANT}, 'pgboss', 'USAGE') jobs, has_schema_privilege(${TENANT}, 'public', 'CREATE') tables,
               has_schema_privilege(${SYSTEM}, 'public', 'CREATE') "systemTables"`,
    );
    expect(row).toEqual({ jobs: false, tables: false, systemTables: false });
  });
});
