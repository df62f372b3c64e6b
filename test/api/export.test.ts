import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Principal } from '../../src/access/access.ts';
import { type App, createApp } from '../../src/app.ts';
import type { Database } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { readConfig } from '../../src/config.ts';
import { asAdmin } from '../support/admin.ts';
import { log } from '../support/core.ts';
import { openTestDatabase } from '../support/database.ts';

const RECORDS = 150;

const stack = new AsyncDisposableStack();
let db: Database;
let app: App;
let owner: Principal;
beforeAll(async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-'));
  stack.defer(() => rm(dataDir, { recursive: true, force: true }));
  db = stack.use(await openTestDatabase());
  const env = { MERCATO_DATA: dataDir, MERCATO_PORT: '0', MERCATO_SEED: '0', MERCATO_DEVICES: 'cpu' };
  app = stack.use(await createApp(readConfig(env), { db, log }));
  owner = await signUp('exporter');
  await addRecords(owner.tenantId, RECORDS);
  await addRecords((await signUp('other')).tenantId, 7);
}, 60_000);
afterAll(() => stack.disposeAsync());

async function signUp(tenantName: string): Promise<Principal> {
  const { access } = app.services;
  const { tokens } = await access.signUp({ email: `${tenantName}@example.com`, password: 'correct horse battery', tenantName });
  const principal = await access.authenticate({ authorization: `Bearer ${tokens.accessToken}` });
  if (principal === null) throw new Error('a fresh token is not accepted');
  return principal;
}

/** A minute old, a second apart. */
async function addRecords(tenantId: string, count: number): Promise<void> {
  const id = newId();
  await asAdmin(
    db,
    (tx) => tx.$executeRaw`
      insert into usage_record (period, id, consumer_tenant_id, publisher_tenant_id, listing_id, model_id, model_version_id, units, rows, runs,
        compute_micros, bytes_in, bytes_out, amount_nanos, currency, created_at)
      select mercato_period(mercato_now()), gen_random_uuid(), ${tenantId}::uuid, ${id}::uuid, ${id}::uuid, ${id}::uuid, ${id}::uuid, 1, 1, 1, 1, 1, 1, 0, 'EUR',
             mercato_now() - make_interval(mins => 1, secs => n) from generate_series(1, ${count}::int) n`,
  );
}

async function keyOf(scopes: string[]): Promise<{ id: string; secret: string }> {
  const { apiKey, secret } = await app.services.access.createApiKey(owner, { name: 'exporter', scopes, expiresAt: null });
  if (secret === null) throw new Error('a key that was made has no secret');
  return { id: apiKey.id, secret };
}

const DAY_MS = 86_400_000;
const ask = (secret: string) =>
  fetch(`${app.url}/usage/records?from=${new Date(Date.now() - DAY_MS).toISOString()}&to=${new Date(Date.now() + DAY_MS).toISOString()}`, {
    headers: { 'x-api-key': secret },
  });

test("an export asks for its scope, and has the caller's records alone", async () => {
  const refused = await ask((await keyOf(['model:predict'])).secret);
  expect([refused.status, await refused.json()]).toMatchObject([403, { errors: [{ extensions: { code: 'FORBIDDEN' } }] }]);
  const answered = await ask((await keyOf(['usage:read'])).secret);
  expect((await answered.text()).trim().split('\n')).toHaveLength(RECORDS);
});

test('an export whose key is revoked on the way is cut off', async () => {
  const { access } = app.services;
  const key = await keyOf(['usage:read']);
  const { authenticate } = access;
  let looks = 0;
  access.authenticate = async (credentials) => {
    // The first is at its door, the second before its first page.
    if (++looks === 3) await access.revokeApiKey(owner, key.id);
    return authenticate(credentials);
  };
  try {
    const answer = await ask(key.secret);
    expect(answer.status).toBe(200);
    await expect(answer.text()).rejects.toThrow();
    expect(looks).toBe(3);
  } finally {
    access.authenticate = authenticate;
  }
});
