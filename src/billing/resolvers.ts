import { authorize, authorizeOperator } from '../access/access.ts';
import { badInput } from '../base/errors.ts';
import { connection, globalId, pageRequest, parseGlobalId } from '../base/ids.ts';
import { showMoney } from '../base/money.ts';
import type { Resolvers } from '../generated/schema.ts';

export const resolvers = {
  Query: {
    wallet: (_, __, ctx) => {
      const { tenantId } = authorize(ctx.principal, 'billing:read');
      return ctx.read((tx) => ctx.billing.wallet(tx, tenantId));
    },
    transfers: async (_, args, ctx) => {
      const { tenantId } = authorize(ctx.principal, 'billing:read');
      const page = pageRequest(args);
      return connection(await ctx.read((tx) => ctx.billing.transfers(tx, tenantId, page)), page);
    },
  },
  Mutation: {
    addCredit: (_, { input }, ctx) => {
      authorizeOperator(ctx.principal);
      const { amountNanos, note, idempotencyKey } = input;
      if (!/^\d{1,19}$/.test(amountNanos)) {
        throw badInput('amountNanos', 'amountNanos must be a whole number as a decimal string.', {
          given: amountNanos.slice(0, 40),
          expected: '1 to 10^18',
        });
      }
      return ctx.billing.addCredit(creditedTenant(input), { amountNanos: BigInt(amountNanos), note: note ?? null, idempotencyKey });
    },
  },
  Transfer: { id: (transfer) => globalId('Transfer', transfer.id) },
  Money: { nanos: (money) => showMoney(money).nanos },
} satisfies Resolvers;

function creditedTenant(input: {
  tenantId?: string | null | undefined;
  tenantName?: string | null | undefined;
}): { id: string } | { name: string } {
  const id = input.tenantId ?? null;
  const name = input.tenantName ?? null;
  if ((id === null) === (name === null)) throw badInput('tenantId', 'Give either tenantId or tenantName.');
  if (name !== null) return { name };
  const parsed = parseGlobalId(id ?? '');
  if (parsed?.type !== 'Tenant') throw badInput('tenantId', 'tenantId must be the global id of a Tenant.');
  return { id: parsed.id };
}
