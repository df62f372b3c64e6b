import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Principal } from '../../src/access/access.ts';
import { type App, createApp } from '../../src/app.ts';
import type { Database } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { LIMITS } from '../../src/base/limits.ts';
import { readConfig } from '../../src/config.ts';
import { asAdmin } from '../support/admin.ts';
import { log } from '../support/core.ts';
import { openTestDatabase } from '../support/database.ts';

const RECORDS = 150;
/** More than lies between a server and a client that reads nothing. */
const MANY_RECORDS = 20_000;

const stack = new AsyncDisposableStack();
let db: Database;
let app: App;
let owner: Principal;
let busy: Principal;
beforeAll(async () => {
  db = stack.use(await openTestDatabase());
  app = await openApp();
  owner = await signUp('exporter');
  busy = await signUp('busy');
  await addRecords(owner.tenantId, RECORDS);
  await addRecords(busy.tenantId, MANY_RECORDS);
  await addRecords((await signUp('other')).tenantId, 7);
}, 60_000);
afterAll(() => stack.disposeAsync());

async function openApp(): Promise<App> {
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-'));
  stack.defer(() => rm(dataDir, { recursive: true, force: true }));
  const env = { MERCATO_DATA: dataDir, MERCATO_PORT: '0', MERCATO_SEED: '0', MERCATO_DEVICES: 'cpu' };
  return stack.use(await createApp(readConfig(env), { db, log }));
}

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

async function keyOf(scopes: string[], principal = owner): Promise<{ id: string; secret: string }> {
  const { apiKey, secret } = await app.services.access.createApiKey(principal, { name: 'exporter', scopes, expiresAt: null });
  if (secret === null) throw new Error('a key that was made has no secret');
  return { id: apiKey.id, secret };
}

const DAY_MS = 86_400_000;
const ask = (secret: string, from = new Date(Date.now() - DAY_MS).toISOString(), { url } = app) =>
  fetch(`${url}/usage/records?from=${from}&to=${new Date(Date.now() + DAY_MS).toISOString()}`, { headers: { 'x-api-key': secret } });

type Line = { id: string; createdAt: string };
const linesOf = (text: string) => text.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line) as Line]));

/** The whole lines that came, and whether the answer ended as it should. */
async function readAll(answer: Response): Promise<{ lines: Line[]; complete: boolean }> {
  let text = '';
  let complete = true;
  const decoder = new TextDecoder();
  try {
    for await (const part of answer.body ?? []) text += decoder.decode(part, { stream: true });
  } catch {
    complete = false;
  }
  return { lines: linesOf(text.slice(0, text.lastIndexOf('\n') + 1)), complete };
}

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

test('a tenant has so many exports open at once, another tenant its own, and a place is free when one closes', async () => {
  const { secret } = await keyOf(['usage:read'], busy);
  const unread = await Promise.all(Array.from({ length: LIMITS.exportsPerTenant }, () => ask(secret)));
  expect(unread.map(({ status }) => status)).toEqual(unread.map(() => 200));
  const refused = await ask(secret);
  const extensions = { code: 'OVERLOADED', retryable: true, limit: String(LIMITS.exportsPerTenant), retryAfterMs: expect.any(Number) };
  expect([refused.status, await refused.json()]).toMatchObject([503, { errors: [{ extensions }] }]);
  expect((await readAll(await ask((await keyOf(['usage:read'])).secret))).lines).toHaveLength(RECORDS);
  await unread.pop()?.body?.cancel();
  const statusOfNext = async () => {
    const answer = await ask(secret);
    await answer.body?.cancel();
    return answer.status;
  };
  await expect.poll(statusOfNext, { timeout: 30_000 }).toBe(200);
  await Promise.all(unread.map(({ body }) => body?.cancel()));
});

test('a drain cuts an export that nobody reads; its reader can tell, and goes on from its last whole line', async () => {
  const own = await openApp();
  const { secret } = await keyOf(['usage:read'], busy);
  const answer = await ask(secret, undefined, own);
  await own.drain();
  const part = await readAll(answer);
  expect(part.complete).toBe(false);
  const last = part.lines.at(-1);
  const rest = await readAll(await ask(secret, last?.createdAt));
  expect(rest.complete).toBe(true);
  expect(rest.lines[0]).toEqual(last);
  expect(new Set([...part.lines, ...rest.lines].map(({ id }) => id)).size).toBe(MANY_RECORDS);
});

test('a drain cuts an export that is still at its door', async () => {
  const own = await openApp();
  const { access } = own.services;
  const { secret } = await keyOf(['usage:read'], busy);
  const { authenticate } = access;
  let drained: Promise<void> | undefined;
  access.authenticate = (credentials) => {
    drained ??= own.drain();
    return authenticate(credentials);
  };
  await expect(ask(secret, undefined, own)).rejects.toThrow();
  await drained;
});
