import { describe, expect, it } from 'vitest';
import { type Principal, SCOPES, type Scope } from '../../src/access/principal.ts';
import { resolvers as access } from '../../src/access/resolvers.ts';
import { resolvers as billing } from '../../src/billing/resolvers.ts';
import { resolvers as prediction } from '../../src/prediction/resolvers.ts';
import { resolvers as usage } from '../../src/usage/resolvers.ts';

/** What each field of Query and Mutation of these contexts asks of its caller: a scope, credentials, the operator, or nothing. */
const ASKED: Record<string, Scope | 'credentials' | 'operator' | 'nothing'> = {
  viewer: 'credentials',
  apiKeys: 'key:read',
  signUp: 'nothing',
  signIn: 'nothing',
  refreshSession: 'nothing',
  signOut: 'nothing',
  createTenant: 'credentials',
  switchTenant: 'credentials',
  createApiKey: 'key:write',
  revokeApiKey: 'key:write',
  usage: 'usage:read',
  usageLimits: 'usage:read',
  usageAlerts: 'usage:read',
  createUsageLimit: 'billing:write',
  updateUsageLimit: 'billing:write',
  deleteUsageLimit: 'billing:write',
  wallet: 'billing:read',
  transfers: 'billing:read',
  periods: 'operator',
  addCredit: 'operator',
  createTransfer: 'operator',
  postTransfer: 'operator',
  voidTransfer: 'operator',
  reverseTransfer: 'operator',
  closePeriod: 'operator',
  predict: 'model:predict',
  cancelPrediction: 'model:predict',
};

type Resolve = (root: object, args: object, context: object) => unknown;
const fields = Object.fromEntries(
  [access, usage, billing, { Query: {}, ...prediction }].flatMap(({ Query, Mutation }) => Object.entries({ ...Query, ...Mutation })),
) as unknown as Record<string, Resolve>;

const caller = (scopes: readonly Scope[], isOperator = false): Principal => ({
  ...{ tenantId: 't', userId: 'u', apiKeyId: null, memberId: 'u', role: null },
  ...{ isOperator, scopes: new Set(scopes) },
});

/** The code of the refusal that comes before anything but the caller is looked at. */
async function refusalOf(field: string, principal: Principal | null): Promise<string | null> {
  try {
    await fields[field]?.({}, {}, { principal });
    return null;
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    return code === 'UNAUTHENTICATED' || code === 'FORBIDDEN' ? code : null;
  }
}

it('every field of these contexts is here', () => {
  expect(Object.keys(ASKED).sort()).toEqual(Object.keys(fields).sort());
});

describe.each(Object.entries(ASKED))('%s', (field, asked) => {
  it(`asks for ${asked}`, async () => {
    expect(await refusalOf(field, null)).toBe(asked === 'nothing' ? null : 'UNAUTHENTICATED');
    expect(await refusalOf(field, caller(SCOPES))).toBe(asked === 'operator' ? 'FORBIDDEN' : null);
    expect(await refusalOf(field, caller(SCOPES, true))).toBeNull();
    const needed: string[] = [];
    for (const scope of SCOPES) {
      const refusal = await refusalOf(
        field,
        caller(
          SCOPES.filter((other) => other !== scope),
          true,
        ),
      );
      if (refusal === 'FORBIDDEN') needed.push(scope);
    }
    expect(needed).toEqual(SCOPES.filter((scope) => scope === asked));
  });
});
