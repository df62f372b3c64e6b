import { authorize } from '../access/access.ts';
import type { Resolvers } from '../generated/schema.ts';

export const resolvers = {
  Query: {
    usage: (_, { from, to, groupBy }, ctx) => {
      const { tenantId } = authorize(ctx.principal, 'usage:read');
      return ctx.read((tx) => ctx.usage.report(tx, { tenantId, from, to, groupBy }));
    },
  },
  UsageRow: {
    predictions: (row) => row.predictions.toString(),
    units: (row) => row.units.toString(),
    computeMicros: (row) => row.computeMicros.toString(),
  },
} satisfies Resolvers;
