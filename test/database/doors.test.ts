import { expect, test } from 'vitest';
import { asReader, asSystem, asTenant, type Database } from '../../src/base/database.ts';
import { openEmbedded } from '../../src/base/database-embedded.ts';
import { openPostgres } from '../../src/base/database-postgres.ts';
import { newId } from '../../src/base/ids.ts';
import { log } from '../support/core.ts';
import { createTestDatabase } from '../support/database.ts';

type Session = { pid: number; user: string; tenantId: string };
type Asker = Pick<Database['tenantClient'], '$queryRaw'>;

async function sessionOf(client: Asker): Promise<Session> {
  const [session] = await client.$queryRaw<Session[]>`
    select pg_backend_pid() pid, current_user::text "user", coalesce(current_setting('mercato.tenant_id', true), '') "tenantId"`;
  if (!session) throw new Error('a session without a row');
  return session;
}

/** Whatever comes next on the connection begins as if nobody had been there. */
async function expectNothingLeft(db: Database): Promise<void> {
  const before = { tenant: await sessionOf(db.tenantClient), system: await sessionOf(db.systemClient) };
  expect([before.tenant.tenantId, before.system.tenantId]).toEqual(['', '']);
  const tenantId = newId();
  const doors = [
    (fn: (tx: Asker) => Promise<Session>) => asTenant(db, tenantId, fn),
    (fn: (tx: Asker) => Promise<Session>) => asReader(db, tenantId, fn),
  ];
  for (const door of doors) {
    expect(await door(sessionOf)).toEqual({ pid: before.tenant.pid, user: 'mercato_tenant', tenantId });
    expect(await sessionOf(db.tenantClient)).toEqual(before.tenant);
  }
  expect(await asSystem(db, sessionOf)).toEqual({ pid: before.system.pid, user: 'mercato_system', tenantId: '' });
  expect(await sessionOf(db.systemClient)).toEqual(before.system);
}

test.skipIf(process.env.MERCATO_TEST_DATABASE_URL === undefined)(
  'a connection of one role has no tenant left after a transaction',
  async () => {
    const { url, drop } = await createTestDatabase();
    try {
      await using db = await openPostgres({ url: url ?? '', serverUrl: null, poolSize: 1 }, log);
      await expectNothingLeft(db);
    } finally {
      await drop();
    }
  },
);

test('the embedded connection has neither tenant nor role left after a transaction', async () => {
  await using db = await openEmbedded(null, log);
  await expectNothingLeft(db);
});
