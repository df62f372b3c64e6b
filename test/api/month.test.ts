import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { createApp } from '../../src/app.ts';
import { readConfig } from '../../src/config.ts';
import { asAdmin } from '../support/admin.ts';
import { log } from '../support/core.ts';
import { openTestDatabase } from '../support/database.ts';

test('a server closes the months that ended while none ran', async () => {
  await using stack = new AsyncDisposableStack();
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-'));
  stack.defer(() => rm(dataDir, { recursive: true, force: true }));
  const db = stack.use(await openTestDatabase());
  const clock = (body: string) =>
    `create or replace function mercato_now() returns timestamptz language sql volatile as $$ select ${body} $$`;
  await asAdmin(db, async (tx) => {
    await tx.$executeRawUnsafe(clock("timestamptz '2020-05-15T12:00:00Z'"));
    await tx.$executeRaw`select mercato_ensure_partitions(1)`;
    await tx.$executeRawUnsafe(clock('clock_timestamp()'));
  });
  const env = { MERCATO_DATA: dataDir, MERCATO_PORT: '0', MERCATO_SEED: '0', MERCATO_DEVICES: 'cpu' };
  const app = stack.use(await createApp(readConfig(env), { db, log }));
  expect((await app.services.billing.periods()).map(({ period }) => period)).toEqual(['2020-06', '2020-05']);
});
