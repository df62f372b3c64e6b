import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Access } from '../../src/access/access.ts';
import type { Tx } from '../../src/base/database.ts';
import { LIMITS } from '../../src/base/limits.ts';
import { onPostgres, race } from '../support/races.ts';
import { openServers, signUp } from './access-setup.ts';

let servers: Awaited<ReturnType<typeof openServers>>;
let access: Access;
beforeAll(async () => {
  servers = await openServers();
  access = await servers.openAccess();
});
afterAll(() => servers[Symbol.asyncDispose]());

const refused = { status: 'rejected', reason: { code: 'UNAUTHENTICATED' } };
const endOf = (userId: string) => (tx: Tx) => tx.$executeRaw`update session set revoked_at = mercato_now() where user_id = ${userId}::uuid`;

// Embedded, one transaction runs at a time.
describe.skipIf(!onPostgres)('a session that is being ended', () => {
  it('is not refreshed', async () => {
    const { user, tokens } = await signUp(access);
    const outcome = await race(servers.db, endOf(user.id), () => access.refreshSession(tokens.refreshToken));
    expect(outcome).toMatchObject({ waited: true, result: refused });
  });

  it('is not switched to another tenant', async () => {
    const { user, principal, tenant } = await signUp(access);
    const outcome = await race(servers.db, endOf(user.id), () => access.switchTenant(principal, tenant.id));
    expect(outcome).toMatchObject({ waited: true, result: refused });
  });
});

describe.skipIf(!onPostgres)('what one call takes, another that waits does not find:', () => {
  it('the last place for a key', async () => {
    const { principal } = await signUp(access);
    const { tenantId } = principal;
    const insert = (tx: Tx, from: number, to: number) => tx.$executeRaw`
      insert into api_key (id, tenant_id, name, hash, prefix, scopes)
      select gen_random_uuid(), ${tenantId}::uuid, 'k', sha256(convert_to(${tenantId} || i, 'UTF8')), 'mk_', array[]::text[]
        from generate_series(${from}::int, ${to}::int) i`;
    const first = async (tx: Tx) => {
      await tx.$executeRaw`select pg_advisory_xact_lock(hashtext('mercato.api_keys'), hashtext(${tenantId}))`;
      await insert(tx, 1, LIMITS.apiKeysPerTenant);
    };
    const outcome = await race(servers.db, first, () =>
      access.createApiKey(principal, { name: 'k', scopes: ['key:read'], expiresAt: null }),
    );
    expect(outcome).toMatchObject({ waited: true, result: { status: 'rejected', reason: { code: 'CONFLICT' } } });
  });

  it('an e-mail, and a tenant name', async () => {
    const input = { email: 'raced@example.com', password: 'correct horse battery', tenantName: 'raced' };
    const user = (tx: Tx) =>
      tx.$executeRaw`insert into app_user (id, email, password_hash) values (gen_random_uuid(), ${input.email}, 'h')`;
    const conflict = (field: string) => ({ waited: true, result: { status: 'rejected', reason: { code: 'CONFLICT', data: { field } } } });
    expect(await race(servers.db, user, () => access.signUp(input))).toMatchObject(conflict('email'));
    const tenant = (tx: Tx) => tx.$executeRaw`insert into tenant (id, name, display_name) values (gen_random_uuid(), 'raced', 'n')`;
    const other = { ...input, email: 'other@example.com' };
    expect(await race(servers.db, tenant, () => access.signUp(other))).toMatchObject(conflict('tenantName'));
  });
});
