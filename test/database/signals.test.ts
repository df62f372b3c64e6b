import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { asSystem, asTenant, type Database } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { openSignals, publish, type Signals } from '../../src/base/signals.ts';
import { administer, openTestDatabase } from '../support/database.ts';

let db: Database;
let signals: Signals;
beforeAll(async () => {
  db = await openTestDatabase();
  signals = await openSignals(db);
});
afterAll(() => db[Symbol.asyncDispose]());

const publishOne = (subject: string) => asTenant(db, newId(), (tx) => publish(tx, 'thing', subject));

function count(topic: string, subject: string): { heard: number; end(): void } {
  const state = { heard: 0, end: signals.subscribe(topic, subject, () => void state.heard++) };
  return state;
}

it('a signal is heard after the commit, by the listeners of its topic and subject alone', async () => {
  const [own, other, elsewhere] = [count('thing', 'a'), count('thing', 'b'), count('matter', 'a')];
  await asTenant(db, newId(), async (tx) => {
    await publish(tx, 'thing', 'a');
    expect(own.heard).toBe(0);
  });
  await vi.waitFor(() => expect(own.heard).toBe(1));
  expect([other.heard, elsewhere.heard]).toEqual([0, 0]);
});

it('a transaction that is undone says nothing, and a listener that ended hears nothing', async () => {
  const [open, ended] = [count('thing', 'c'), count('thing', 'c')];
  ended.end();
  const undone = asTenant(db, newId(), async (tx) => {
    await publish(tx, 'thing', 'c');
    throw new Error('undone');
  });
  await expect(undone).rejects.toThrow('undone');
  await publishOne('c');
  await vi.waitFor(() => expect(open.heard).toBe(1));
  expect(ended.heard).toBe(0);
});

it('changes yields at the start, takes signals together while its consumer is busy, and ends when aborted', async () => {
  const abort = new AbortController();
  const changes = signals.changes('thing', 'd', abort.signal);
  expect(await changes.next()).toEqual({ done: false, value: undefined });
  const witness = count('thing', 'd');
  await publishOne('d');
  await publishOne('d');
  await vi.waitFor(() => expect(witness.heard).toBe(2));
  expect((await changes.next()).done).toBe(false);
  const waiting = changes.next();
  abort.abort();
  expect((await waiting).done).toBe(true);
});

it('changes yields again when a lost LISTEN connection is restored', async ({ skip }) => {
  if (db.kind === 'embedded') skip('it listens without a connection');
  const abort = new AbortController();
  const changes = signals.changes('thing', 'e', abort.signal);
  await changes.next();
  const [row] = await asSystem(db, (tx) => tx.$queryRaw<{ name: string }[]>`select current_database()::text as name`);
  // Only this test's own database: others' listeners stay.
  await administer(
    process.env.MERCATO_TEST_DATABASE_URL ?? '',
    `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mercato listener' and datname = '${row?.name}'`,
  );
  expect((await changes.next()).done).toBe(false);
  const witness = count('thing', 'e');
  await publishOne('e');
  await vi.waitFor(() => expect(witness.heard).toBe(1));
  abort.abort();
});
