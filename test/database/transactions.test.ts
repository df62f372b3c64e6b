import { expect, test } from 'vitest';
import { asSystem } from '../../src/base/database.ts';
import { openCore } from '../support/core.ts';

test.skipIf(process.env.MERCATO_TEST_DATABASE_URL === undefined)(
  'a process that stands still inside a transaction loses it, and its locks are free for others',
  { timeout: 30_000 },
  async () => {
    await using core = await openCore();
    const { id } = await core.tenant();
    let goOn = () => {};
    const others = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    let locked = () => {};
    const isLocked = new Promise<void>((resolve) => {
      locked = resolve;
    });
    const stuck = asSystem(core.db, async (tx) => {
      await tx.$executeRaw`update tenant set display_name = 'stuck' where id = ${id}::uuid`;
      locked();
      await others;
      await tx.$executeRaw`select 1`;
    });
    const lost = expect(stuck).rejects.toThrow();
    await isLocked;
    await asSystem(core.db, (tx) => tx.$executeRaw`update tenant set display_name = 'free' where id = ${id}::uuid`);
    goOn();
    await lost;
    const row = await asSystem(core.db, (tx) => tx.tenant.findUniqueOrThrow({ where: { id } }));
    expect(row.displayName).toBe('free');
  },
);
