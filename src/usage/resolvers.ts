import { authorize } from '../access/access.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import { connection, globalId, type NodeType, pageRequest, parseGlobalId } from '../base/ids.ts';
import type { Resolvers } from '../generated/schema.ts';
import { type LimitView, quotasOf } from './usage.ts';

const SUBJECTS = { TENANT: 'Tenant', SUBSCRIPTION: 'Subscription', MEMBER: 'User', API_KEY: 'ApiKey' } as const;

export const resolvers = {
  Query: {
    usage: (_, { from, to, groupBy }, ctx) => {
      const { tenantId } = authorize(ctx.principal, 'usage:read');
      return ctx.read((tx) => ctx.usage.report(tx, { tenantId, from, to, groupBy }));
    },
    usageLimits: (_, __, ctx) => {
      const { tenantId } = authorize(ctx.principal, 'usage:read');
      return ctx.read((tx) => ctx.usage.limits(tx, tenantId));
    },
    usageAlerts: async (_, args, ctx) => {
      const { tenantId } = authorize(ctx.principal, 'usage:read');
      const page = pageRequest(args);
      return connection(await ctx.read((tx) => ctx.usage.alerts(tx, tenantId, page)), page);
    },
  },
  Mutation: {
    createUsageLimit: async (_, { input }, ctx) => {
      const { tenantId } = authorize(ctx.principal, 'billing:write');
      const { name, subject, measure, window, hard, alertPercents } = input;
      const subjectId = input.subjectId == null ? null : idOf('subjectId', SUBJECTS[subject], input.subjectId);
      const amount = amountOf('amount', input.amount);
      const burstUnits = input.burstUnits == null ? null : amountOf('burstUnits', input.burstUnits);
      const parts = { window: window ?? null, alertPercents: alertPercents ?? null };
      return {
        usageLimit: await ctx.usage.createLimit(tenantId, { name, subject, subjectId, measure, amount, burstUnits, hard, ...parts }),
      };
    },
    updateUsageLimit: async (_, { input }, ctx) => {
      const { tenantId } = authorize(ctx.principal, 'billing:write');
      const change = {
        name: input.name ?? null,
        amount: input.amount == null ? null : amountOf('amount', input.amount),
        burstUnits: input.burstUnits == null ? null : amountOf('burstUnits', input.burstUnits),
        hard: input.hard ?? null,
        alertPercents: input.alertPercents ?? null,
      };
      return { usageLimit: await ctx.usage.updateLimit(tenantId, limitIdOf(input.id), change) };
    },
    deleteUsageLimit: async (_, { input }, ctx) => {
      const { tenantId } = authorize(ctx.principal, 'billing:write');
      return { usageLimit: await ctx.usage.deleteLimit(tenantId, limitIdOf(input.id)) };
    },
  },
  Viewer: {
    usageLimits: (caller, _, ctx) => (caller.scopes.has('model:predict') ? ctx.read((tx) => ctx.usage.limitsOf(tx, caller)) : null),
  },
  UsageRow: {
    predictions: (row) => row.predictions.toString(),
    units: (row) => row.units.toString(),
    computeMicros: (row) => row.computeMicros.toString(),
  },
  UsageLimit: {
    id: (limit) => globalId('UsageLimit', limit.id),
    subjectId: (limit) => globalId(SUBJECTS[limit.subject], limit.subjectId),
    amount: (limit) => limit.amount.toString(),
    burstUnits: (limit) => limit.burstUnits?.toString() ?? null,
    used: (limit) => limit.used.toString(),
    inFlight: (limit) => limit.inFlight.toString(),
    remaining: (limit) => remainingOf(limit.burstUnits ?? limit.amount, limit).toString(),
  },
  UsageAlert: {
    id: (alert) => globalId('UsageAlert', alert.id),
    limitId: (alert) => globalId('UsageLimit', alert.limitId),
    used: (alert) => alert.used.toString(),
    amount: (alert) => alert.amount.toString(),
  },
  Subscription: {
    quota: async (subscription, _, ctx) => {
      const quota = await ctx.loaders.load(quotasOf, subscription.listingId);
      if (quota === null) throw new MercatoError('NOT_FOUND');
      const limit = subscription.plan.terms.quotaUnits;
      return {
        limit: limit?.toString() ?? null,
        used: quota.used.toString(),
        inFlight: quota.inFlight.toString(),
        remaining: limit === null ? null : remainingOf(limit, quota).toString(),
        resetsAt: quota.resetsAt,
      };
    },
  },
} satisfies Resolvers;

function remainingOf(amount: bigint, { used, inFlight }: Pick<LimitView, 'used' | 'inFlight'>): bigint {
  const left = amount - used - inFlight;
  return left > 0n ? left : 0n;
}

function amountOf(field: string, text: string): bigint {
  if (/^\d{1,19}$/.test(text)) return BigInt(text);
  throw badInput(field, `${field} must be a whole number as a decimal string.`, { given: text.slice(0, 40), expected: '0 to 10^18' });
}

function idOf(field: string, type: NodeType, id: string): string {
  const parsed = parseGlobalId(id);
  if (parsed?.type === type) return parsed.id;
  throw badInput(field, `${field} must be the global id of a ${type}.`, { given: id.slice(0, 120), expected: `the id of a ${type}` });
}

/** What is no id is no limit. */
function limitIdOf(id: string): string {
  const parsed = parseGlobalId(id);
  if (parsed?.type !== 'UsageLimit') throw new MercatoError('NOT_FOUND');
  return parsed.id;
}
