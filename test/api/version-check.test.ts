import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { createApp } from '../../src/app.ts';
import { asTenant } from '../../src/base/database.ts';
import { globalId } from '../../src/base/ids.ts';
import { createLog } from '../../src/base/log.ts';
import { DEFAULT_BOUNDS, insertVersion } from '../../src/catalog/versions.ts';
import { readConfig } from '../../src/config.ts';
import { Client } from '../support/client.ts';
import { openTestDatabase } from '../support/database.ts';
import { createKey, signUp } from '../support/people.ts';

const CHECK = `query ($id: ID!) { node(id: $id) { ... on ModelVersion { state check { state ahead failedAttempts problem nextAttemptAt } } } }`;

test('a publisher asks how far the check of its version is; a key that may not read models is not told', { timeout: 60_000 }, async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-'));
  {
    await using db = await openTestDatabase();
    const config = readConfig({ MERCATO_DATA: dataDir, MERCATO_PORT: '0', MERCATO_SEED: '0', MERCATO_DEVICES: 'cpu' });
    await using app = await createApp(config, { db, log: createLog('silent') });
    using client = new Client(app.url);
    const { token } = await signUp(client, 'maker');
    const { tenantId } = (await app.services.access.authenticate({ authorization: `Bearer ${token}` })) ?? { tenantId: '' };
    const { id: modelId } = await app.services.catalog.createModel(tenantId, { name: 'model' });
    const file = { sha256: randomBytes(32).toString('hex'), sizeBytes: 1 };
    const version = await asTenant(db, tenantId, (tx) =>
      insertVersion(tx, { tenantId, modelId, ...file, ...DEFAULT_BOUNDS, trusted: false }),
    );
    const ask = (by: string) => client.ask(CHECK, { id: globalId('ModelVersion', version.id) }, by);
    const check = { state: 'WAITING', ahead: 0, failedAttempts: 0, problem: null, nextAttemptAt: null };
    expect(await ask(token)).toEqual({ node: { state: 'DRAFT', check } });
    const { secret } = await createKey(client, token);
    expect(await ask(secret)).toMatchObject({ node: { check: null } });
  }
  await rm(dataDir, { recursive: true, force: true });
});
