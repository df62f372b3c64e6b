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
    periods: (_, __, ctx) => {
      authorizeOperator(ctx.principal);
      return ctx.billing.periods();
    },
  },
  Mutation: {
    addCredit: (_, { input }, ctx) => {
      authorizeOperator(ctx.principal);
      const { amountNanos, note, idempotencyKey } = input;
      return ctx.billing.addCredit(tenantOf(input), { amountNanos: nanosOf(amountNanos), note: note ?? null, idempotencyKey });
    },
    createTransfer: async (_, { input }, ctx) => {
      authorizeOperator(ctx.principal);
      const { id, kind, direction, amountNanos, pending, timeoutMs, note } = input;
      const rest = { pending, timeoutMs: timeoutMs ?? null, note: note ?? null, direction: direction ?? null };
      return { transfer: await ctx.billing.createTransfer(tenantOf(input), { id, kind, amountNanos: nanosOf(amountNanos), ...rest }) };
    },
    postTransfer: async (_, { input }, ctx) => {
      authorizeOperator(ctx.principal);
      const amountNanos = typeof input.amountNanos === 'string' ? nanosOf(input.amountNanos) : null;
      const pendingId = transferId('pendingId', input.pendingId);
      return { transfer: await ctx.billing.postTransfer({ id: input.id, pendingId, amountNanos, note: input.note ?? null }) };
    },
    voidTransfer: async (_, { input }, ctx) => {
      authorizeOperator(ctx.principal);
      const pendingId = transferId('pendingId', input.pendingId);
      return { transfer: await ctx.billing.voidTransfer({ id: input.id, pendingId, note: input.note ?? null }) };
    },
    reverseTransfer: async (_, { input }, ctx) => {
      authorizeOperator(ctx.principal);
      const reversesId = transferId('reversesId', input.reversesId);
      return { transfer: await ctx.billing.reverseTransfer({ id: input.id, reversesId, note: input.note ?? null }) };
    },
    closePeriod: async (_, { input }, ctx) => {
      authorizeOperator(ctx.principal);
      return { period: await ctx.billing.closePeriod(input.period) };
    },
  },
  Transfer: {
    id: (transfer) => globalId('Transfer', transfer.id),
    pendingId: ({ pendingId }) => pendingId && globalId('Transfer', pendingId),
    reversesId: ({ reversesId }) => reversesId && globalId('Transfer', reversesId),
  },
  Money: { nanos: (money) => showMoney(money).nanos },
} satisfies Resolvers;

function nanosOf(text: string): bigint {
  if (/^\d{1,19}$/.test(text)) return BigInt(text);
  throw badInput('amountNanos', 'amountNanos must be a whole number as a decimal string.', {
    given: text.slice(0, 40),
    expected: '1 to 10^18',
  });
}

function transferId(field: string, text: string): string {
  const parsed = parseGlobalId(text);
  if (parsed?.type !== 'Transfer') throw badInput(field, `${field} must be the global id of a Transfer.`);
  return parsed.id;
}

function tenantOf(input: {
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
