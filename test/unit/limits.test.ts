import { describe, expect, it } from 'vitest';
import type { Database } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { shortOfLimit } from '../../src/prediction/lease-refusals.ts';
import { createUsage, type LockedLimit, roomOf } from '../../src/usage/usage.ts';

const LIMIT: LockedLimit = {
  ...{ counterId: newId(), limitId: newId(), name: 'cap', subject: 'TENANT', subjectId: newId(), measure: 'UNITS', window: 'DAY' },
  ...{ amount: 10n, burstUnits: null, hard: true, used: 3n, leased: 4n, aheadUnits: 0, resetsAt: null, windowMs: 1_000, untold: false },
};
const ANY = Number.POSITIVE_INFINITY;
const BURST = { window: 'MINUTE', burstUnits: 5n, amount: 60n } as const;

describe('a limit has room', () => {
  it.each<[string, Partial<LockedLimit>, bigint, { units: number; slots: number }, bigint?]>([
    ['for what is neither used nor leased', {}, 1n, { units: 3, slots: ANY }],
    ['for nothing where it was lowered', { amount: 5n }, 1n, { units: 0, slots: ANY }],
    ['for any number where it is soft', { hard: false }, 1n, { units: ANY, slots: ANY }],
    ['for as many units as the rest pays', { measure: 'SPEND', amount: 12n }, 2n, { units: 2, slots: ANY }],
    ['for the free units and as many as the rest pays', { measure: 'SPEND', amount: 12n }, 2n, { units: 5, slots: ANY }, 3n],
    ['for the free units where all is spent', { measure: 'SPEND', amount: 0n }, 2n, { units: 3, slots: ANY }, 3n],
    ['for any number of units without a price', { measure: 'SPEND' }, 0n, { units: ANY, slots: ANY }],
    ['for calls in flight', { measure: 'CONCURRENCY', window: null }, 1n, { units: ANY, slots: 3 }],
    ['for a burst', BURST, 1n, { units: 5, slots: ANY }],
    ['for what is left of a burst', { ...BURST, aheadUnits: 3 }, 1n, { units: 2, slots: ANY }],
    ['for nothing while a burst fills', { ...BURST, aheadUnits: 60 }, 1n, { units: 0, slots: ANY }],
  ])('%s', (_, given, unitNanos, room, free = 0n) => {
    expect(roomOf({ ...LIMIT, ...given }, { unitNanos, free })).toEqual(room);
  });
});

describe('a limit refuses', () => {
  it.each<[string, Partial<LockedLimit>, number, string | null, boolean, bigint?]>([
    ['nothing that it has room for', {}, 3, null, false],
    ['what it has no room for', {}, 4, 'QUOTA_EXCEEDED', false],
    ['not beyond now, where calls in flight fill it', { used: 3n, leased: 7n }, 1, 'QUOTA_EXCEEDED', false],
    ['all until its window ends, once it is used', { used: 10n, leased: 0n }, 1, 'QUOTA_EXCEEDED', true],
    ['all until its window ends, once all is spent', { measure: 'SPEND', used: 10n, leased: 0n }, 1, 'QUOTA_EXCEEDED', true],
    ['not beyond now, where free units may come back', { measure: 'SPEND', used: 10n, leased: 0n }, 1, 'QUOTA_EXCEEDED', false, 2n],
    ['for a moment, where it is of a minute', { window: 'MINUTE', used: 10n, leased: 0n }, 1, 'RATE_LIMITED', false],
    [
      'for a moment, where calls in flight are as many',
      { measure: 'CONCURRENCY', window: null, used: 0n, leased: 10n },
      1,
      'RATE_LIMITED',
      false,
    ],
  ])('%s', (_, given, need, code, exhausted, leasedFree = 0n) => {
    const short = shortOfLimit([{ ...LIMIT, ...given }], need, { unitNanos: 1n, free: 0n, leasedFree });
    expect([short?.code ?? null, short?.exhaustedMs !== undefined]).toEqual([code, exhausted]);
  });
});

describe('a limit is in form before anybody is asked:', () => {
  const usage = createUsage({ db: {} as Database, announcer: { publish: async () => 0n, confirmed: async () => {} }, currency: 'EUR' });
  const plain = {
    name: 'cap',
    subject: 'TENANT',
    subjectId: null,
    measure: 'UNITS',
    window: 'DAY',
    amount: 1n,
    burstUnits: null,
    hard: true,
  } as const;
  const minute = { window: 'MINUTE', burstUnits: 3n } as const;
  const calls = { measure: 'CONCURRENCY', window: null } as const;
  it.each<[string, Partial<Parameters<typeof usage.createLimit>[1]>]>([
    ...['no spaces', '', '-a', 'x'.repeat(65), 'plan', 'plan-requests', 'own-calls'].map((name): [string, object] => ['name', { name }]),
    ['amount', { amount: -1n }],
    ['amount', { amount: 10n ** 12n + 1n }],
    ['amount', { measure: 'SPEND', amount: 10n ** 18n + 1n }],
    ['amount', { ...calls, amount: 100_001n }],
    ['window', { window: null }],
    ['window', { measure: 'CONCURRENCY' }],
    ['hard', { ...calls, hard: false }],
    ['burstUnits', { burstUnits: 3n }],
    ['burstUnits', { ...minute, measure: 'SPEND' }],
    ['burstUnits', { ...minute, hard: false }],
    ['burstUnits', { ...minute, amount: 0n }],
    ['burstUnits', { ...minute, burstUnits: 0n }],
    ['burstUnits', { ...minute, burstUnits: 10n ** 12n + 1n }],
    ...[[0], [1_001], [1.5], [50, 50], Array.from({ length: 11 }, (_, i) => i + 1)].map((alertPercents): [string, object] => [
      'alertPercents',
      { alertPercents },
    ]),
    ['alertPercents', { ...calls, alertPercents: [50] }],
    ['alertPercents', { ...minute, alertPercents: [50] }],
  ])('%s, not %o', async (field, given) => {
    const created = usage.createLimit(newId(), { ...plain, alertPercents: null, ...given });
    await expect(created).rejects.toMatchObject({ code: 'BAD_USER_INPUT', data: { field } });
  });
});
