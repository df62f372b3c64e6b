import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { type Heart, openInvalidations } from '../../src/access/invalidation.ts';
import { prune } from '../../src/access/process-rows.ts';
import { asSystem, asTenant, type Database } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { createLog } from '../../src/base/log.ts';
import { openTestDatabase } from '../support/database.ts';
import { pending, TestClock } from './access-setup.ts';

let db: Database;
beforeAll(async () => {
  db = await openTestDatabase();
});
afterAll(() => db[Symbol.asyncDispose]());

async function open(clock = new TestClock(), manual = true): Promise<Heart> {
  return openInvalidations({ db, log: createLog('silent'), clock, manual });
}

function publish(heart: Heart, subjects: readonly string[]): Promise<bigint> {
  return asTenant(db, newId(), (tx) => heart.publish(tx, 'listing', subjects));
}

function remember(heart: Heart): string[] {
  const forgotten: string[] = [];
  heart.on('listing', (id) => void forgotten.push(id));
  return forgotten;
}

it('a change is confirmed when every process has forgotten its subjects, in the order of commits', async () => {
  await using first = await open();
  await using second = await open(undefined, false);
  const [a, b] = [remember(first), remember(second)];
  const subjects = [newId(), newId(), newId()];
  const seq = await publish(first, subjects);
  const confirmed = first.confirmed(seq);
  await first.beat();
  await confirmed;
  expect([a, b]).toEqual([subjects, subjects]);
});

it('a process whose LISTEN hears nothing forgets with its next heartbeat', async () => {
  const deaf: Database = { ...db, listen: async () => undefined, [Symbol.asyncDispose]: async () => undefined };
  await using heart = await openInvalidations({ db: deaf, log: createLog('silent'), clock: new TestClock(), manual: false });
  const forgotten = remember(heart);
  const subject = newId();
  await publish(heart, [subject]);
  await vi.waitFor(() => expect(forgotten).toEqual([subject]), 5_000);
});

it('a live process that has not confirmed is waited for, until it confirms or its heartbeat is old', async () => {
  await using heart = await open();
  const other = newId();
  const setOther = (confirmedSeq: bigint, ageS: number) =>
    asSystem(
      db,
      (tx) => tx.$executeRaw`
      insert into server_process values (${other}::uuid, ${confirmedSeq}, mercato_now() - make_interval(secs => ${ageS}::int), mercato_now())
      on conflict (id) do update set confirmed_seq = excluded.confirmed_seq, heartbeat_at = excluded.heartbeat_at`,
    );
  for (const end of ['confirms', 'dies'] as const) {
    const seq = await publish(heart, [newId()]);
    await setOther(seq - 1n, -3600);
    const confirmed = heart.confirmed(seq);
    await heart.beat();
    await heart.beat();
    expect(await pending(confirmed)).toBe(true);
    await (end === 'confirms' ? setOther(seq, -3600) : setOther(seq - 1n, 3));
    await confirmed;
  }
});

it('a live process is waited for no longer than any call may take', { timeout: 5_000 }, async () => {
  const clock = new TestClock();
  await using heart = await open(clock);
  const seq = await publish(heart, [newId()]);
  const other = newId();
  await asSystem(
    db,
    (tx) => tx.$executeRaw`
      insert into server_process values (${other}::uuid, ${seq - 1n}, mercato_now() + interval '1 hour', mercato_now())`,
  );
  const confirmed = heart.confirmed(seq);
  clock.pass(90_001);
  await expect(confirmed).rejects.toMatchObject({ code: 'OVERLOADED' });
  await asSystem(db, (tx) => tx.serverProcess.delete({ where: { id: other } }));
});

it('a process confirms only when its handlers have resolved, and beats on meanwhile', async () => {
  await using heart = await open();
  const gate = Promise.withResolvers<void>();
  heart.on('listing', () => gate.promise);
  const seq = await publish(heart, [newId()]);
  const confirmed = heart.confirmed(seq);
  await heart.beat();
  await heart.beat();
  expect([await pending(confirmed), heart.isFresh()]).toEqual([true, true]);
  gate.resolve();
  await confirmed;
});

it('a handler that fails is called again before the process confirms', async () => {
  await using heart = await open();
  const forget = vi.fn(() => {});
  forget.mockImplementationOnce(() => {
    throw new Error('once');
  });
  heart.on('listing', forget);
  const seq = await publish(heart, [newId()]);
  await heart.confirmed(seq);
  expect(forget).toHaveBeenCalledTimes(2);
});

it('memory is fresh for a lease from the start of a heartbeat', async () => {
  const clock = new TestClock();
  await using heart = await open(clock);
  clock.pass(1_999);
  expect(heart.isFresh()).toBe(true);
  clock.pass(1);
  expect(heart.isFresh()).toBe(false);
  await heart.beat();
  expect(heart.isFresh()).toBe(true);
});

