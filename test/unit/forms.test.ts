import { describe, expect, it } from 'vitest';
import { createKeyMemory } from '../../src/access/key-memory.ts';
import { SCOPES } from '../../src/access/principal.ts';
import { resolvers as access } from '../../src/access/resolvers.ts';
import { createSessions } from '../../src/access/sessions.ts';
import type { Database } from '../../src/base/database.ts';
import { globalId, newId } from '../../src/base/ids.ts';
import { createLog } from '../../src/base/log.ts';
import { resolvers as billing } from '../../src/billing/resolvers.ts';
import { parseExport } from '../../src/usage/export.ts';
import { resolvers as usage } from '../../src/usage/resolvers.ts';

const KEY = { tenantId: newId(), userId: null, apiKeyId: newId(), memberId: null, role: null, isOperator: false, scopes: new Set(SCOPES) };
const OPERATOR = { ...KEY, userId: newId(), apiKeyId: null, isOperator: true };

type Resolve = (root: object, args: object, context: object) => unknown;
const mutations = { ...access.Mutation, ...billing.Mutation, ...usage.Mutation } as unknown as Record<string, Resolve>;

/** `CODE field` of the refusal of an input; 'passed on' where the service was asked. */
async function refusalOf(mutation: string, input: object): Promise<string> {
  const service = new Proxy({}, { get: () => () => Promise.reject(new Error('passed on')) });
  const context = { principal: OPERATOR, access: service, billing: service, usage: service };
  try {
    await mutations[mutation]?.({}, { input }, context);
    return 'answered';
  } catch (error) {
    const { code, data, message } = error as Error & { code?: string; data?: { field?: string } };
    return code === undefined ? message : [code, data?.field].filter(Boolean).join(' ');
  }
}

const uuid = newId();
const transfer = {
  id: uuid,
  kind: 'PAYOUT',
  amountNanos: '1',
  tenantName: 'shop',
  pendingId: globalId('Transfer', uuid),
  reversesId: globalId('Transfer', uuid),
};
const limit = {
  name: 'cap',
  subject: 'API_KEY',
  subjectId: globalId('ApiKey', uuid),
  measure: 'UNITS',
  amount: '1',
  id: globalId('UsageLimit', uuid),
};
const other = { id: globalId('Plan', uuid) };

describe('what is sent is looked at before anybody is asked:', () => {
  const cases: [string, object, object, string][] = [
    ['createTransfer', transfer, {}, 'passed on'],
    ...['1e3', '1.5', '-1', '', '0x1', '1'.repeat(20)].map((amountNanos): [string, object, object, string] => [
      'createTransfer',
      transfer,
      { amountNanos },
      'BAD_USER_INPUT amountNanos',
    ]),
    ['createTransfer', transfer, { tenantName: null }, 'BAD_USER_INPUT tenantId'],
    ['createTransfer', transfer, { tenantId: globalId('Tenant', uuid) }, 'BAD_USER_INPUT tenantId'],
    ['createTransfer', transfer, { tenantName: null, tenantId: globalId('Tenant', uuid) }, 'passed on'],
    ['createTransfer', transfer, { tenantName: null, tenantId: other.id }, 'BAD_USER_INPUT tenantId'],
    ['postTransfer', transfer, {}, 'passed on'],
    ['postTransfer', transfer, { pendingId: other.id }, 'BAD_USER_INPUT pendingId'],
    ['voidTransfer', transfer, { pendingId: uuid }, 'BAD_USER_INPUT pendingId'],
    ['reverseTransfer', transfer, { reversesId: other.id }, 'BAD_USER_INPUT reversesId'],
    ['createUsageLimit', limit, {}, 'passed on'],
    ['createUsageLimit', limit, { amount: '1e3' }, 'BAD_USER_INPUT amount'],
    ['createUsageLimit', limit, { burstUnits: '' }, 'BAD_USER_INPUT burstUnits'],
    ['createUsageLimit', limit, { subjectId: other.id }, 'BAD_USER_INPUT subjectId'],
    ['createUsageLimit', limit, { subjectId: globalId('User', uuid) }, 'BAD_USER_INPUT subjectId'],
    ['updateUsageLimit', limit, {}, 'passed on'],
    ['updateUsageLimit', limit, other, 'NOT_FOUND'],
    ['deleteUsageLimit', limit, other, 'NOT_FOUND'],
    ['revokeApiKey', { id: globalId('ApiKey', uuid) }, {}, 'passed on'],
    ['revokeApiKey', other, {}, 'NOT_FOUND'],
    ['switchTenant', { tenantId: other.id }, {}, 'NOT_FOUND'],
  ];
  it.each(cases)('%s %o with %o', async (mutation, right, change, refusal) => {
    expect(await refusalOf(mutation, { ...right, ...change })).toBe(refusal);
  });
});

it('an export says its span in instants, and one of two formats', () => {
  const span = { from: '2026-11-01', to: '2026-11-02T00:00:00Z' };
  expect(parseExport({ ...span, format: 'csv' })).toEqual({ from: new Date(span.from), to: new Date(span.to), format: 'csv' });
  const field = (given: object) => {
    try {
      parseExport({ ...span, ...given });
      return null;
    } catch (error) {
      return (error as { data?: { field?: string } }).data?.field;
    }
  };
  expect(
    [{ format: 'xml' }, { from: 'yesterday' }, { to: '2026-11-31T99:00:00Z' }, { to: undefined }, { from: ['2026-11-01'] }].map(field),
  ).toEqual([...['format', 'from', 'to', 'to', 'from']]);
});

it('what is left of a limit is not below nothing', () => {
  const { remaining } = usage.UsageLimit as unknown as { remaining(limit: object): string };
  expect(remaining({ amount: 5n, burstUnits: null, used: 4n, inFlight: 3n })).toBe('0');
  expect(remaining({ amount: 5n, burstUnits: 9n, used: 4n, inFlight: 3n })).toBe('2');
});

it('an API key switches no tenant, and what cannot be a refresh token is not looked up', async () => {
  const sessions = createSessions({} as Database, {
    sign: () => ({ accessToken: '', accessTokenExpiresAt: new Date(0) }),
    verify: () => KEY,
  });
  await expect(sessions.refresh('nonsense', null)).rejects.toMatchObject({ code: 'UNAUTHENTICATED' });
  await expect(sessions.switchTenant(KEY, uuid, null)).rejects.toMatchObject({ code: 'FORBIDDEN' });
});

it('what cannot be a key is refused without a look-up', async () => {
  const invalidations = {
    publish: async () => 0n,
    confirmed: async () => {},
    caughtUp: async () => {},
    on: () => {},
    isFresh: () => true,
    refresh: async () => {},
  };
  const clock = { wallMs: () => 0, monotonicMs: () => 0 };
  const memory = createKeyMemory({ db: {} as Database, log: createLog('silent'), clock, invalidations, noteUse: () => {} });
  await expect(memory.authenticate('mk_nonsense')).rejects.toMatchObject({ code: 'UNAUTHENTICATED' });
});