it('after a lapse, in which others did not wait, memory is trusted only once the handlers are done', async () => {
  const clock = new TestClock();
  await using heart = await open(clock);
  const gate = Promise.withResolvers<void>();
  heart.on('listing', () => gate.promise);
  await publish(heart, [newId()]);
  clock.pass(2_000);
  await heart.beat();
  expect(heart.isFresh()).toBe(false);
  gate.resolve();
  await vi.waitFor(() => expect(heart.isFresh()).toBe(true));
});

it('a process that was removed while it was silent never trusts its memory again', async () => {
  await using silent = await open();
  await asSystem(db, (tx) => tx.$executeRaw`update server_process set heartbeat_at = mercato_now() - interval '61 minutes'`);
  await using other = await open();
  await silent.beat();
  expect([silent.isFresh(), other.isFresh()]).toEqual([false, true]);
  await silent.beat();
  expect(silent.isFresh()).toBe(false);
});

it('a process signs off, so that nobody waits for it, and starts from what is committed', async () => {
  await using heart = await open();
  const gone = await open();
  await publish(heart, [newId()]);
  await gone[Symbol.asyncDispose]();
  expect(gone.isFresh()).toBe(false);
  await using late = await open();
  const forgotten = remember(late);
  const seq = await publish(heart, [newId()]);
  await Promise.all([heart.beat(), late.beat()]);
  await heart.confirmed(seq);
  expect(forgotten).toHaveLength(1);
});

it('a change of no subject is confirmed at once', async () => {
  await using heart = await open();
  await heart.confirmed(await publish(heart, []));
});

it('a process that has signed off is not there', async () => {
  const heart = await open();
  await heart[Symbol.asyncDispose]();
  expect(await asSystem(db, (tx) => tx.serverProcess.count({ where: { id: heart.processId } }))).toBe(0);
});

it('memory is fresh from the start of a heartbeat, however long that takes', async () => {
  const clock = new TestClock();
  const transaction = db.systemClient.$transaction.bind(db.systemClient) as (fn: unknown, options: unknown) => Promise<unknown>;
  const slowly = async (fn: unknown, options: unknown) => {
    clock.pass(400);
    return transaction(fn, options);
  };
  const systemClient = { $transaction: slowly } as unknown as Database['systemClient'];
  const slow: Database = { ...db, systemClient, listen: db.listen, [Symbol.asyncDispose]: async () => undefined };
  await using heart = await openInvalidations({ db: slow, log: createLog('silent'), clock, manual: true });
  await heart.beat();
  clock.pass(1_199);
  expect(heart.isFresh()).toBe(true);
  clock.pass(1);
  expect(heart.isFresh()).toBe(false);
});

it('a process confirms nothing before what came earlier', async () => {
  await using heart = await open();
  const gate = Promise.withResolvers<void>();
  const [first, second] = [newId(), newId()];
  heart.on('listing', (id) => (id === first ? gate.promise : undefined));
  const seq = await publish(heart, [first]);
  await heart.beat();
  await publish(heart, [second]);
  for (let i = 0; i < 3; i++) await heart.beat();
  const row = await asSystem(db, (tx) => tx.serverProcess.findUniqueOrThrow({ where: { id: heart.processId } }));
  expect(row.confirmedSeq).toBeLessThan(seq);
  gate.resolve();
});

it('a process says with each heartbeat that it lives', async () => {
  await using heart = await open();
  await asSystem(db, (tx) => tx.serverProcess.update({ where: { id: heart.processId }, data: { heartbeatAt: new Date(0) } }));
  await heart.beat();
  const row = await asSystem(db, (tx) => tx.serverProcess.findUniqueOrThrow({ where: { id: heart.processId } }));
  expect(row.heartbeatAt.getTime()).toBeGreaterThan(0);
});

it('a process is forgotten an hour after it was silent, and what it may have missed only later', async () => {
  const [kept, gone] = [newId(), newId()];
  await asSystem(db, async (tx) => {
    for (const [id, minutes] of [
      [kept, 59],
      [gone, 61],
    ] as const) {
      await tx.$executeRaw`
        insert into server_process values (${id}::uuid, 10 ^ 9, mercato_now() - make_interval(mins => ${minutes}::int), mercato_now())`;
      await tx.$executeRaw`
        insert into invalidation (kind, subject_id, created_at)
        values ('listing', ${id}::uuid, mercato_now() - make_interval(mins => ${2 * minutes}::int))`;
    }
    await prune(tx);
    expect(await tx.serverProcess.findMany({ where: { id: { in: [kept, gone] } }, select: { id: true } })).toEqual([{ id: kept }]);
    expect(await tx.invalidation.findMany({ where: { subjectId: { in: [kept, gone] } }, select: { subjectId: true } })).toEqual([
      { subjectId: kept },
    ]);
    await tx.serverProcess.delete({ where: { id: kept } });
  });
});
